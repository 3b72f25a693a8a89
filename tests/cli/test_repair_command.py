"""`truecue repair`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import test_cli

from truecue.audit.audit import Audit
from truecue.audit.verdicts import COLUMNS
from truecue.cli.main import main
from truecue.report.repair_words import headline

_cache, cli = test_cli._cache, test_cli.cli  # the same surroundings as for the other commands

CPU = ["--device", "cpu", "--threads", "1"]
QUICK = ["--set", "plan.epochs=2", "--arch", "conv3", "--set", "features=2"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of a network for gratings, a feature of each class judged spurious."""
    out = tmp_path_factory.mktemp("audits") / "audit"
    answers = out.parent / "answers.csv"
    command = ["audit", "gratings", "--out", out, "--seed", 4, *QUICK, *CPU, "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(out.parent / "cache"))
        for more in ([], ["--verdicts", answers]):
            patch.setattr("sys.argv", ["truecue", *map(str, [*command, *more])])
            with pytest.raises(SystemExit) as stop:
                main()
            assert not stop.value.code
            features = Audit(out).features
            rows = [f"ann,,{c},{features(c)[0].feature},1,background,5,tint" for c in (0, 1)]
            answers.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    return out


@pytest.fixture
def audited(judged: Path, tmp_path: Path) -> Path:
    """A copy of that audit."""
    return shutil.copytree(judged, tmp_path / "audit")


def test_one_command_from_verdicts_to_a_model(cli, audited: Path, tmp_path: Path) -> None:
    status, shown, _ = cli(
        "repair", audited, "--seeds", 2, "--k", 40, "--set", "lr=0.1", "--set", "tol=0.5",
        "--set", "epochs=3", *CPU,
    )  # fmt: skip
    words = " ".join(shown.split())
    assert not status
    assert "random" in words
    assert "worst group" in words
    assert "Next: " in words
    folder = audited / "repair"
    told = json.loads((folder / "repair.json").read_text())
    assert headline(told)[0] in words
    assert told["settings"]["k"] == 40
    assert told["seeds"] == [0, 1]
    assert told["facts"]["data"] == "gratings"
    assert list(told["methods"]) == ["low", "random", "error"]
    assert "<!DOCTYPE html>" in (folder / "repair.html").read_text()

    # the repaired model is a model like any other; its card knows the seed of the splits
    status, shown, _ = cli("evaluate", folder / "low.safetensors", "gratings", "--json", *CPU)
    assert not status
    found = json.loads(shown)["models"]["repair-low"]["test"]["average"]
    assert found == told["methods"]["low"]["parts"]["test"]["accuracy"]


def test_spufix_is_a_model_like_any_other(cli, audited: Path, tmp_path: Path) -> None:
    out = tmp_path / "fixed"
    status, shown, _ = cli("repair", audited, "--method", "spufix", "--out", out, "--json", *CPU)
    assert not status
    told = json.loads(shown)
    assert told == json.loads((out / "repair.json").read_text())
    assert list(told["methods"]) == ["spufix"]
    status, shown, _ = cli("evaluate", out / "spufix.safetensors", "gratings", "--json", *CPU)
    assert not status
    found = json.loads(shown)["models"]["repair-spufix"]["test"]["average"]
    assert found == told["methods"]["spufix"]["parts"]["test"]["accuracy"]
    assert cli("repair", audited, "--method", "spufix", "--quiet", *CPU)[:2] == (0, "")

    # it stands beside what is done later, unless everything is to be new
    tuned = ["repair", audited, "--k", 40, "--set", "epochs=2", "--seeds", 1, *CPU, "--quiet"]
    assert cli(*tuned)[0] == 0
    folder = audited / "repair"
    there = json.loads((folder / "repair.json").read_text())["methods"]
    assert list(there) == ["low", "random", "error", "spufix"]
    assert "SpuFix" in (folder / "repair.html").read_text()
    status, _, error = cli("repair", audited, "--method", "low", *CPU)
    assert status == 2
    assert "holds a repair by random, error, spufix with" in error
    assert cli(*tuned, "--method", "low", "--fresh")[0] == 0
    assert [path.name for path in folder.glob("*.safetensors")] == ["low.safetensors"]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--method", "lowest"], "no repair 'lowest'; did you mean 'low'"),
        (["--set", "tolerance=1"], "TuneSettings has no setting 'tolerance'"),
        (["--set", "tol=3"], "tol"),
    ],
)
def test_one_sentence_for_what_cannot_be(cli, audited: Path, more, match: str) -> None:
    status, _, error = cli("repair", audited, *CPU, *more)
    assert status == 2
    assert match in error
    assert error.count("\n") == 1
    assert not (audited / "repair").exists()


def test_a_folder_without_audit_or_verdicts(cli, tmp_path: Path) -> None:
    status, _, error = cli("repair", tmp_path, *CPU)
    assert status == 2
    assert "holds no finished audit" in error
    out = tmp_path / "audit"
    assert cli("audit", "gratings", "--out", out, *QUICK, *CPU, "--quiet")[0] == 0
    status, _, error = cli("repair", out, *CPU)
    assert status == 2
    assert "has been judged: a repair goes by what people say is spurious" in error


def test_an_audit_that_does_not_know_its_images(cli, audited: Path) -> None:
    text = (audited / "run.toml").read_text()
    (audited / "run.toml").write_text(text.replace('data = "gratings"\n', ""))
    status, _, error = cli("repair", audited, *CPU)
    assert status == 2
    assert "it was made in Python. Repair it there, too" in error
