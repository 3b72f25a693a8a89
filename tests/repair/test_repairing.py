"""From an audit with verdicts to a repaired model, its numbers and its page."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from world import as_images, network, splits, world

from truecue.audit.audit import Audit
from truecue.audit.make import AuditSettings, make_audit
from truecue.audit.measure import measure_gaps
from truecue.audit.pca import neural_pca, spufix
from truecue.audit.verdicts import Judgement
from truecue.config import parse_assignments
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError, RunMismatch
from truecue.metrics.known import low_end_purity
from truecue.metrics.ranking import end_hits, rank
from truecue.nets.classifier import Classifier, load_classifier
from truecue.repair.repair import repair_audit
from truecue.repair.scores import Part, change, curve, score
from truecue.repair.tune import TuneSettings
from truecue.report.repair_page import over_seeds, render, write_repair_page
from truecue.report.repair_words import headline, next_steps

CPU = Device("cpu")
FREE = TuneSettings(lr=0.01, tol=1, ends=50)  # the accuracy guard switched off
ALL = ("low", "random", "error", "spufix")


@pytest.fixture(scope="module")
def data() -> Splits:
    return splits()


@pytest.fixture(scope="module")
def net(data: Splits) -> Classifier:
    return network(data)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def judge(audit: Audit, *spurious: tuple[int, int], core: tuple[tuple[int, int], ...] = ()) -> None:
    audit.verdicts().add(*(Judgement(c, f, "ann", "separate_object") for c, f in spurious),
                         *(Judgement(c, f, "ann", "main_object") for c, f in core))  # fmt: skip


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, data: Splits, net: Classifier) -> Audit:
    made = make_audit(tmp_path_factory.mktemp("audits") / "first", data, net, device=CPU)
    judge(made, (0, 2), (1, 3), core=((0, 0), (1, 1)))
    return made


@pytest.fixture(scope="module")
def told(audit: Audit, data: Splits) -> dict:
    return repair_audit(audit, data, methods=ALL, settings=FREE, seeds=(0, 1, 2), device=CPU)


def worst(part: dict) -> float:
    return part["groups"]["worst_group"]["value"]


def test_the_reference_simulation_end_to_end(told: dict, audit: Audit, data: Splits):
    assert TuneSettings().k == 100
    own = data.train.attributes["cue"].values == data.train.y  # 100 images of each class lack it
    purity = low_end_purity(audit.ranking("train"), own, 100)
    assert set(purity) == {0, 1}
    assert min(purity.values()) > 0.9
    before, low = told["before"], told["methods"]["low"]
    for part in ("val", "test"):
        assert before[part]["gap"]["value"] > 0.2
        assert abs(low["parts"][part]["gap"]["value"]) < 0.15
        assert worst(low["parts"][part]) > worst(before[part]) + 0.2
        random = told["methods"]["random"]["over_seeds"][part]["gap"]["value"]
        assert random > 0.25
        assert low["change"][part]["gap"]["high"] < -0.1
    assert low["runs"][0]["reached"]
    assert headline(told)[1] == "good"


def test_with_the_guard_accuracy_is_kept(audit: Audit, data: Splits, tmp_path: Path):
    settings = TuneSettings(lr=0.01, ends=50)
    told = repair_audit(
        audit, data, methods=["low"], settings=settings, seeds=[0], device=CPU, out=tmp_path
    )
    run = told["methods"]["low"]["runs"][0]
    accuracy = [row["accuracy"] for row in run["log"]]
    assert accuracy[run["chosen"]] >= accuracy[0] - 0.03 - 1e-9
    assert min(accuracy) < accuracy[0] - 0.03  # there was something to guard against
    assert 0.1 < told["methods"]["low"]["parts"]["val"]["gap"]["value"] < 0.3
    assert not run["reached"]
    assert told["methods"]["low"]["over_seeds"] is None
    commands = [step.command for step in next_steps(told)]
    given = f"truecue repair {audit.folder} --out {tmp_path} --method low --set lr=0.01"
    assert f"{given} --set tol=0.06 --set ends=50 --seeds 1" in commands


def test_the_written_model_is_the_measured_one(audit: Audit, data: Splits, told: dict):
    folder = audit.folder / "repair"
    assert json.loads((folder / "repair.json").read_text()) == told
    for name, found in told["methods"].items():
        net = load_classifier(folder / found["model"])
        with torch.no_grad():
            right = net(data.test.images[:]).argmax(1) == data.test.y
        assert found["parts"]["test"]["accuracy"]["value"] == pytest.approx(
            float(right.double().mean()), abs=2e-3
        )
        assert net.spec["extra"]["classes"] == ["one", "two"]
        assert net.spec["extra"]["method"] == f"repair-{name}"
        # the encoder is the audited one
        assert all(torch.equal(a, b) for a, b in zip(net.encoder.parameters(),
                   audit.model().encoder.parameters(), strict=True))  # fmt: skip


def test_halves_are_of_validation_images_and_nothing_is_chosen_by_the_other(told: dict):
    assert told["sizes"] == {"select": 1000, "val": 1000, "test": 1000}
    run = told["methods"]["low"]["runs"][0]
    assert run["log"][0]["gap"] != told["before"]["val"]["gap"]["value"]
    assert run["images"] == 200
    assert [row["k"] for row in told["repaired"]] == [100, 100]
    assert [row["features"] for row in told["repaired"]] == [[2], [3]]


def test_a_repair_is_the_same_again(audit: Audit, data: Splits, told: dict, tmp_path: Path):
    again = repair_audit(
        audit, data, methods=ALL, settings=FREE, seeds=(0, 1, 2), device=CPU, out=tmp_path
    )
    assert again | {"folder": ""} == told | {"folder": ""}
    for name in ALL:
        written = (tmp_path / f"{name}.safetensors").read_bytes()
        assert written == (audit.folder / "repair" / f"{name}.safetensors").read_bytes()
    other = repair_audit(
        audit, data, methods=["random"], settings=FREE, seeds=[7], device=CPU, out=tmp_path / "b"
    )
    assert (
        other["methods"]["random"]["runs"][0]["log"] != told["methods"]["random"]["runs"][0]["log"]
    )


def test_error_tuning_takes_what_the_model_gets_wrong(audit: Audit, data: Splits, told: dict):
    # the misclassified images break the cue mostly, so that they narrow the gap more than random
    gaps = {name: told["methods"][name]["over_seeds"]["val"]["gap"]["value"]
            for name in ("low", "error", "random")}  # fmt: skip
    assert gaps["error"] < gaps["random"] - 0.05
    runs = told["methods"]["error"]["runs"]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert all(run["images"] == 200 for run in runs)


def test_an_unbiased_model_is_left_as_it_is(data: Splits, net: Classifier, tmp_path: Path):
    fair = network(data)
    with torch.no_grad():
        fair.head.weight.copy_(torch.tensor([[1.0, -1, 1e-4, 0], [-1, 1, 0, 1e-4]]))
        fair.head.bias.zero_()
    audit = make_audit(tmp_path / "fair", data, fair, device=CPU)
    judge(audit, (0, 2), (1, 3))
    settings = FREE.override({"target": 0.12, "ends": 200})
    told = repair_audit(audit, data, methods=["low"], settings=settings, seeds=[0], device=CPU)
    run = told["methods"]["low"]["runs"][0]
    assert (run["chosen"], run["reached"], len(run["log"])) == (0, True, 1)
    saved = load_classifier(tmp_path / "fair" / "repair" / "low.safetensors")
    assert torch.equal(saved.head.weight, fair.head.weight)
    assert headline(told)[0].startswith("Nothing to repair: ")


def test_verdicts_given_since_count(audit: Audit, data: Splits, net: Classifier, tmp_path: Path):
    made = make_audit(tmp_path / "late", data, net, device=CPU)
    judge(made, (0, 2))
    measure_gaps(made, k=40)
    judge(made, (1, 3), core=((0, 2),))  # changed, and not measured again
    told = repair_audit(made, data, methods=["spufix"], device=CPU)
    assert [row["class"] for row in told["repaired"]] == [1]
    assert made.gaps()["k"] == 40
    # the other class is not repaired: its accuracy is told apart
    untouched = told["before"]["test"]["untouched"]
    assert untouched["n"] == 500
    assert told["methods"]["spufix"]["runs"][0]["seed"] is None


# --- an earlier repair in the same folder


def test_another_method_stands_beside_an_earlier_repair(audit: Audit, data: Splits, tmp_path: Path):
    settings = TuneSettings(lr=0.01, ends=50, epochs=3)
    where = {"out": tmp_path, "device": CPU}
    first = repair_audit(
        audit, data, settings=settings, seeds=[3, 4], facts={"command": "one"}, **where
    )
    later = repair_audit(  # nothing of tuning matters to it; halves and ends do
        audit, data, methods=["spufix"], settings=TuneSettings(ends=50), seeds=[3],
        facts={"command": "two"}, **where,
    )  # fmt: skip
    assert list(later["methods"]) == ["low", "random", "error", "spufix"]
    assert {n: m for n, m in later["methods"].items() if n != "spufix"} == first["methods"]
    for name in ("before", "settings", "seeds", "first", "sizes", "repaired", "notes"):
        assert later[name] == first[name], name
    assert "one; two" in render(later)
    assert "SpuFix" in render(later)

    # a tuning done again takes the place of the earlier one, and SpuFix stays
    again = repair_audit(audit, data, settings=settings, seeds=[3, 4], **where)
    assert again["methods"]["spufix"] == later["methods"]["spufix"]
    assert {p.stem for p in tmp_path.glob("*.safetensors")} == set(ALL)


def test_an_earlier_repair_is_not_lost_unasked(
    audit: Audit, data: Splits, net: Classifier, tmp_path: Path
):
    settings = TuneSettings(lr=0.01, ends=50, epochs=2)
    where = {"out": tmp_path, "device": CPU}
    first = repair_audit(audit, data, settings=settings, seeds=[0], **where)
    refused = [
        ({"methods": ["spufix"], "seeds": [0]}, r"low, random, error with ends 50 \(now None\)"),
        ({"methods": ["low"], "settings": settings.override({"tol": 1}), "seeds": [0]},
         r"random, error with tol 0.03 \(now 1"),
        ({"methods": ["low"], "settings": settings, "seeds": [0, 1]}, r"seeds \[0\] \(now"),
        ({"methods": ["spufix"], "settings": settings, "seeds": [5]}, r"first seed 0 \(now 5\)"),
    ]  # fmt: skip
    for given, match in refused:
        with pytest.raises(RunMismatch, match=match):
            repair_audit(audit, data, **given, **where)
    other = make_audit(tmp_path / "other", data, net, device=CPU)
    judge(other, (0, 2))
    with pytest.raises(RunMismatch, match=r"with other verdicts: .* --fresh"):
        repair_audit(other, data, methods=["spufix"], settings=settings, seeds=[0], **where)
    assert json.loads((tmp_path / "repair.json").read_text()) == first

    fresh = repair_audit(other, data, methods=["spufix"], seeds=[0], fresh=True, **where)
    assert list(fresh["methods"]) == ["spufix"]
    left = {path.name for path in tmp_path.glob("*.*")}
    assert left == {"repair.json", "spufix.json", "spufix.safetensors"}
    (tmp_path / "repair.json").write_text("{")
    with pytest.raises(RunMismatch, match=r"repair.json cannot be read"):
        repair_audit(other, data, methods=["spufix"], seeds=[0], **where)


def test_advice_ends(audit: Audit, data: Splits, told: dict, tmp_path: Path):
    """Following the advice, every command is another one, until nothing is left to try."""
    fixed = {"k": 100, "replay": 0, "ends": 50, "epochs": 2, "tol": 0.0, "lr": 1e-5}
    settings, seen = TuneSettings().override(fixed), []
    for _ in range(20):
        found = repair_audit(
            audit, data, methods=["low"], settings=settings, seeds=[0], device=CPU, out=tmp_path
        )
        step = next_steps(found)[0]
        if "--method low" not in (step.command or ""):
            break
        assert step.command not in seen
        seen.append(step.command)
        words = step.command.split()
        assert words.count("--method") == 1
        pairs = [w for before, w in pairwise(words) if before == "--set"]
        settings = TuneSettings().override(parse_assignments(pairs))
    assert len(seen) > 2
    assert step.text.startswith(("Nothing is left to try", "Compare with"))


def test_advice_where_tuning_has_nothing_to_learn(told: dict):
    other = json.loads(json.dumps(told))
    other["settings"] |= {"target": 0.0}
    run = other["methods"]["low"]["runs"][0]
    run |= {"chosen": 0, "reached": False, "wrong": 0}
    run["log"] = [run["log"][0] | {"epoch": i} for i in range(5)]
    text, command = next_steps(other)[0]
    assert "right on all 200 images that it was tuned on" in text
    assert "cannot move it" in text
    assert command == "truecue methods"
    assert not any("--set" in (step.command or "") for step in next_steps(other))
    run["wrong"] = 7  # there is something to learn: faster
    other["settings"]["lr"] = 0.001
    assert "--set lr=0.01 --set target=0" in (next_steps(other)[0].command or "")


def test_a_gap_that_did_not_change_is_called_that(told: dict):
    other = json.loads(json.dumps(told)) | {"first": "spufix"}
    del other["methods"]["low"]
    other["methods"]["spufix"]["parts"]["val"]["gap"]["value"] = 0.1251
    other["before"]["val"]["gap"]["value"] = 0.125
    zero = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    other["methods"]["spufix"]["change"]["val"] = {"accuracy": zero, "gap": zero}
    other["methods"]["spufix"]["change"]["test"]["gap"] = zero
    assert headline(other) == ("SpuFix did not change the gap of +12.5 points", "bad")
    clear = {"value": 0.07, "low": 0.03, "high": 0.11, "n": 2}
    other["methods"]["spufix"]["change"]["test"]["gap"] = clear
    other["before"]["test"]["gap"]["value"] = 0.4
    other["methods"]["spufix"]["parts"]["test"]["gap"]["value"] = 0.47
    assert headline(other)[0] == (
        "SpuFix did not change the gap of +12.5 points on validation images; on test images it went"
        " from +40.0 to +47.0"
    )
    other["methods"]["spufix"]["change"]["test"]["gap"] = zero
    first, *others = next_steps(other)
    assert "--method low" in (first.command or "")
    assert not any((step.command or "").startswith("truecue audit") for step in others)


# --- what is measured


def test_curve_of_accuracy_by_rank():
    y = torch.tensor([0] * 4 + [1] * 8)
    ranking = rank(torch.arange(12).double(), y, 3)
    hit = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]).bool()
    assert curve(hit, ranking, 4).tolist() == [0.5, 0.0, 0.5, 1.0]
    assert curve(hit, ranking, 2).tolist() == [0.25, 0.75]
    assert math.isnan(curve(hit, rank(torch.full((12,), torch.nan), y, 3), 4)[0])


def test_change_on_the_same_images(data: Splits):
    n = 400
    images = data.test.select(torch.arange(n))
    ranking = rank(torch.arange(n).double(), images.y, 2)
    part = Part(torch.zeros(n, 4), images, ranking, None, None)
    rng = torch.Generator().manual_seed(0)
    before, after = (torch.rand(n, generator=rng) < p for p in (0.6, 0.8))
    found = change(before, after, part, 40)
    gaps = [float(end_hits(hit, ranking, 40).gaps.mean()) for hit in (before, after)]
    assert found["gap"]["value"] == pytest.approx(gaps[1] - gaps[0])
    assert found["accuracy"]["value"] == pytest.approx(
        float(after.double().mean() - before.double().mean())
    )
    # the interval of the gap's change, against drawing the images of each end again
    ends = {c: (ids[:40], ids[-40:]) for c in (0, 1) for ids in [ranking.of(c)]}
    moved = after.double() - before.double()
    draws = torch.zeros(4000, dtype=torch.float64)
    for low, high in ends.values():
        for ids, sign in ((high, 1), (low, -1)):
            again = ids[torch.randint(40, (4000, 40), generator=rng)]
            draws += sign * moved[again].mean(1) / 2
    half = (found["gap"]["high"] - found["gap"]["low"]) / 2
    assert half == pytest.approx(1.96 * float(draws.std()), rel=0.1)
    same = change(before, before, part, 40)
    assert same["gap"]["low"] == same["gap"]["high"] == 0


def test_scores_without_bias_labels_or_ends(data: Splits, net: Classifier):
    images = data.test
    with torch.no_grad():
        phi = net.features(images.images[:])
    nothing = rank(torch.full((len(images),), torch.nan), images.y, 2)
    found = score(net.head, Part(phi, images, nothing, None, None), None, 0)
    assert found["gap"]["value"] is None
    assert found["groups"] is None
    assert found["curve"] == [None] * 10
    assert found["untouched"]["value"] == pytest.approx(found["accuracy"]["value"])


# --- what is refused


def test_a_repair_needs_verdicts_that_say_spurious(data: Splits, net: Classifier, tmp_path: Path):
    audit = make_audit(tmp_path / "a", data, net, device=CPU)
    with pytest.raises(DataError, match=r"no feature of .* has been judged.*truecue app .*--verd"):
        repair_audit(audit, data, device=CPU)
    judge(audit, core=((0, 0), (1, 1)))
    with pytest.raises(
        DataError, match=r"none of the 2 features judged .* \(2 core, 0 undecided\)"
    ):
        repair_audit(audit, data, device=CPU)
    assert not (audit.folder / "repair").exists()


def test_a_repair_needs_the_same_images_and_known_methods(audit: Audit, data: Splits):
    with pytest.raises(ConfigError, match="no repair 'lowest'; did you mean 'low'"):
        repair_audit(audit, data, methods=["lowest"], device=CPU)
    with pytest.raises(ConfigError, match="at least one seed"):
        repair_audit(audit, data, seeds=[], device=CPU)
    with pytest.raises(ConfigError, match="at least one repair"):
        repair_audit(audit, data, methods=[], device=CPU)
    with pytest.raises(DataError, match="the train images are not those of"):
        repair_audit(audit, splits((1500, 1000, 500)), device=CPU)


def test_classes_that_are_too_small(data: Splits, net: Classifier, tmp_path: Path):
    assert data.val is not None
    few = torch.cat([(data.val.y == c).nonzero()[:n, 0] for c, n in ((0, 3), (1, 40))])
    small = Splits(data.train, data.val.select(few), data.test)
    audit = make_audit(tmp_path / "small", small, net, device=CPU)
    judge(audit, (0, 2))
    with pytest.raises(DataError, match=r"no class can be repaired: .*\(one has 2000 and 3\)"):
        repair_audit(audit, small, device=CPU)
    judge(audit, (1, 3))
    told = repair_audit(audit, small, methods=["low"], seeds=[0], device=CPU)
    assert [row["class"] for row in told["repaired"]] == [1]
    assert told["notes"][0].endswith("fewer than two training or four validation images: one")
    assert "fewer than 30 for two" in told["notes"][1]
    assert told["before"]["val"]["groups"] is None

    # a feature that is the same everywhere does not order images
    def flat(_: str, part: ImageSet) -> dict[str, torch.Tensor]:
        return {"nothing": torch.zeros(len(part))}

    audit = make_audit(tmp_path / "flat", data, net, cues=flat, device=CPU)
    judge(audit, (0, 4))
    with pytest.raises(DataError, match="the spurious features of one do not vary"):
        repair_audit(audit, data, device=CPU)
    judge(audit, (1, 3))
    told = repair_audit(audit, data, methods=["low"], seeds=[0], device=CPU)
    assert told["notes"] == ["Left out, as their spurious features do not vary: one"]

    none = Splits(data.train, None, data.test)
    audit = make_audit(tmp_path / "none", none, net, device=CPU)
    judge(audit, (0, 2))
    with pytest.raises(DataError, match="has no validation images"):
        repair_audit(audit, none, device=CPU)


# --- the page


def test_intervals_over_seeds_hold_their_mean(told: dict):
    narrow = {"value": 0.1685, "low": 0.1672, "high": 0.1698, "n": 2}
    other = json.loads(json.dumps(told))
    other["methods"]["low"]["over_seeds"] = {
        part: {"accuracy": narrow, "gap": narrow} for part in ("val", "test")
    }
    row = next(row for row in over_seeds(other) if row[0] == "Low-spuriosity tuning")
    assert row[1].replace("\u202f", " ").replace("\u00a0", " ").endswith("(16.7–17.0 %)")


def test_the_page_holds_what_was_measured(told: dict, tmp_path: Path):
    page = write_repair_page(told, tmp_path)
    text = page.read_text()
    assert page.name == "repair.html"
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    for title in ("Low-spuriosity tuning", "Random tuning", "Error tuning", "SpuFix"):
        assert title in text
    assert headline(told)[0] in text
    assert "Bias labels are used here, to measure" in text
    assert text.rindex("What to do next") > text.rindex("Over seeds")
    for step in next_steps(told):
        assert step.text in text.replace("&#39;", "'")


def test_the_page_says_when_the_baseline_does_as_well(told: dict):
    other = json.loads(json.dumps(told))
    other["methods"]["random"]["over_seeds"]["val"]["gap"]["value"] = 0.0
    said, tone = headline(other)
    assert said.endswith("but random tuning did as well")
    assert tone == "unclear"
    assert next_steps(other)[0].text.startswith("Random images narrow the gap as far")
    for name in ("low", "random"):  # neither does anything
        same = other["before"]["val"]["gap"]["value"]
        other["methods"][name]["over_seeds"]["val"]["gap"]["value"] = same
    assert not next_steps(other)[0].text.startswith("Random images")


def test_the_page_says_when_the_halves_disagree(told: dict):
    other = json.loads(json.dumps(told))
    run = other["methods"]["low"]["runs"][0]
    run |= {"chosen": 0, "reached": True}
    run["log"] = [run["log"][0] | {"gap": 0.01}]
    said, tone = headline(other)
    old = f"{100 * told['before']['val']['gap']['value']:+.1f}"
    assert f"+1.0 points, is within 5, but on images that nothing was chosen by it is {old}" in said
    assert tone == "unclear"
    commands = [step.command for step in next_steps(other)]
    given = f"truecue repair {told['audit']} --set lr=0.01"
    assert commands[0] == f"{given} --set target=0 --set tol=1 --set ends=50"
    assert not any(command.startswith("truecue audit") for command in commands)


def test_the_page_says_when_nothing_could_be_kept(told: dict):
    other = json.loads(json.dumps(told))
    other["methods"]["low"]["runs"][0] |= {"chosen": 0, "reached": False}
    assert headline(other) == (
        "Low-spuriosity tuning found no epoch with a smaller gap that keeps the accuracy; the model"
        " is as it was",
        "bad",
    )
    other["before"]["val"]["untouched"] = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 10}
    other["methods"]["low"]["parts"]["val"]["untouched"] = {
        "value": 0.5,
        "low": 0,
        "high": 1,
        "n": 10,
    }
    commands = [step.command for step in next_steps(other)]
    assert any(f"truecue repair {told['audit']} --replay 100 " in f"{c} " for c in commands)
    assert "lost 40.0 points" in render(other)


def test_validation_images_that_hide_the_gap_are_told(told: dict, tmp_path: Path):
    shares = (1.0, 1.0, 0.5)  # of images with the cue: as biased as training, and test images not
    data = Splits(*(as_images(world(n, seed, share))
                    for seed, (n, share) in enumerate(zip((400, 200, 200), shares, strict=True))),
                  bias="cue", aligned=torch.eye(2, dtype=torch.bool))  # fmt: skip
    audit = make_audit(tmp_path / "audit", data, network(data), device=CPU)
    judge(audit, (0, 2), (1, 3))
    found = repair_audit(audit, data, methods=["low", "error"], seeds=[0], device=CPU)
    gaps = (found["before"][part]["gap"] for part in ("test", "val"))
    test, val = (f"{100 * gap['value']:+.1f}" for gap in gaps)
    (unlike,) = (note for note in found["notes"] if "poor guide" in note)
    assert f"{test} points on test images and {val} on validation images" in unlike
    assert any("nearly the same as random tuning" in note for note in found["notes"])
    page = " ".join(render(found).split())
    assert unlike in page
    assert not any("poor guide" in n or "random tuning" in n for n in told["notes"])


def test_commands_name_the_folder_of_the_images(told: dict):
    mine = told | {"facts": {"data": "photos", "settings": {"root": "/x/my photos", "table": ""}}}
    commands = [step.command or "" for step in next_steps(mine)]
    assert any("truecue audit '/x/my photos' --model" in command for command in commands)


def test_spufix_takes_away_a_component_that_was_judged(
    tmp_path: Path, data: Splits, net: Classifier
):
    settings = AuditSettings(components=2)
    audit = make_audit(tmp_path / "a", data, net, settings=settings, device=CPU)
    second = audit.features(0)[-1]
    assert second.name == "component 2"
    judge(audit, (0, second.feature))
    repair_audit(audit, data, methods=["spufix"], seeds=[0], device=CPU, out=tmp_path / "out")
    made = load_classifier(tmp_path / "out" / "spufix.safetensors")
    with torch.no_grad():
        phi = net.features(data.train.images[:])
        of_class = neural_pca(phi[data.train.y == 0], net.head.weight[0].detach())
        seen = net.features(data.test.images[:])
        expected = spufix(net.head(seen), seen, {0: of_class}, {0: [1]})
        found = made(data.test.images[:])
        assert float((expected - net.head(seen)).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
