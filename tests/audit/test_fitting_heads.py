"""The last layer on stored features, and a small world in which the truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from truecue.audit.head import fit_head
from truecue.engine.loop import make_optimizers
from truecue.engine.plan import SGD, Adam, Plan
from truecue.errors import Diverged
from truecue.metrics.known import cue_auroc, low_end_purity
from truecue.metrics.ranking import ends, rank, spurious_gap
from truecue.metrics.spurious import importance, spuriosity


def world(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two classes of n images each: features, labels, and whether the own class's cue is carried.

    Features 0 and 1 are the classes' cores, 2 and 3 their cues. 95 % carry their class's cue, the
    others that of the other class.
    """
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(2).repeat_interleave(n)
    own = torch.rand(2 * n, generator=rng) < 0.95
    carried = torch.where(own, y, 1 - y)
    is_own = torch.nn.functional.one_hot(y, 2).bool()
    is_carried = torch.nn.functional.one_hot(carried, 2).bool()
    core = torch.randn(2 * n, 2, generator=rng) + 1.5 * is_own
    cue = 0.7 * torch.randn(2 * n, 2, generator=rng) + 3.0 * is_carried
    return torch.cat([core, cue], 1).relu(), y, own


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    """The world, and a head that was fitted to its training images."""
    train, y_train, own_train = world(2000, 0)
    val, y, own = world(500, 1)
    weight, bias = fit_head(train, y_train, 2, seed=0)
    right = (val @ weight.T + bias).argmax(1) == y
    return {"train": train, "y_train": y_train, "own_train": own_train, "val": val, "y": y,
            "own": own, "weight": weight, "bias": bias, "right": right}  # fmt: skip


def test_the_fitted_head_goes_by_the_cue(known):
    right, y, own = known["right"], known["y"], known["own"]
    assert 0.93 < float(right.double().mean()) < 0.99  # 96.4 in the reference run
    cells = [right[(y == c) & (own == o)].double().mean() for c in (0, 1) for o in (True, False)]
    assert min(cells) < 0.6


def test_the_cue_is_among_the_important_features(known):
    found = importance(known["train"], known["y_train"], known["weight"], known["bias"], keep=2)
    assert set(found.top[0].tolist()) == {0, 2}
    assert set(found.top[1].tolist()) == {1, 3}


def test_rankings_by_the_cue_show_the_gap(known):
    s = spuriosity(known["val"], known["y"], {0: [2], 1: [3]}, 2)
    found = spurious_gap(known["right"], rank(s, known["y"], 2), 50)
    assert found.macro.value > 0.2
    assert found.macro.low > 0.1
    for gap in found.by_class.values():
        assert gap.p < 1e-3
        assert gap.gap.value > gap.null[1]
    core = spuriosity(known["val"], known["y"], {0: [3], 1: [2]}, 2)  # the other class's cue
    assert spurious_gap(known["right"], rank(core, known["y"], 2), 50).macro.value < -0.1


def test_the_low_end_is_where_the_cue_is_broken(known):
    s = spuriosity(known["train"], known["y_train"], {0: [2], 1: [3]}, 2)
    ranking = rank(s, known["y_train"], 2)
    purity = low_end_purity(ranking, known["own_train"], 100)
    broken = [int(((known["y_train"] == c) & ~known["own_train"]).sum()) for c in (0, 1)]
    assert sum(purity.values()) / 2 > 0.9
    for c, share in purity.items():  # a class with 92 such images cannot reach more than 0.92
        assert share > 0.9 * min(1, broken[c] / 100)
    assert (cue_auroc(s, known["y_train"], known["own_train"], 2) > 0.98).all()
    assert {len(low) for low, _ in ends(ranking, 100).values()} == {100}


# --- the head


def test_two_steps_by_hand():
    """What `fit_head` does in a step: momentum as in torch, cross-entropy averaged."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    (step,) = make_optimizers(
        {"all": list(layer.parameters())},
        Plan(optimizer=SGD(lr=0.1, momentum=0.9)),
        torch.device("cpu"),
    )
    x, y, losses = torch.tensor([[1.0, 2], [3, 1]]), torch.tensor([0, 1]), []
    for _ in range(2):
        loss = nn.CrossEntropyLoss()(layer(x), y)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx([1.720095, 1.528241], abs=1e-6)
    expected = torch.tensor([[0.733888, 0.089410], [0.266112, 0.910590]])
    torch.testing.assert_close(layer.weight.detach(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        layer.bias.detach(), torch.tensor([-0.017459, 0.017459]), atol=1e-6, rtol=0
    )


def test_the_seed_decides_and_the_classes_are_as_asked(tmp_path: Path):
    x, y, _ = world(100, 0)
    a, b, other = (fit_head(x, y, 4, seed=s, epochs=2) for s in (0, 0, 1))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[0], other[0])
    assert a[0].shape == (4, 4)  # classes 2 and 3 have no image
    np.save(tmp_path / "x.npy", x.half().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(fit_head(mapped, y, 4, seed=0)[0], fit_head(x.half(), y, 4, seed=0)[0])


def test_the_papers_optimizer_learns_too():
    x, y, _ = world(500, 0)
    weight, bias = fit_head(x, y, 2, seed=0, optimizer=Adam(lr=0.1, weight_decay=0.003))
    assert float(((x @ weight.T + bias).argmax(1) == y).double().mean()) > 0.9


def test_features_too_large_for_the_learning_rate_are_named():
    x, y, _ = world(100, 0)
    with pytest.raises(Diverged, match=r"learning rate of 0\.01; set head\.lr"):
        fit_head(x * 1e30, y, 2, seed=0)
