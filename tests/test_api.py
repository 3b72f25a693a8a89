from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from truecue import api
from truecue.atomic import LOCK, locked
from truecue.data.sets import Attribute, Splits
from truecue.engine.device import Device
from truecue.engine.plan import Adam, Patience, Plan, Plateau
from truecue.errors import DataError, RunMismatch, StorageError, SupervisionError
from truecue.methods import DeNetDM
from truecue.methods.base import Uses
from truecue.methods.erm import ERM
from truecue.nets.build import build
from truecue.nets.classifier import load_classifier
from truecue.testing import same_bits, small_gratings

PLAN = Plan(epochs=2, batch_size=64)
METHOD = DeNetDM(plan=PLAN, experts=PLAN)


@cache
def cpu() -> Device:
    return Device("cpu")


@pytest.fixture(scope="module")
def data() -> Splits:
    return small_gratings()


@pytest.fixture(scope="module")
def run(data: Splits, tmp_path_factory) -> tuple[api.Trained, Path]:
    folder = tmp_path_factory.mktemp("run")
    facts = {"data": "gratings", "settings": {"conflicting": 0.25}, "command": "truecue train"}
    return api.train(METHOD, data, out=folder, device=cpu(), facts=facts), folder


def test_everything_is_in_the_folder(run) -> None:
    trained, folder = run
    names = {"model", "erm", "denetdm-deep", "denetdm-shallow"}
    for name in names:
        net = load_classifier(folder / f"{name}.safetensors")
        assert net.spec["extra"]["classes"] == ["horizontal", "vertical"]
    assert {p.stem for p in folder.glob("*.safetensors")} == names
    assert json.loads((folder / "report.json").read_text()) == json.loads(
        json.dumps(trained.report)
    )
    assert (folder / "report.html").stat().st_size > 1000
    assert set(trained.others) == names - {"model"}
    assert not any(net.training for net in (trained.net, *trained.others.values()))


def test_the_report_tells_what_was_done(run) -> None:
    report = run[0].report
    assert (report["kind"], report["before"], report["after"]) == ("train", "erm", "denetdm")
    assert report["task"]["bias"] == "tint"
    assert report["task"]["sizes"] == {"train": 256, "val": 64, "test": 64}
    assert sum(map(sum, report["task"]["train_cells"])) == 256
    assert report["labels_used"] == {"training": "class labels only", "choosing": "none"}
    assert (report["seed"], report["selection"], report["command"]) == (0, "last", "truecue train")
    assert list(report["models"]) == ["erm", "denetdm"]
    model = report["models"]["denetdm"]
    assert [stage["name"] for stage in model["stages"]] == ["experts", "student"]
    assert {(row["branch"], row["split"]) for row in model["curves"]} == {
        (b, s) for b in ("shallow", "deep", "joint", "net") for s in ("train", "val")
    }
    assert model["settings"] == METHOD.to_dict()


def test_the_baseline_is_the_same_network_with_the_same_plan(run) -> None:
    models = run[0].report["models"]
    assert models["erm"]["arch"] == models["denetdm"]["arch"] == "mlp-5"
    assert models["erm"]["settings"]["plan"] == models["denetdm"]["settings"]["plan"]


def test_measures_are_those_of_the_network(run, data: Splits) -> None:
    trained, _ = run
    for name, net in (("denetdm", trained.net), ("erm", trained.others["erm"])):
        right = net(data.test.images).argmax(1) == data.test.y
        found = trained.report["models"][name]["test"]
        assert found["average"]["value"] == pytest.approx(float(right.float().mean()))
        tint = data.test.attributes["tint"].values
        cells = [
            [int((right & (data.test.y == c) & (tint == v)).sum()) for v in (0, 1)] for c in (0, 1)
        ]
        assert found["cells"]["hits"] == cells


def test_the_same_run_is_read_back_and_another_refused(run, data: Splits) -> None:
    trained, folder = run
    facts = {"data": "gratings", "settings": {"conflicting": 0.25}}
    again = api.train(METHOD, data, out=folder, device=cpu(), facts=facts)
    assert same_bits(trained, again)
    with pytest.raises(RunMismatch, match=r"seed 0 \(now 1\)"):
        api.train(METHOD, data, out=folder, device=cpu(), facts=facts, seed=1)


def test_one_folder_is_trained_in_by_one_process_at_a_time(data: Splits, tmp_path: Path) -> None:
    class Meanwhile(ERM):
        def fit(self, data, run):
            with pytest.raises(StorageError, match="busy"), locked(tmp_path / LOCK, "busy"):
                pass
            return super().fit(data, run)

    def found() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    trained = api.train(Meanwhile(plan=PLAN), data, out=tmp_path, device=cpu())
    before = found()
    with locked(tmp_path / LOCK):
        for fresh in (False, True):
            with pytest.raises(StorageError, match=r"is training in .*; wait .* folder by --out"):
                api.train(Meanwhile(plan=PLAN), data, out=tmp_path, device=cpu(), fresh=fresh)
    assert found() == before
    assert same_bits(trained, api.train(Meanwhile(plan=PLAN), data, out=tmp_path, device=cpu()))


def test_nothing_is_written_without_a_folder(run, data, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert same_bits(run[0], api.train(METHOD, data, device=cpu()))
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_may_be_asked_for(data: Splits) -> None:
    trained = api.train(METHOD, data, device=cpu(), arch="mlp-3x8")
    assert trained.net.spec["arch"] == trained.others["erm"].spec["arch"] == "mlp-3x8"


def test_a_baseline_for_a_plan_that_only_the_method_can_carry_out(data: Splits) -> None:
    """Plain training watches nothing, so it can neither stop early nor wait for a plateau."""
    plan = Plan(
        epochs=2, batch_size=64, select="val_loss", stop=Patience(), schedule=Plateau(), views=2,
        optimizer_of={"all": Adam(lr=0.5)}, turns=("all",),
    )  # fmt: skip
    report = api.train(DeNetDM(plan=plan, experts=PLAN), data, device=cpu()).report
    assert report["models"]["erm"]["selection"] == "last"
    assert report["selection"] == "plan: val_loss, experts: last"
    assert report["labels_used"]["choosing"] == "class labels of validation images"


class Asking(ERM):
    """Plain training that looks at what it is shown."""

    uses: ClassVar[Uses] = Uses.VAL_ATTRIBUTES

    def fit(self, data, run):
        assert data.bias == "tint"
        assert set(data.val.attributes) == {"tint"}
        assert data.train.attributes == {}
        assert data.test.attributes == {}
        assert data.aligned is not None
        return super().fit(data, run)


def test_a_method_is_shown_what_it_declares(data: Splits) -> None:
    report = api.train(Asking(plan=PLAN), data, device=cpu()).report
    assert report["labels_used"]["training"].endswith("bias labels of validation images")


@pytest.mark.parametrize("change", [{"bias": None, "aligned": None}, {"val": None}])
def test_supervision_that_is_not_there_is_refused(data: Splits, change) -> None:
    with pytest.raises(SupervisionError, match=r"Asking needs .*, and this data has none.*erm"):
        api.train(Asking(plan=PLAN), replace(data, **change), device=cpu())


def test_a_split_without_the_bias_is_refused_before_training(data: Splits) -> None:
    for name in ("val", "test"):
        other = replace(data, **{name: getattr(data, name).blind()})
        with pytest.raises(DataError, match=f"the {name} images have no attribute 'tint'"):
            api.train(ERM(plan=PLAN), other, device=cpu())


def test_data_without_a_bias_or_validation_images_can_be_trained_on(data: Splits) -> None:
    plain = Splits(data.train.blind(), None, data.test.blind())
    report = api.train(METHOD, plain, device=cpu()).report
    test = report["models"]["denetdm"]["test"]
    assert report["task"]["bias"] is None
    assert test["conflicting"]["value"] is None
    assert 0 <= test["average"]["value"] <= 1
    assert "val" not in report["models"]["denetdm"]


def test_images_of_unknown_bias_are_in_no_group_and_count_without_groups(data: Splits) -> None:
    values = data.test.attributes["tint"].values.clone()
    values[::2] = -1
    names = data.test.attributes["tint"].names
    test = replace(data.test, attributes={"tint": Attribute(values, names)})
    trained = api.train(ERM(plan=PLAN), replace(data, test=test), device=cpu())
    found = trained.report["models"]["erm"]["test"]
    assert sum(map(sum, found["cells"]["total"])) == found["unbiased"]["n"] == 32
    right = trained.net(test.images).argmax(1) == test.y
    assert (found["average"]["n"], found["average"]["value"]) == (64, float(right.double().mean()))
    by_class = [float(right[test.y == c].double().mean()) for c in (0, 1)]
    assert found["worst_class"]["value"] == min(by_class)
    assert min(by_class) != float(right[1::2].double().mean())


# measuring a network that is there


def test_evaluating_gives_the_reports_figures(run, data: Splits) -> None:
    trained, folder = run
    report = api.evaluate(load_classifier(folder), data, name="mine", device=cpu())
    assert (report["kind"], report["after"]) == ("evaluate", "mine")
    for split in ("val", "test"):
        assert report["models"]["mine"][split] == trained.report["models"]["denetdm"][split]


def test_a_network_for_other_images_is_refused(run, data: Splits) -> None:
    _, folder = run
    swapped = ("vertical", "horizontal")
    parts = {k: replace(part, classes=swapped) for k, part in data.parts().items()}
    with pytest.raises(DataError, match="knows the classes horizontal, vertical; the data has"):
        api.evaluate(load_classifier(folder), replace(data, **parts), device=cpu())
    other = build("conv3", channels=1, size=16, n_classes=3)
    with pytest.raises(DataError, match="takes 1 channels and tells 3 classes apart"):
        api.evaluate(other, data, device=cpu())


def test_random_states_are_left_alone_when_training_fails(data: Splits) -> None:
    class Failing(ERM):
        def fit(self, data, run):
            torch.manual_seed(1)
            raise RuntimeError("on purpose")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="on purpose"):
        api.train(Failing(plan=PLAN), data, device=cpu())
    assert torch.equal(torch.get_rng_state(), before)
