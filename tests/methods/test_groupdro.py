"""Group DRO: published values, a slow loop, and groups that are absent."""

from __future__ import annotations

import math

import pytest
import torch
from unfitted import Unfitted

from truecue.data.loader import Batch
from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run
from truecue.errors import SupervisionError
from truecue.methods.groupdro import GroupDRO, WorstGroups
from truecue.methods.grouping import grouped
from truecue.nets.build import build
from truecue.testing import fit, small_gratings

Y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
A = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])


def data(y: torch.Tensor = Y, a: torch.Tensor = A) -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (len(y), 3, 4, 4), generator=rng).to(torch.uint8)
    return ImageSet(x, y, ("no", "yes"), {"tint": Attribute(a, ("warm", "cold"))})


def learner(of: ImageSet, eta: float = 0.01, c: float = 0.0) -> WorstGroups:
    torch.manual_seed(0)
    net = build("mlp-3", channels=3, size=4, n_classes=2)
    return WorstGroups(net, grouped(of, "tint"), "tint", eta=eta, c=c)


def batch(of: ImageSet, ids: list[int]) -> Batch:
    attributes = {k: a.values[ids] for k, a in of.attributes.items()}
    return Batch((of.images[torch.tensor(ids)],), of.y[ids], torch.tensor(ids), attributes)


LOSSES = torch.tensor([0.5, 2, 0, 1])  # the third group is not in the batch


@pytest.mark.parametrize(
    ("eta", "steps", "q", "loss"),
    [
        (0.01, 1, [0.249057, 0.252821, 0.247815, 0.250306], 0.880477),
        (0.01, 2, [0.248105, 0.255661, 0.245636, 0.250598], 0.885972),
        # from ones instead of 1 / groups, and divided by the sum: one and the same
        (0.1, 1, [0.240134, 0.278996, 0.228423, 0.252446], 0.930506),
        (0.0, 3, [0.25] * 4, 0.875),
    ],
)
def test_weights_follow_losses_by_the_published_numbers(eta, steps, q, loss) -> None:
    found = learner(data(), eta)
    for _ in range(steps):
        found.update(LOSSES)
    torch.testing.assert_close(found.q, torch.tensor(q), rtol=0, atol=1e-6)
    assert float(found.q @ LOSSES) == pytest.approx(loss, abs=2e-6)


def test_small_groups_are_lifted() -> None:
    of = data(torch.tensor([0] * 9 + [1]), torch.tensor([0] * 9 + [1]))
    found = learner(of, eta=0.5, c=3.0)
    found.update(torch.tensor([0.2, 0.1]))
    raw = [math.exp(0.5 * (0.2 + 3 / 3)), math.exp(0.5 * (0.1 + 3 / 1))]
    torch.testing.assert_close(found.q, torch.tensor(raw) / sum(raw))


def test_weights_stay_finite_for_huge_losses() -> None:
    found = learner(data(), eta=1.0)
    for _ in range(50):
        found.update(torch.tensor([1e4, 0.0, 0.0, 0.0]))
    assert found.q.tolist() == [1, 0, 0, 0]
    assert bool(found.log_q.isfinite().all())


def slowly(found: WorstGroups, b: Batch, q: list[float], eta: float) -> tuple[float, list[float]]:
    with torch.no_grad():
        p = found.net(b.x).double().softmax(1)
    by_group: dict[int, list[float]] = {g: [] for g in range(4)}
    for k in range(len(b.y)):
        g = 2 * int(b.y[k]) + int(b.attributes["tint"][k])
        by_group[g].append(-math.log(float(p[k, b.y[k]])))
    means = [sum(v) / len(v) if v else 0.0 for v in by_group.values()]
    q = [w * math.exp(eta * loss) for w, loss in zip(q, means, strict=True)]
    q = [w / sum(q) for w in q]
    return sum(w * loss for w, loss in zip(q, means, strict=True)), q


@pytest.mark.parametrize("eta", [0.0, 0.01, 0.5])
def test_steps_are_those_of_a_slow_loop(eta: float) -> None:
    of = data()
    found, q = learner(of, eta), [0.25] * 4
    for ids in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 2, 3], [5, 6, 7, 7, 4], [1]):
        b = batch(of, ids)
        loss, q = slowly(found, b, q, eta)
        assert float(found(b).loss.detach()) == pytest.approx(loss, rel=1e-5)
        assert found.q.tolist() == pytest.approx(q, rel=1e-5)


def test_without_steps_the_loss_is_the_mean_over_groups() -> None:
    of = data()
    found = learner(of, eta=0.0)
    means = [float(found(batch(of, [i, i + 1])).loss.detach()) for i in (0, 2, 4, 6)]
    whole = float(found(batch(of, list(range(8)))).loss.detach())
    assert whole == pytest.approx(sum(means), rel=1e-5)  # each was one quarter already


@pytest.mark.parametrize("one", range(8))
def test_every_sample_has_a_gradient_of_its_own(one: int) -> None:
    """The fault of another library: whole groups got no loss at all."""
    of = data()
    found = learner(of)
    found(batch(of, [one])).loss.backward()
    assert any(bool((p.grad != 0).any()) for p in found.net.parameters())


def test_no_gradient_goes_through_the_weights() -> None:
    of = data()
    found = learner(of, eta=0.5)
    b = batch(of, list(range(8)))
    loss = found(b).loss
    q = found.q.clone()
    fixed = learner(of, eta=0.0)
    fixed.log_q.copy_(q.log())
    for one, other in zip(
        torch.autograd.grad(loss, list(found.net.parameters())),
        torch.autograd.grad(fixed(b).loss, list(fixed.net.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_weights_are_part_of_a_checkpoint() -> None:
    assert "log_q" in learner(data()).state_dict()


@pytest.mark.parametrize("balanced", [True, False])
def test_groups_are_drawn_equally_often(balanced: bool) -> None:
    seen: list[torch.Tensor] = []

    class Spy(Run):
        def train(self, stage, make, data, plan, **more):
            seen.append(more["weights"])
            return super().train(stage, make, data, plan, **more)

    splits = small_gratings()
    method = GroupDRO(plan=Plan(epochs=1, batch_size=64), balanced=balanced)
    method.fit(splits, Spy(None, 0, Device("cpu")))
    if not balanced:
        assert seen == [None]
        return
    groups = grouped(splits.train, "tint")
    shares = torch.zeros(4, dtype=torch.float64).index_add_(0, groups.of, seen[0])
    torch.testing.assert_close(shares, torch.ones(4, dtype=torch.float64))


def test_settings_reach_the_learner() -> None:
    data, run = small_gratings(), Unfitted()
    GroupDRO(eta=0.3, c=2.0).fit(data, run)
    found, counts = run.asked["fit"].learner, grouped(data.train, "tint").counts
    assert found.eta == 0.3
    torch.testing.assert_close(found.lift, 2 / counts.float().sqrt())


def test_a_group_without_images_does_no_harm() -> None:
    splits = small_gratings()
    keep = ~((splits.train.y == 0) & (splits.train.attributes["tint"].values == 1))
    fewer = Splits(splits.train.select(keep), splits.val, splits.test, bias="tint")
    fit(GroupDRO(c=1.0), fewer)


def test_unknown_and_absent_bias_labels_are_refused() -> None:
    splits = small_gratings()
    values = splits.train.attributes["tint"].values.clone()
    values[0] = -1
    odd = ImageSet(splits.train.images, splits.train.y, splits.train.classes,
                   {"tint": Attribute(values, ("warm", "cold"))})  # fmt: skip
    with pytest.raises(SupervisionError, match="of 1 of 256 images is not known"):
        fit(GroupDRO(), Splits(odd, splits.val, splits.test, bias="tint"))
    blind = Splits(splits.train.blind(), splits.val, splits.test.blind())
    with pytest.raises(
        SupervisionError,
        match=r"use a method that does without \(defund, denetdm, disent, erm, jtt, lc, lff, sih\)",
    ):
        fit(GroupDRO(), blind)
