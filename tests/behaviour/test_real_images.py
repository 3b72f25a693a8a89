"""Methods that know the groups, on real photographs with a real bias."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from truecue.data.loader import Batch, Loader
from truecue.data.sets import Splits
from truecue.data.suites import SUITES
from truecue.engine.device import Device
from truecue.engine.judge import aligned_mask
from truecue.engine.learner import Learner
from truecue.fitting import Fitting
from truecue.methods import DFR, ERM, GroupDRO, Reweight
from truecue.methods.groupdro import WorstGroups
from truecue.methods.grouping import balanced_subset, grouped
from truecue.methods.reweight import WeightedCE, group_weights
from truecue.nets.build import build
from truecue.nets.pretrained import Pretrained
from truecue.report.parts import measure

pytestmark = pytest.mark.slow
WANTED = {
    "dogs_cats": {"size": 32},
    "pacs": {"size": 32, "classes": ("person", "horse"), "styles": ("photo", "sketch")},
}


@cache
def loaded(name: str, root: Path) -> Splits:
    return SUITES[name](**WANTED[name]).load(root, seed=0)


@pytest.fixture(params=WANTED)
def data(request, real_data: Path, tmp_path_factory, monkeypatch) -> Splits:
    monkeypatch.setenv("TRUECUE_CACHE", str(real_cache(tmp_path_factory)))
    return loaded(request.param, real_data)


_CACHE: list[Path] = []


def real_cache(tmp_path_factory) -> Path:
    """One cache for the tests of this file: decoding and encoding take their time."""
    if not _CACHE:
        _CACHE.append(tmp_path_factory.mktemp("cache"))
    return _CACHE[0]


def test_every_image_belongs_to_exactly_one_group(data: Splits) -> None:
    groups = grouped(data.train, data.bias)
    assert len(groups.counts) == 4
    assert int(groups.counts.sum()) == len(data.train)
    values = data.train.attributes[data.bias].values
    for g, name in enumerate(groups.names):
        cell = {(int(y), int(v)) for y, v in zip(data.train.y[groups.of == g],
                                                 values[groups.of == g], strict=True)}  # fmt: skip
        assert len(cell) == 1, name


@pytest.mark.parametrize("kind", ["groupdro", "reweight"])
def test_every_image_gets_a_gradient(data: Splits, kind: str) -> None:
    """The fault of another library: half of the images got no loss at all."""
    groups = grouped(data.train, data.bias)
    torch.manual_seed(0)
    net = build("mlp-3x8", channels=3, size=32, n_classes=2)
    weights = group_weights(groups.counts, "inverse", 0.0)[groups.of]
    learner: Learner = (
        WorstGroups(net, groups, data.bias, eta=0.01, c=0.0)
        if kind == "groupdro"
        else WeightedCE(net, weights)
    )
    logits: list[torch.Tensor] = []

    def keep(_: object, __: object, out: torch.Tensor) -> None:
        out.retain_grad()
        logits.append(out)

    net.register_forward_hook(keep)
    source, seen = Loader(data.train, batch_size=256), []
    for step in range(source.per_epoch):
        batch: Batch = source.batch(step)
        learner(batch).loss.backward()
        seen.append(batch.ids[(logits[-1].grad != 0).any(1)])
    assert sorted(torch.cat(seen).tolist()) == list(range(len(data.train)))


def test_every_group_counts_the_same_in_dfr_and_sampling(data: Splits) -> None:
    groups = grouped(data.train, data.bias)
    ids = balanced_subset(groups, 0, "test")
    assert torch.bincount(groups.of[ids]).tolist() == [int(groups.counts.min())] * 4
    chance = (1 / groups.counts.double())[groups.of]
    total = torch.zeros(4).double().index_add_(0, groups.of, chance)
    assert torch.allclose(total, torch.ones(4).double())


def test_knowing_the_groups_helps_the_worst_one(
    real_data: Path, tmp_path_factory, monkeypatch
) -> None:
    """Persons in photographs, horses in sketches; a last layer on a frozen CIFAR-10 network."""
    monkeypatch.setenv("TRUECUE_CACHE", str(real_cache(tmp_path_factory)))
    data = loaded("pacs", real_data)
    pretrained = Pretrained(
        weights="weights/cifar10_resnet20.pt", arch="resnet20", norm="imagenet", frozen=True
    )
    device = Device("cpu")
    fitting = Fitting(data, seed=0, device=device, pretrained=pretrained, root=real_data)
    worst = {}
    for method in (ERM(), GroupDRO(), Reweight(form="loss"), DFR(fit_on="train", fits=5)):
        net = fitting.fit(method.override({"plan.epochs": 30}), type(method).__name__).net
        test = measure(net, fitting.seen.test, data.bias, aligned_mask(data), device)
        worst[type(method).__name__] = test["worst_group"]["value"]
    assert worst["GroupDRO"] > worst["ERM"] + 0.15, worst
    assert worst["Reweight"] > worst["ERM"] + 0.1, worst
    assert worst["DFR"] > worst["ERM"] + 0.1, worst
