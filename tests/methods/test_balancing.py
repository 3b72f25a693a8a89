"""Re-weighting and subsampling: published weights, the loss form, and what each may look at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from unfitted import Unfitted

from truecue.data.loader import Batch, Loader
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run
from truecue.errors import SupervisionError
from truecue.methods.base import Method, Uses
from truecue.methods.dfr import DFR
from truecue.methods.grouping import grouped
from truecue.methods.reweight import Reweight, WeightedCE, group_weights
from truecue.methods.subsample import Subsample
from truecue.nets.build import build
from truecue.testing import check_supervision, fit, small_gratings

WATERBIRDS = torch.tensor([3498, 184, 56, 1057])
SHORT = Plan(epochs=1, batch_size=64)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("inverse", [0.046628, 0.886448, 2.912613, 0.154311]),
        ("sqrt", [0.265204, 1.156327, 2.096020, 0.482450]),
        ("effective", [0.054803, 0.887248, 2.896681, 0.161269]),
    ],
)
def test_weights_of_the_loss_on_waterbirds(rule: Any, wanted: list[float]) -> None:
    found = group_weights(WATERBIRDS, rule, 0.9999)
    torch.testing.assert_close(found, torch.tensor(wanted).double(), rtol=0, atol=1e-6)
    assert float(found.sum()) == pytest.approx(4)


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        (WATERBIRDS, [1.370783, 26.059783, 85.625, 4.536424]),
        (torch.tensor([3682, 1113]), [1.302281, 4.308176]),
    ],
)
def test_weights_of_the_sampler_on_waterbirds(counts, wanted: list[float]) -> None:
    """Published as N / n; only their ratios matter to a sampler."""
    found = group_weights(counts, "inverse", 0.0)
    scaled = found * (float(counts.sum()) / len(counts)) * float((1 / counts.double()).sum())
    torch.testing.assert_close(scaled, torch.tensor(wanted).double(), rtol=1e-6, atol=1e-6)


def test_limits_of_the_effective_number() -> None:
    equal = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(group_weights(WATERBIRDS, "effective", 0.0), equal)
    nearly = group_weights(WATERBIRDS, "effective", 1 - 1e-9)
    inverse = group_weights(WATERBIRDS, "inverse", 0.0)
    torch.testing.assert_close(nearly, inverse, rtol=1e-5, atol=0)


def test_weighted_loss_is_a_mean_over_the_batch_not_over_the_weights() -> None:
    torch.manual_seed(0)
    net = build("mlp-3", channels=3, size=16, n_classes=2)
    data = small_gratings().train
    weights = torch.linspace(0.1, 3, len(data))
    ids = torch.tensor([3, 200, 17])
    batch = Batch((data.images[ids],), data.y[ids], ids)
    p = net(batch.x).detach().double().softmax(1)
    slow = sum(
        -float(weights[i]) * float(p[k, data.y[i]].log()) for k, i in enumerate(ids.tolist())
    )
    found = WeightedCE(net, weights)(batch).loss.detach()
    assert float(found) == pytest.approx(slow / 3, rel=1e-5)


class Spy(Run):
    """A run that keeps what it was asked to train."""

    def __init__(self) -> None:
        super().__init__(None, 0, Device("cpu"))
        self.asked: list[Any] = []

    def train(self, stage, make, data, plan, **more):
        self.asked += [data, more.get("weights")]
        return super().train(stage, make, data, plan, **more)


@pytest.mark.parametrize("by", ["group", "class"])
def test_sampler_draws_every_group_equally_often(by: Any) -> None:
    data, run = small_gratings(), Spy()
    Reweight(by=by, plan=SHORT).fit(data, run)
    groups = grouped(data.train, "tint", by)
    loader = Loader(data.train, batch_size=64, weights=run.asked[1])
    drawn = torch.cat([loader.batch(step).ids for step in range(400)])
    shares = groups.of[drawn].bincount() / len(drawn)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / len(shares)), rtol=0, atol=0.02)


@pytest.mark.parametrize("by", ["group", "class"])
def test_subsample_is_balanced_and_drawn_once(by: Any) -> None:
    data = small_gratings()
    groups = grouped(data.train, "tint", by)
    kept = []
    for _ in range(2):
        run = Spy()
        Subsample(by=by, plan=SHORT).fit(data, run)
        kept.append(run.asked[0])
    assert torch.equal(kept[0].images, kept[1].images)
    again = grouped(kept[0], "tint", by)
    assert again.counts.tolist() == [int(groups.counts.min())] * len(groups.counts)


def test_seeds_keep_other_images() -> None:
    kept = []
    for seed in (0, 1):
        run = Unfitted(seed)
        Subsample().fit(small_gratings(), run)
        kept.append(run.asked["fit"].data.images)
    assert not torch.equal(*kept)


def test_a_tiny_group_is_warned_of() -> None:
    data, run = small_gratings(), Spy()
    few = ~((data.train.y == 0) & (data.train.attributes["tint"].values == 1))
    few[(~few).nonzero()[:3, 0]] = True
    train = data.train.select(few)
    Subsample(plan=SHORT).fit(type(data)(train, None, data.test, bias="tint"), run)
    (said,) = run.warnings
    assert said.startswith("The smallest group (horizontal with tint cold) has 3 training images")
    assert "only 12 of" in said


BY_CLASS = [Reweight(by="class"), Reweight(by="class", form="loss"), Subsample(by="class")]


@pytest.mark.parametrize("method", BY_CLASS, ids=lambda m: m.to_toml().replace("\n", " ")[:40])
def test_by_class_no_bias_label_is_looked_at(method: Method, tmp_path) -> None:
    assert method.supervision() == Uses.LABELS
    assert method.labels_used()["training"] == "class labels only"
    check_supervision(method, tmp_path)
    data = small_gratings()
    assert data.val is not None
    blind = type(data)(data.train.blind(), data.val.blind(), data.test.blind())
    fit(method, blind)


@pytest.mark.parametrize("rule", ["inverse", "sqrt", "effective"])
@pytest.mark.parametrize("form", ["sampler", "loss"])
def test_settings_reach_sampler_and_loss(form: Any, rule: Any) -> None:
    data, run = small_gratings(), Unfitted()
    Reweight(form=form, rule=rule, beta=0.9).fit(data, run)
    groups, (learner, _, _, more) = grouped(data.train, "tint"), run.asked["fit"]
    wanted = group_weights(groups.counts, rule, 0.9)[groups.of]
    assert isinstance(learner, WeightedCE) == (form == "loss")
    found = more["weights"] if form == "sampler" else learner.weights
    torch.testing.assert_close(found, wanted.to(found.dtype))
    assert ("weights" in more) == (form == "sampler")


def test_other_settings_train_too() -> None:
    for form in ("loss", "sampler"):
        for rule in ("sqrt", "effective"):
            method = Reweight(form=form, rule=rule)
            assert method.supervision() == Uses.TRAIN_ATTRIBUTES
            fit(method, small_gratings())


@pytest.mark.parametrize("method", [Reweight(), Subsample(), DFR()], ids=lambda m: m.title[:9])
def test_without_bias_labels_the_error_names_the_setting_that_needs_none(method: Method) -> None:
    data = small_gratings()
    assert data.val is not None
    blind = type(data)(data.train.blind(), data.val.blind(), data.test.blind())
    with pytest.raises(SupervisionError, match="or set by = 'class'"):
        fit(method, blind)


def test_weighted_loss_of_the_published_errors() -> None:
    """Four losses, two of them errors that count ten times: the mean is not divided by weights."""
    errors = torch.tensor([0.3, 1.2, 0.1, 2.0], dtype=torch.float64)
    p = (-errors).exp()
    logits = torch.stack([p.log(), (1 - p).log()], 1)

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return logits[x[:, 0, 0, 0].long()]

    learner = WeightedCE(Fixed(), torch.tensor([1.0, 10.0, 1.0, 10.0]))
    ids = torch.tensor([2, 0, 3, 1])
    x = ids.to(torch.uint8)[:, None, None, None]
    loss = learner(Batch((x,), torch.zeros(4, dtype=torch.int64), ids)).loss
    assert float(loss) == pytest.approx(8.1, abs=1e-6)
