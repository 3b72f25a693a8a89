"""The command line: what it writes, and one clear sentence for everything a user can get wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from truecue.cli import options
from truecue.cli.main import main
from truecue.data.sets import Splits
from truecue.data.suites import SUITES, bar
from truecue.data.suites.base import Suite
from truecue.report.report import check_page

QUICK = ["--set", "plan.epochs=2", "--threads", "1", "--device", "cpu"]
SMALL = [*QUICK, "--set", "data.size=16", "--arch", "conv3"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRUECUE_DATA", raising=False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 30 bright or dark images, and a table that says so."""
    draw, root, rows = np.random.default_rng(0), tmp_path / "images", ["file,label,light"]
    for i in range(60):
        kind, light = ("cat", "dog")[i % 2], ("dark", "bright")[(i % 2) ^ (i % 3 == 0)]
        pixels = draw.integers(0, 100, (20, 20, 3)) + 150 * (light == "bright")
        (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / kind / f"{i}.png")
        rows.append(f"{kind}/{i}.png,{kind},{light}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["truecue", *map(str, arguments)])
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


class Mine(Suite):
    """Cows of one's own."""

    source: ClassVar[str] = "one's own"
    licence: ClassVar[str] = "private"

    def load(self, root: Path | str | None = None, *, seed: int = 0) -> Splits:
        raise NotImplementedError


def test_train_writes_model_and_both_reports(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, shown, _ = cli("train", "erm", "gratings", *QUICK, "--seed", "3", "--out", out)
    assert status == 0
    assert "Report:" in shown
    for name in ("model.safetensors", "model.json", "report.html", "report.json", "run.toml"):
        assert (out / name).is_file()
    report = json.loads((out / "report.json").read_text())
    test = report["models"]["erm"]["test"]
    for metric in ("average", "unbiased", "aligned", "conflicting", "worst_group"):
        assert test[metric].keys() == {"value", "low", "high", "n"}
        assert test[metric]["low"] <= test[metric]["value"] <= test[metric]["high"]
    assert report["labels_used"] == {"training": "class labels only", "choosing": "none"}
    assert (report["selection"], report["seed"]) == ("last", 3)
    assert report["seconds"] > 0
    assert "cpu" in report["device"]


def test_evaluate_agrees_with_the_training_report(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli("train", "erm", "gratings", *QUICK, "--out", out, "--quiet")
    status, shown, _ = cli("evaluate", out, "gratings", "--device", "cpu", "--json")
    assert status == 0
    trained = json.loads((out / "report.json").read_text())["models"]["erm"]["test"]
    assert json.loads(shown)["models"]["erm"]["test"] == trained


def test_evaluate_measures_images_that_were_not_trained_on(
    cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen, load = tmp_path / "run", [], options.load

    def loaded(*given: Any, **more: Any) -> Splits:
        seen.append(load(*given, **more))
        return seen[-1]

    monkeypatch.setattr(options, "load", loaded)
    (images / "labels.csv").unlink()
    shares = ["--set", "data.test_share=0.1", "--set", "data.val_share=0", "--seed", "3"]
    trained = cli("train", "erm", images, *SMALL, *shares, "--out", out)
    assert trained[0] == 0, trained[2]
    for model in (out, out / "model.safetensors"):
        status, _, error = cli("evaluate", model, images, "--device", "cpu")
        assert status == 0, error
        assert not {*seen[0].train.names} & {*seen[-1].test.names}
        assert seen[-1].test.names == seen[0].test.names
        assert seen[-1].val is None
    (images / "cat" / "broken.jpg").write_bytes(b"no image")
    refused(cli("evaluate", out, images, "--device", "cpu"), "cat/broken.jpg")
    status, _, error = cli("evaluate", out, images, "--device", "cpu", "--skip-unreadable")
    assert status == 0, error


def test_evaluate_writes_over_no_report_but_its_own(cli, tmp_path: Path) -> None:
    out, mine = tmp_path / "run", tmp_path / "mine"
    cli("train", "erm", "gratings", *QUICK, "--out", out, "--quiet")
    evaluate = ["evaluate", out, "gratings", "--device", "cpu", "--out"]
    before = (out / "report.json").read_bytes()
    refused(cli(*evaluate, out), "holds a training", "--out")
    assert (out / "report.json").read_bytes() == before
    for _ in range(2):
        assert cli(*evaluate, mine)[0] == 0
    assert json.loads((mine / "report.json").read_text())["kind"] == "evaluate"
    for other in (before, b"[]", b"{}", b"no report"):
        (mine / "report.json").write_bytes(other)
        refused(cli(*evaluate, mine), "holds a training or other work")
        assert (mine / "report.json").read_bytes() == other
    (mine / "report.json").unlink()
    (mine / "run.toml").touch()  # a run that has not written its report yet
    refused(cli(*evaluate, mine), "holds a training or other work")


def test_evaluate_refuses_other_classes(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli("train", "erm", "gratings", *QUICK, "--out", out, "--quiet")
    status, _, error = cli("evaluate", out, "digits", "--device", "cpu")
    assert status == 2
    assert "the model knows the classes" in error


def test_baseline_stands_beside_the_method(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    quick = [*QUICK, "--set", "experts.epochs=2", "--out", out]
    status, _, _ = cli("train", "denetdm", "gratings", *quick, "--quiet")
    assert status == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["models"]) == ["erm", "denetdm"]
    assert report["models"]["erm"]["arch"] == report["models"]["denetdm"]["arch"]
    assert report["models"]["denetdm"]["branches"].keys() == {"deep", "shallow"}
    assert {"precision", "recall", "disagree", "of"} <= report["suspects"].keys()


def test_a_table_with_attributes_gives_groups(cli, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = images / "labels.csv"
    status, _, error = cli("train", "erm", table, *SMALL, "--set", "data.bias=light", "--out", out)
    assert status == 0, error
    report = json.loads((out / "report.json").read_text())
    assert report["task"]["bias"] == "light"
    assert report["models"]["erm"]["test"]["conflicting"]["n"] > 0


def test_a_folder_without_bias_labels_has_no_groups(cli, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (images / "labels.csv").unlink()
    status, _, error = cli("train", "erm", images, *SMALL, "--out", out)
    assert status == 0, error
    test = json.loads((out / "report.json").read_text())["models"]["erm"]["test"]
    assert test["conflicting"]["value"] is None
    assert test["average"]["value"] is not None


def refused(result: tuple[int, str, str], *fragments: str) -> None:
    status, _, error = result
    assert status == 2, error
    assert error.startswith("truecue: ")
    assert error.count("\n") == 1, error
    for fragment in fragments:
        assert fragment in error


def test_unknown_setting(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = cli("train", "erm", "gratings", "--set", "plan.epoch=2", "--out", out)
    refused(result, "no setting 'epoch'", "did you mean 'epochs'?")
    assert not out.exists()


def test_what_the_system_refuses_is_one_sentence(
    cli, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder above which nobody may look into, and a folder in place of a file."""
    looked = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path == images:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    refused(cli("data", "check", images), f"{images} cannot be read or written: Permission denied")
    log = tmp_path / "run" / "erm" / "log.jsonl"
    log.mkdir(parents=True)
    result = cli("train", "erm", "gratings", *QUICK, "--out", tmp_path / "run")
    refused(result, f"{log} cannot be read or written: Is a directory")


def test_a_damaged_file_of_settings_says_what_it_is_for(cli, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"[asked")
    result = cli("train", "erm", "gratings", *QUICK, "--out", tmp_path, "--fresh")
    refused(result, "run.toml cannot be read as TOML", "put it back, or use another folder")
    assert (tmp_path / "run.toml").read_bytes() == b"[asked"


@pytest.mark.parametrize(
    ("command", "twin"),
    [
        ("rank model gratings", "rank.json"),
        ("show bias run", "bias.json"),
        ("directions refine shapes 2", "refined.json"),
        ("directions traverse shapes found", "traversal.json"),
        ("directions probe shapes --directions found --model model", "probe.json"),
    ],
)
def test_the_page_of_another_command_is_kept(cli, tmp_path: Path, command: str, twin: str) -> None:
    page = tmp_path / "index.html"
    page.write_text("of an audit")
    result = cli(*command.split(), "--out", tmp_path)
    refused(result, f"{page} is another command's page (there is no {twin} beside it)")
    assert page.read_text() == "of an audit"
    (tmp_path / twin).write_text("{}")
    check_page(tmp_path, twin)  # its own is written again


def test_unknown_setting_of_the_data(cli) -> None:
    result = cli("train", "erm", "gratings", "--set", "data.conflict=0.1")
    refused(result, "no setting 'conflict'", "did you mean 'conflicting'?")


def test_value_out_of_range(cli) -> None:
    refused(cli("train", "erm", "gratings", "--set", "plan.epochs=0"), "plan.epochs", "got 0")


def test_malformed_assignment(cli) -> None:
    refused(cli("train", "erm", "gratings", "--set", "plan.epochs"), "name=value")


def test_unknown_method_and_suite(cli) -> None:
    refused(cli("train", "denetm", "gratings"), "did you mean 'denetdm'?")
    refused(cli("train", "erm", "grating"), "did you mean 'gratings'?")
    refused(cli("methods", "show", "er"), "there is no method 'er'")
    refused(cli("suites", "show", "digit"), "did you mean 'digits'?")


def test_settings_file(cli, tmp_path: Path) -> None:
    file, out = tmp_path / "own.toml", tmp_path / "run"
    refused(cli("train", "erm", "gratings", "--config", file), "no settings file")
    file.write_text("[plan]\nepochs = 3\n[data]\nconflicting = 0.3\n")
    status, _, error = cli(
        "train", "erm", "gratings", "--config", file, *QUICK, "--out", out, "--quiet"
    )
    assert status == 0, error
    report = json.loads((out / "report.json").read_text())
    assert report["models"]["erm"]["settings"]["plan"]["epochs"] == 2  # --set goes before the file
    assert report["task"]["settings"]["conflicting"] == 0.3


def test_missing_files_of_a_suite(cli, tmp_path: Path) -> None:
    refused(cli("train", "erm", "colored_mnist"), "MNIST", "train-images-idx3-ubyte", "--root")
    refused(cli("train", "erm", "colored_mnist", "--root", tmp_path / "no"), "there is no folder")


def test_unreadable_image(cli, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (images / "labels.csv").unlink()
    (images / "cat" / "broken.jpg").write_bytes(b"no image")
    refused(
        cli("train", "erm", images, *SMALL, "--out", out),
        "cat/broken.jpg",
        "truecue data check",
        "--skip-unreadable",
    )
    assert not out.exists()
    status, _, error = cli("train", "erm", images, *SMALL, "--out", out, "--skip-unreadable")
    assert status == 0, error
    notes = json.loads((out / "report.json").read_text())["task"]["notes"]
    assert any("1 image" in note and "left out" in note for note in notes), notes


def test_data_check_lists_what_is_wrong(cli, images: Path) -> None:
    (images / "labels.csv").unlink()
    for name in ("one", "two"):
        (images / "cat" / f"{name}.jpg").write_bytes(b"no image")
    status, shown, _ = cli("data", "check", images, "--json")
    assert status == 1
    report = json.loads(shown)
    assert {fault["where"] for fault in report["faults"]} >= {"cat/one.jpg", "cat/two.jpg"}
    status, shown, _ = cli("data", "check", images)
    assert status == 1
    assert "cat/two.jpg" in shown


def test_data_check_of_a_table_shows_the_association(cli, images: Path) -> None:
    status, shown, _ = cli("data", "check", images / "labels.csv", "--at-least", "1")
    assert status == 0, shown
    assert "class and light, Cramér's V" in shown


def test_one_class_only(cli, images: Path) -> None:
    (images / "labels.csv").unlink()
    for file in (images / "dog").iterdir():
        file.unlink()
    (images / "dog").rmdir()
    refused(cli("train", "erm", images), "two classes")


def test_class_absent_from_a_split(cli, images: Path, tmp_path: Path) -> None:
    table = images / "labels.csv"
    head, *rows = table.read_text().splitlines()
    split = ["test" if "cat" in row and i < 20 else "train" for i, row in enumerate(rows)]
    table.write_text("\n".join([f"{head},split", *map(",".join, zip(rows, split, strict=True))]))
    refused(cli("train", "erm", table), "no test image shows class 'dog'")


def test_rows_without_files_and_labels(cli, images: Path) -> None:
    table = images / "labels.csv"
    text = table.read_text()
    table.write_text(text + "cat/none.png,cat,dark\n")
    refused(cli("train", "erm", table), "cat/none.png", "row 61")
    table.write_text(text + "cat/0.png,,dark\n")
    refused(cli("train", "erm", table), "row 61")


def test_images_of_different_sizes_are_resized_and_noted(cli, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (images / "labels.csv").unlink()
    Image.new("RGB", (50, 31)).save(images / "cat" / "wide.png")
    status, _, error = cli("train", "erm", images, *SMALL, "--out", out)
    assert status == 0, error
    notes = json.loads((out / "report.json").read_text())["task"]["notes"]
    assert any("16" in note and "short side" in note for note in notes), notes


def test_run_folder_of_another_run(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli("train", "erm", "gratings", *QUICK, "--out", out, "--quiet")
    before = (out / "report.json").read_text()
    result = cli("train", "erm", "gratings", *QUICK, "--out", out, "--seed", "1")
    refused(result, "seed 0 (now 1)", "--fresh")
    assert (out / "report.json").read_text() == before
    status, _, _ = cli("train", "erm", "gratings", *QUICK, "--out", out, "--seed", "1", "--fresh")
    assert status == 0


@pytest.mark.parametrize(
    ("method", "wrong", "right", "says"),
    [
        ("defund", ["variant=semi", "labelled=0.01"], ["variant=semi", "labelled=0.9"], "Set"),
        ("supinfonce", ["data.conflicting=0"], ["data.conflicting=0.2"], "0 of the 160"),
    ],
)
def test_what_a_refusal_advises_can_be_done_in_the_same_folder(
    cli, tmp_path: Path, method: str, wrong: list[str], right: list[str], says: str
) -> None:
    out = tmp_path / "out"
    small = ["data.train_size=160", "data.test_size=100", "plan.epochs=1", "plan.batch_size=16"]
    if method == "defund":
        small += ["pretrain.epochs=1", "pretrain.batch_size=16", "probe.epochs=1"]

    def settings(more: list[str]) -> list[str]:
        return [word for value in (*small, *more) for word in ("--set", value)]

    common = ["train", method, "digits", "--out", out, "--quiet"]
    refused(cli(*common, *settings(wrong)), says)
    done = cli(*common, *settings(right))
    assert done[0] == 0, done[2]
    assert (out / "report.json").is_file()
    refused(cli(*common, *settings(wrong)), "was made with other settings")


def test_a_finished_run_is_read_back(cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli("train", "erm", "gratings", *QUICK, "--out", out, "--quiet")
    before = (out / "model.safetensors").read_bytes()
    log = (out / "erm" / "log.jsonl").read_text()
    status, _, _ = cli("train", "erm", "gratings", *QUICK, "--out", out, "--quiet")
    assert status == 0
    assert (out / "model.safetensors").read_bytes() == before
    assert (out / "erm" / "log.jsonl").read_text() == log


def test_unknown_device(cli) -> None:
    refused(cli("train", "erm", "gratings", "--device", "tpu"), "auto, cpu, cuda or mps")
    refused(cli("train", "erm", "gratings", "--precision", "16"), "32-true or bf16-mixed")


@pytest.mark.parametrize("kind", ["methods", "suites"])
def test_lists(cli, kind: str) -> None:
    status, shown, _ = cli(kind)
    assert status == 0
    names = [line.split()[0] for line in shown.splitlines()]
    status, shown, _ = cli(kind, "--json")
    assert status == 0
    assert list(json.loads(shown)) == names
    for name in names:
        status, shown, _ = cli(kind, "show", name)
        assert status == 0
        assert "settings" in shown
        status, shown, _ = cli(kind, "show", name, "--json")
        settings = {row["name"]: row for row in json.loads(shown)["settings"]}
        assert all(row["about"] for row in settings.values()), "every setting is described"


def test_suites_say_whether_their_files_are_there(cli, tmp_path: Path) -> None:
    def states(*options: object) -> dict[str, str]:
        status, shown, _ = cli("suites", "--json", *options)
        assert status == 0
        return {name: row["files"] for name, row in json.loads(shown).items()}

    before = states("--root", tmp_path)
    assert (before["bar"], before["digits"], before["folder"]) == (
        "files needed",
        "needs no files",
        "reads files",
    )
    assert states() == before
    (tmp_path / "bar" / "train").mkdir(parents=True)
    (tmp_path / "bar" / "train" / "climbing_0.jpg").touch()
    assert states("--root", tmp_path) == before | {"bar": "ready"}
    status, shown, _ = cli("suites", "show", "bar", "--root", tmp_path)
    assert status == 0
    assert f"found: ready, in {tmp_path / 'bar'}" in shown


def test_suites_that_decode_files_show_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def decoding(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr(options, "decoding", decoding)
    for split in ("train", "test"):
        for k, kind in enumerate(bar.CLASSES):
            for i in range(2):
                path = tmp_path / "bar" / split / f"{kind}_{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 9), (20 * k, i, 0)).save(path)
    options.load(bar.BAR(complete=False, size=8), tmp_path, 0)
    assert seen == [(24, 24)]
    options.load(SUITES["gratings"](), None, 0)  # takes no progress
    assert len(seen) == 1


def test_suite_is_shown_with_files_numbers_and_checksums(cli) -> None:
    status, shown, _ = cli("suites", "show", "celeba")
    assert status == 0
    for part in (
        "licence: non-commercial research only",
        "files: celeba/ with img_align_celeba/000001.jpg",
        "where to get them: img_align_celeba.zip",
        "found: files needed",
        "  train: blond hair, male  1,387",
        "  list_attr_celeba.txt  md5:75e246fa",
        '  target = "Blond_Hair"',
    ):
        assert part in shown
    status, shown, _ = cli("suites", "show", "celeba", "--json")
    facts = json.loads(shown)
    assert facts["images"]["train"] == 162770
    assert set(facts["checksums"]) >= {"img_align_celeba.zip"}
    _, shown, _ = cli("suites", "show", "digits")
    assert "images:" not in shown
    assert "checksums:" not in shown


def test_version_and_help(cli) -> None:
    status, shown, _ = cli("--version")
    assert status == 0
    assert shown.startswith("truecue 0.")
    status, shown, _ = cli("--help")
    assert status == 0
    assert "train" in shown


def test_what_other_packages_bring_is_listed(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from truecue import methods
    from truecue.data import suites

    here = {"truecue.methods": "truecue.methods.erm:ERM", "truecue.suites": f"{__name__}:Mine"}

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        points = [EntryPoint("mine", here[group], group), EntryPoint("lost", "no:Where", group)]
        return [point for point in points if name in (None, point.name)]

    for module in (methods, suites):
        monkeypatch.setattr(module, "entry_points", entry_points)
    for kind, said in (("methods", "Plain training"), ("suites", "Cows of one's own.")):
        status, shown, error = cli(kind)
        assert status == 0
        assert re.search(rf"^mine +{said}", shown, re.MULTILINE)
        assert "'lost' of another package is left out: No module named 'no'" in error
    _, shown, _ = cli("suites", "show", "mine")
    assert "made by the package" not in shown  # it does not say which files, and there are some


@pytest.mark.parametrize("name", [("bench", "sweep"), ("directions", "find")])
def test_help_has_every_word(cli, monkeypatch: pytest.MonkeyPatch, name: tuple[str, str]) -> None:
    from typer.main import get_command

    from truecue.cli.main import app

    monkeypatch.setenv("COLUMNS", "80")
    _, shown, _ = cli(*name, "--help")
    command = get_command(app).commands[name[0]].commands[name[1]]  # type: ignore[attr-defined]
    assert "[" in command.help  # which is no style, though it looks like one
    assert " ".join(command.help.split()) in " ".join(shown.split())


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "truecue", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("truecue 0.")


def told(encoding: str, *arguments: str | Path) -> str:
    """What a command shows on a terminal of another encoding."""
    done = subprocess.run(
        [sys.executable, "-m", "truecue", *map(str, arguments)],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(encoding)


def test_a_list_on_a_terminal_that_is_not_utf_8() -> None:
    assert "?-SupInfoNCE" in told("cp1252", "methods")


@pytest.mark.slow
def test_a_training_on_a_terminal_that_is_not_utf_8(tmp_path: Path) -> None:
    shown = told("ascii", "train", "erm", "gratings", *QUICK, "--out", tmp_path / "run")
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in shown


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "truecue.cli.main", "--debug", "train", "erm", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_demo_shows_the_gain(cli, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    status, shown, _ = cli("demo", "--out", out)
    assert status == 0
    story = json.loads((out / "story.json").read_text())
    before, after = (story["models"][m]["conflicting"] for m in ("plain", "denetdm"))
    assert after["low"] > before["high"] + 0.05
    cues = {cue["name"]: cue for cue in story["cues"]}
    assert cues["hue"]["before"]["verdict"] == cues["colour cast"]["before"]["verdict"] == "alarm"
    for name in ("hue", "colour cast"):
        used = [cues[name][side]["used"]["value"] for side in ("before", "after")]
        assert used[1] < used[0] - 0.1
    assert story["judged"]["spurious"] > 20
    training = json.loads((tmp_path / "demo" / "train" / "report.json").read_text())["seconds"]
    assert story["seconds"] > training  # of the whole, not of its training alone
    assert story["processor_seconds"] > 0
    assert story["gap"]["low"] > 0.4
    for page in ("index.html", *story["pages"].values()):
        assert (out / page).is_file()
    assert "hue" in shown
    assert "colour misleads" in shown
