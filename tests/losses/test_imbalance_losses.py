"""Losses against imbalance: published values, slow loops, limits, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from truecue.errors import ConfigError, DataError
from truecue.losses.classification import ce
from truecue.losses.imbalance import balanced_softmax, cvar, focal, ldam, ldam_margins

COUNTS = torch.tensor([3682, 1113])  # Waterbirds' classes
LOGITS = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
Y = torch.tensor([1])


def logits_of(errors: list[float]) -> torch.Tensor:
    """Two logits whose cross-entropy for class 0 is given."""
    p = torch.tensor([math.exp(-e) for e in errors], dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], 1)


@pytest.mark.parametrize(
    ("gamma", "values"),
    [(1, [0.036254, 0.632121, 2.069405]), (2, [0.006572, 0.399576, 1.861929])],
)
def test_focal_values(gamma: float, values: list[float]) -> None:
    found = focal(logits_of([0.2, 1.0, 2.3]), torch.zeros(3, dtype=torch.int64), gamma)
    assert found.tolist() == pytest.approx(values, abs=1e-6)
    if gamma == 1:
        assert float(found.mean()) == pytest.approx(0.912593, abs=1e-6)


def test_balanced_softmax_value() -> None:
    assert float(balanced_softmax(LOGITS, Y, COUNTS)) == pytest.approx(1.864740, abs=1e-6)


def test_ldam_values() -> None:
    margins = ldam_margins(COUNTS)
    assert margins.dtype == torch.float64
    assert margins.tolist() == pytest.approx([0.370743, 0.5], abs=1e-6)
    assert float(ldam(LOGITS, Y, margins)) == pytest.approx(30.000000, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "value"), [(0.25, 4.0), (0.5, 3.5), (0.4, 3.625), (0.1, 4.0), (1.0, 2.5)]
)
def test_cvar_values(alpha: float, value: float) -> None:
    losses = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=torch.float64)
    assert float(cvar(losses, alpha)) == pytest.approx(value)


def test_cvar_gradient_is_the_share_of_each_loss() -> None:
    losses = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    cvar(losses, 0.4).backward()
    assert losses.grad.tolist() == pytest.approx([0, 0.625, 0, 0.375])
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\]; got 0"):
        cvar(losses, 0)


def test_slow_loops_from_the_formulas() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, generator=rng, dtype=torch.float64)
    y, counts = torch.randint(0, 3, (20,), generator=rng), torch.tensor([50, 7, 300])
    margins = ldam_margins(counts)
    for i, (row, label) in enumerate(zip(logits.tolist(), y.tolist(), strict=True)):

        def error(z: list[float], label: int = label) -> float:
            return math.log(sum(map(math.exp, z))) - z[label]

        p = math.exp(-error(row))
        assert float(focal(logits, y, 1.7)[i]) == pytest.approx((1 - p) ** 1.7 * error(row))
        shifted = [z + math.log(n) for z, n in zip(row, counts.tolist(), strict=True)]
        assert float(balanced_softmax(logits, y, counts)[i]) == pytest.approx(error(shifted))
        lowered = [10 * (z - (k == label) * float(margins[k])) for k, z in enumerate(row)]
        assert float(ldam(logits, y, margins, 10.0)[i]) == pytest.approx(error(lowered))


def test_limits_are_the_cross_entropy() -> None:
    logits, y = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 4
    plain = ce(logits, y)
    torch.testing.assert_close(focal(logits, y, 0.0), plain)
    torch.testing.assert_close(balanced_softmax(logits, y, torch.full((4,), 7)), plain)
    torch.testing.assert_close(ldam(logits, y, torch.zeros(4), 1.0), plain)
    torch.testing.assert_close(cvar(plain, 1.0), plain.mean())


def test_gradients() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y, counts = torch.arange(6) % 3, torch.tensor([5, 9, 2])
    assert gradcheck(lambda z: focal(z, y, 1.5), logits)
    assert gradcheck(lambda z: balanced_softmax(z, y, counts), logits)
    assert gradcheck(lambda z: ldam(z, y, ldam_margins(counts)), logits)
    assert gradcheck(lambda z: cvar(ce(z, y), 0.4), logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_is_a_number_where_nothing_is_wrong(gamma: float) -> None:
    logits = torch.tensor([[60.0, 0.0], [-1.0, 1.0]], requires_grad=True)
    losses = focal(logits, torch.tensor([0, 0]), gamma)
    losses.sum().backward()
    assert float(losses[0].detach()) == 0
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad[0].abs().max()) < 1e-6
    assert float(logits.grad[1, 0]) < -0.1


def test_settings_and_counts_out_of_range() -> None:
    for gamma in (-1.0, math.nan):
        with pytest.raises(ConfigError, match="gamma of the focal loss must be at least 0"):
            focal(LOGITS, Y, gamma)
    with pytest.raises(DataError, match=r"at least 1 sample of each class; got \[3, 0, 5\]"):
        ldam_margins(torch.tensor([3, 0, 5]))
    with pytest.raises(DataError, match="at least 1 sample of each class"):
        ldam_margins(torch.tensor([3.0, math.nan]))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_counts_beyond_the_range_of_half_precision(kind: torch.dtype) -> None:
    counts = torch.tensor([100_000, 70_000, 10])  # float16 ends at 65,504
    logits = torch.tensor([[0.5, -1.0, 8.0], [0.0, 0.0, 9.0]])
    y = torch.tensor([0, 2])
    exact = balanced_softmax(logits.double(), y, counts)
    found = balanced_softmax(logits.to(kind), y, counts)
    assert found.dtype == kind
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-2)
