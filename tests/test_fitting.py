from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from truecue import api
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.plan import SGD, Adam, Constant, Cosine, Patience, Plan, Plateau
from truecue.errors import ConfigError, SupervisionError
from truecue.fitting import REFERENCE, Fitting, plainly
from truecue.methods import DFR, JTT, DeNetDM, LfF
from truecue.methods.erm import ERM
from truecue.nets.build import build
from truecue.nets.classifier import load_classifier, save_classifier
from truecue.nets.pretrained import Pretrained
from truecue.testing import small_gratings


@cache
def cpu() -> Device:
    return Device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data() -> Splits:
    return small_gratings()


@pytest.fixture
def weights(data: Splits, tmp_path: Path) -> Path:
    torch.manual_seed(3)
    net = build("conv3", channels=3, size=max(data.train.shape[1:]), n_classes=2)
    save_classifier(net, tmp_path / "start")
    return tmp_path / "start"


def fitting(data: Splits, weights: Path, *, frozen: bool) -> Fitting:
    pretrained = Pretrained(weights=str(weights), frozen=frozen)
    return Fitting(data, seed=0, device=cpu(), pretrained=pretrained)


def same_bits(ours: nn.Module, theirs: nn.Module) -> bool:
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def quick(method, **changes):
    return method.override({"plan.epochs": 2, "plan.batch_size": 64} | changes)


@pytest.mark.parametrize("method", [ERM(), LfF(), JTT(), DFR()])
def test_frozen_encoder_stays_and_the_last_layer_learns(
    method, data: Splits, weights: Path, tmp_path: Path
) -> None:
    made = fitting(data, weights, frozen=True)
    fitted = made.fit(quick(method), "run")
    whole = made.whole(fitted.net)
    given = load_classifier(weights)
    assert same_bits(whole.encoder, given.encoder)
    with torch.no_grad():
        z = given.features(data.test.images[:20])
        torch.testing.assert_close(whole(data.test.images[:20]), fitted.net.head(z))
    assert not torch.equal(whole.head.weight[:2], given.head.weight[:2])


def test_training_begins_with_the_weights(data: Splits, weights: Path) -> None:
    made = fitting(data, weights, frozen=False)
    tiny = quick(ERM(), **{"plan.epochs": 1, "plan.optimizer.lr": 1e-12})
    net = made.fit(tiny, "run").net
    given = load_classifier(weights)
    for name, value in net.encoder.named_parameters():
        torch.testing.assert_close(value, given.encoder.get_parameter(name), atol=1e-6, rtol=0)
    moved = made.fit(quick(ERM()), "more").net
    assert not torch.allclose(moved.encoder.conv1.weight, given.encoder.conv1.weight, atol=1e-4)


def test_what_a_frozen_encoder_cannot_be_used_for(data: Splits, weights: Path) -> None:
    made = fitting(data, weights, frozen=True)
    with pytest.raises(ConfigError, match=r"set plan\.augment to \[\]"):
        made.fit(quick(ERM(), **{"plan.augment": ["flip"]}), "a")
    with pytest.raises(ConfigError, match="builds networks of its own"):
        made.fit(quick(DeNetDM()), "b")


def test_train_with_a_frozen_encoder_delivers_a_network_for_images(
    data: Splits, weights: Path, tmp_path: Path
) -> None:
    pretrained = Pretrained(weights=str(weights), frozen=True)
    out = tmp_path / "run"
    method = quick(LfF())
    trained = api.train(method, data, out=out, device=cpu(), pretrained=pretrained)
    assert trained.report["pretrained"]["frozen"]
    again = api.evaluate(load_classifier(out), data, device=cpu())
    ours = trained.report["models"]["lff"]["test"]["average"]
    assert again["models"]["model"]["test"]["average"] == ours
    with pytest.raises(ConfigError, match="arch or pretrained"):
        api.train(method, data, device=cpu(), pretrained=pretrained, arch="mlp-3")


def test_choosing_by_guessed_groups_trains_the_guessing_pair_once(
    data: Splits, tmp_path: Path
) -> None:
    method = quick(ERM(), **{"plan.select": "val_pseudo_group", "plan.epochs": 3})
    trained = api.train(method, data, out=tmp_path, device=cpu(), arch="mlp-3")
    used = trained.report["labels_used"]
    assert used["choosing"] == "class labels of validation images"
    assert (tmp_path / REFERENCE / "stages" / "fit.done").exists()
    again = api.train(method, data, device=cpu(), arch="mlp-3")
    assert same_bits(trained.net, again.net)


def test_groups_are_guessed_by_where_the_two_networks_of_lff_disagree(data: Splits) -> None:
    plan = Plan(epochs=3, batch_size=32, select="val_pseudo_group")
    found = Fitting(data, seed=0, device=cpu(), arch="conv3")._guessed(plan)
    pair = Fitting(data, seed=0, device=cpu(), arch="conv3")
    assert data.val is not None
    made = pair.fit(LfF(plan=Plan(epochs=3, batch_size=32)), "other").run.branches
    biased, debiased = (
        made[name].net(data.val.images).argmax(1) for name in ("biased", "debiased")
    )
    assert torch.equal(found, biased != debiased)
    assert 0 < int(found.sum()) < len(found)


@pytest.mark.parametrize(
    ("schedule", "kept"), [(Plateau(), Constant()), (Cosine(warmup=1), Cosine(warmup=1))]
)
def test_plain_training_takes_over_of_a_plan_what_it_has_a_use_for(schedule, kept) -> None:
    shared = {"epochs": 7, "batch_size": 9, "drop_last": True, "augment": ("flip",), "average": 0.5}
    of_the_method = {
        "views": 2, "turns": ("debiased",), "optimizer_of": {"biased": Adam(lr=0.5)},
        "select": "val_loss", "stop": Patience(),
    }  # fmt: skip
    sgd = SGD(lr=0.2)
    plan = Plan(**shared, **of_the_method, schedule=schedule, optimizer=sgd)
    assert plainly(plan) == Plan(**shared, schedule=kept, optimizer=sgd)


@pytest.mark.parametrize(
    ("rule", "error", "words"),
    [
        ("val_worst_group", SupervisionError, "needs bias labels of the validation images"),
        ("val_worst_class", ConfigError, "needs validation images"),
    ],
)
def test_a_rule_that_the_data_cannot_serve_is_refused_before_the_first_stage(
    data: Splits, tmp_path: Path, rule: str, error: type[Exception], words: str
) -> None:
    assert data.val is not None
    val = None if error is ConfigError else data.val.blind()
    blind = Splits(data.train.blind(), val, data.test.blind())
    method = quick(JTT(), **{"identify.epochs": 1, "plan.select": rule})
    with pytest.raises(error, match=words):
        Fitting(blind, seed=0, device=cpu(), arch="mlp-3", folder=tmp_path).fit(method, "jtt")
    assert not list(tmp_path.iterdir())
