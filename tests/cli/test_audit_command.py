"""`truecue audit`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_cli
from PIL import Image
from test_pictures import images  # noqa: F401  two classes of bright or dark images

from truecue.audit.audit import Audit
from truecue.audit.verdicts import COLUMNS
from truecue.cli import options, probe
from truecue.data.sets import Splits
from truecue.engine.features import digest_of_set
from truecue.nets.classifier import load_classifier
from truecue.report.audit_page import place

_cache, cli = test_cli._cache, test_cli.cli  # the same surroundings as for the other commands

CPU = ["--device", "cpu", "--threads", "1"]
SIZE = ["--set", "data.size=16"]
PLAN = ["--set", "plan.epochs=2", "--arch", "conv3"]


def test_one_command_from_images_to_gaps(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "audit"
    status, shown, _ = cli("audit", images, "--out", out, *SIZE, *PLAN, *CPU)
    assert not status
    assert "Candidates" in shown
    assert "a person has to look at its images" in " ".join(shown.split())
    assert str(out) in "".join(shown.split())
    audit = Audit(out)
    assert audit.classes == ("cat", "dog")
    assert (out / "training" / "model.safetensors").is_file()
    assert set(audit.gaps()["splits"]) == {"val", "test"}

    # a second time nothing is made again, and what is printed is what is kept
    before = (out / "audit.json").stat().st_mtime_ns
    status, shown, _ = cli("audit", images, "--out", out, *SIZE, *PLAN, *CPU, "--json")
    assert not status
    assert (out / "audit.json").stat().st_mtime_ns == before
    printed = json.loads(shown)
    assert printed["audit"] == audit.facts
    assert printed["gaps"] == audit.gaps()


def test_a_model_is_audited_and_probed_on_images_that_it_was_not_trained_on(
    cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    seen, load = [], options.load

    def loaded(*given: Any, **more: Any) -> Splits:
        seen.append(load(*given, **more))
        return seen[-1]

    monkeypatch.setattr(options, "load", loaded)
    run, out = tmp_path / "run", tmp_path / "audit"
    shares = ["--set", "data.test_share=0.1", "--set", "data.val_share=0", "--seed", "3"]
    trained = cli("train", "erm", images, *SIZE, *PLAN, *shares, "--out", run, *CPU, "--quiet")
    assert trained[0] == 0, trained[2]
    for model in (run, run / "model.safetensors"):
        asked = ["--model", model, "--out", out, *CPU, "--no-cues", "--quiet"]
        status, _, error = cli("audit", images, *asked)
        assert status == 0, error
        given = probe._given(str(images), model, load_classifier(model), None, None, quiet=True)
        for parts in (seen[-2], given):
            assert parts.test.names == seen[0].test.names
            assert parts.train.names == seen[0].train.names
            assert parts.val is None
    assert Audit(out).facts["splits"]["test"]["digest"] == digest_of_set(seen[0].test)


def test_a_folder_may_have_the_name_of_a_suite(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    from truecue.cli import app, repair

    mine, out = tmp_path / "my files" / "digits", tmp_path / "audit"
    shutil.copytree(images, mine)
    assert cli("audit", mine, "--out", out, *SIZE, *PLAN, *CPU, "--no-cues", "--quiet")[0] == 0
    for splits in (app._images(out, None, None, quiet=True),
                   repair._images(out, None, quiet=True)[0]):  # fmt: skip
        Audit(out).check(splits)
    assert Audit(out).facts["place"] == str(mine)
    # what commands on the page say: another size would be other images
    assert shlex.split(place(Audit(out))) == [str(mine), *SIZE]


def test_verdicts_from_a_file(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out, answers = tmp_path / "audit", tmp_path / "answers.csv"
    command = ["audit", images, "--out", out, *SIZE, *PLAN, *CPU]
    assert cli(*command, "--quiet")[:2] == (0, "")
    first = Audit(out).features(0)[0].feature
    answers.write_text(f"{','.join(COLUMNS)}\nann,,0,{first},1,background,5,bright all over\n")
    status, shown, _ = cli(*command, "--verdicts", answers, "--k", "3")
    assert not status
    assert "By the verdicts, test" in " ".join(shown.split())
    assert "spurious" in shown
    gaps = Audit(out).gaps()
    assert gaps["k"] == 3
    assert gaps["answers"]["spurious"] == 1

    answers.write_text(f"{','.join(COLUMNS)}\nann,,0,4444,1,background,5,x\n")
    status, _, error = cli(*command, "--verdicts", answers)
    assert status == 2
    assert "line 2: class 0 (cat) has no feature 4444" in error


def test_object_masks_judge_only_when_asked(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out, masks = tmp_path / "audit", tmp_path / "masks"
    command = ["audit", images, "--out", out, *SIZE, *PLAN, *CPU, "--no-cues", "--pictures", "0"]
    assert cli(*command, "--quiet")[0] == 0
    assert Audit(out).verdicts().all() == []
    for path in images.rglob("*.png"):  # the object is the last column of each image
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[:, -1] = 1
        place = masks / path.relative_to(images)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place)
    status, shown, _ = cli(*command, "--masks", masks)
    assert not status
    text = " ".join(shown.split())
    n = len(Audit(out).pairs())
    assert f"Automatic, by object masks: {n} of {n} features are mostly outside" in text
    assert Audit(out).gaps()["answers"]["automatic"] == n
    page = (out / "index.html").read_text()
    assert "spurious (automatic)" in page
    assert f"{n} of these verdicts are automatic: no person has looked" in page
    status, _, error = cli(*command, "--masks", images)  # the images themselves
    assert status == 2
    assert "Is it the image itself?" in error


def test_a_trained_model_and_another_encoder(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    run, out = tmp_path / "run", tmp_path / "audit"
    quick = ["--set", "plan.epochs=2", "--arch", "conv3", "--no-baseline", "--quiet"]
    assert cli("train", "erm", images, "--out", run, "--seed", 3, *SIZE, *quick, *CPU)[0] == 0
    # size and seed are those of the model's training
    status, _, error = cli("audit", images, "--model", run, "--out", out, "--quiet", *CPU)
    assert (status, error) == (0, "")
    facts = Audit(out).facts
    assert facts["seed"] == 3
    assert facts["model"]["is_encoder"]
    assert not (out / "training").exists()

    command = (
        "audit", images, "--encoder", run, "--arch", "conv3", "--out", tmp_path / "eyes",
        "--seed", 3, "--set", "head_epochs=2", "--quiet", *SIZE, *CPU,
    )  # fmt: skip
    for _ in range(2):  # weights without a head get another one each time that they are loaded
        status, _, error = cli(*command)
        assert (status, error) == (0, "")
    assert Audit(tmp_path / "eyes").facts["encoder"]["head"] == "fitted"
    own = ["--encoder", run, "--model", run, "--out", tmp_path / "own", "--quiet"]
    assert cli("audit", images, *own, *CPU)[0] == 0
    assert Audit(tmp_path / "own").facts["encoder"]["head"] == "own"


def test_scores_of_a_run_on_the_same_images(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    quick = ["--set", "plan.epochs=2", "--arch", "conv3", "--no-baseline", "--quiet", *SIZE, *CPU]
    jtt = ["train", "jtt", images, "--set", "identify.epochs=2", *quick]
    for name, seed in (("jtt", 0), ("other", 1)):
        assert cli(*jtt, "--out", tmp_path / name, "--seed", seed)[0] == 0
    assert cli("train", "erm", images, "--out", tmp_path / "erm", *quick)[0] == 0
    out, model = tmp_path / "audit", ["--model", tmp_path / "jtt", "--pictures", "0", *CPU]
    command = ["audit", images, "--out", out, *model]
    status, shown, error = cli(*command, "--scores", tmp_path / "jtt", "--set", "components=1")
    assert (status, error) == (0, "")
    cues = json.loads((out / "cues.json").read_text())["cues"]
    rows = {c["name"]: c for c in cues if c["kind"] in {"score", "feature"}}
    assert set(rows) == {"first network of jtt", "component 1"}
    text = " ".join(shown.split())
    for name, row in rows.items():
        assert row["verdict"] in {"candidate", "no evidence"}, name
        shown_as = f"Candidate, {name}: alone it tells the class" in text
        assert shown_as == (row["verdict"] == "candidate"), name
    for run, match in (
        ("other", "was trained on other images than these: data, settings or seed differ"),
        ("erm", "a run of erm, which trains no biased network"),
        ("nowhere", "holds no finished run"),
    ):
        status, _, error = cli(*command, "--scores", tmp_path / run)
        assert status == 2
        assert match in error


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--model", "nowhere"], "there is no card"),
        (["--set", "featurs=3"], "AuditSettings has no setting 'featurs'; did you mean 'features'"),
        (["--norm", "clip"], "--norm is about the weights of --encoder"),
        (["--stats-from", "both"], "--stats-from is own or train; got 'both'"),
        (["--encoder", "nowhere"], "there is no weights file"),
        (["--encoder", "nowhere", "--set", "plan.epochs=3"], "none is trained with --encoder"),
        (["--nuisance", "foo"], "--nuisance wants NAME=LEFT,TOP,RIGHT,BOTTOM"),
        (["--nuisance", "banner=0,0.9,1,2"], "shares of the image in 0..1"),
        (["--nuisance", "border=0,0,1,0.5"], "there is already a region 'border'"),
        (["--core", "nosuch"], "there is no property or region 'nosuch'"),
        (["--core", "hue", "--no-cues"], "are about cues; leave out --no-cues"),
        (["--verdicts", "nosuch.csv"], "there is no file nosuch.csv"),
        (["--verdicts", "."], ". cannot be read: Is a directory"),
        (["--masks", "nosuch"], "there is no folder or file of masks nosuch"),
        (["--arch", "conv33"], "conv33"),
        (["--set", "plan.epoch=3"], "ERM.plan has no setting 'epoch'"),
    ],
)
def test_one_sentence_for_what_cannot_be(cli, images: Path, tmp_path: Path, more, match) -> None:  # noqa: F811
    out = tmp_path / "audit"
    status, _, error = cli("audit", images, "--out", out, *SIZE, *CPU, *more)
    assert status == 2
    assert match in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_names_of_cues_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from truecue.cli.audit import _show_cues

    cue = {"name": "[/red]", "why": "exchanged for that [of] another class", "verdict": "alarm",
           "kind": "region", "next": ["crop it: truecue train DATA"]}  # fmt: skip
    _show_cues({"cues": [cue], "notes": [], "level": 0.1}, Console(highlight=False), "[b]")
    said = capsys.readouterr().out
    assert "Alarm, [/red]: exchanged for that [of] another class" in said
    assert "truecue train [b]" in said


def test_without_a_model_a_small_one_is_trained_and_the_page_says_so(
    cli,
    images: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "audit"
    size = ["--set", "data.size=32", "--pictures", "0", *CPU]
    status, _, error = cli("audit", images, "--out", out, "--set", "plan.epochs=3", *size)
    assert not status
    told = " ".join(error.split())
    assert "No model is given: training one (conv3) on" in told
    assert "s at most. Give your own with --model" in told
    facts = Audit(out).facts
    assert facts["trained"]["arch"] == facts["model"]["arch"] == "conv3"
    assert 0 < facts["trained"]["kept"] <= facts["trained"]["epochs"] == 3
    shown = f"(conv3, epoch {facts['trained']['kept']} of {facts['trained']['epochs']})"
    assert f"the audit trained this one {shown}" in (out / "index.html").read_text()

    given = ["--model", out / "model.safetensors", "--out", tmp_path / "given", "--no-cues"]
    assert cli("audit", images, *given, *size, "--quiet")[0] == 0
    assert "the audit trained" not in (tmp_path / "given" / "index.html").read_text()
    status, _, error = cli("audit", images, "--out", tmp_path / "given", *CPU)  # forgot --model
    assert status == 2
    assert "an audit of a model that was given, and now none is" in error
    assert not (tmp_path / "given" / "training").exists()


def test_other_settings_need_another_folder(cli, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "audit"
    command = ["audit", images, "--out", out, *SIZE, *PLAN, *CPU, "--quiet"]
    assert cli(*command)[0] == 0
    status, _, error = cli(*command, "--set", "features=2")
    assert status == 2
    assert "settings.features 5 (now 2)" in error
    assert cli(*command, "--set", "features=2", "--fresh")[0] == 0
    assert len(Audit(out).features(0)) <= 2
