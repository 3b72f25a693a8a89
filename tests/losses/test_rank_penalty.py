"""The rank regulariser: given values, slow loops, its identity, borders, and which way it pulls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from truecue.losses.rank import correlations, rank_penalty, standardised
from truecue.metrics.rank import effective_rank, rank_entropy, spectrum

Z = torch.tensor([[1, 2, 0], [2, 1, 1], [3, 4, 0], [4, 3, 1]], dtype=torch.float64)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) @ mixing + 3


def participation(c: Tensor) -> float:
    return float(c.trace() ** 2 / c.square().sum())


def test_given_values() -> None:
    c = correlations(Z, eps=0)
    assert c[0, 1] == pytest.approx(0.6)
    assert c[0, 2] == pytest.approx(0.447214, abs=1e-6)
    assert c[1, 2] == pytest.approx(-0.447214, abs=1e-6)
    assert float(rank_penalty(Z, eps=0)) == pytest.approx(0.168889, abs=1e-6)
    assert float(rank_penalty(Z)) == pytest.approx(0.168883, abs=1e-6)
    assert participation(c) == pytest.approx(1.991150, abs=1e-6)


def test_the_authors_scale_is_four_times_ours() -> None:
    """Two views of two images, stacked, and the products divided by two."""
    x = standardised(Z)
    c = x.T @ x / 2
    theirs = (c.square().sum() - c.diagonal().square().sum()) / 9
    assert float(theirs) == pytest.approx(0.675533, abs=1e-6)
    assert float(theirs) == pytest.approx(4 * float(rank_penalty(Z)))


def test_copies_and_independent_features() -> None:
    x = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    assert float(rank_penalty(torch.cat([x, 2 * x], 1), eps=0)) == pytest.approx(0.5)
    copies = torch.cat([x, -x, 3 * x, x + 1], 1)
    assert float(rank_penalty(copies, eps=0)) == pytest.approx(3 / 4)
    square = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    assert float(rank_penalty(square)) == 0


def slow_penalty(z: Tensor) -> float:
    n, d = z.shape
    columns = [[float(z[i, k]) for i in range(n)] for k in range(d)]
    means = [sum(column) / n for column in columns]
    scaled = []
    for column, mean in zip(columns, means, strict=True):
        variance = sum((v - mean) ** 2 for v in column) / n
        scaled.append([(v - mean) / math.sqrt(variance + 1e-5) for v in column])
    total = 0.0
    for a in range(d):
        for b in range(d):
            if a != b:
                total += (sum(x * y for x, y in zip(scaled[a], scaled[b], strict=True)) / n) ** 2
    return total / d**2


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_is_that_of_a_slow_loop_whichever_side_is_longer(shape: tuple[int, int]) -> None:
    z = features(*shape)
    assert float(rank_penalty(z)) == pytest.approx(slow_penalty(z), abs=1e-10)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_is_one_over_the_participation_ratio(shape: tuple[int, int]) -> None:
    z = features(*shape, seed=1)
    d = shape[1]
    assert float(rank_penalty(z, eps=0)) == pytest.approx(
        1 / participation(correlations(z, eps=0)) - 1 / d, abs=1e-10
    )


def test_standardised_is_batch_normalisation() -> None:
    z = features(12, 5)
    torch.testing.assert_close(
        standardised(z), nn.BatchNorm1d(5, affine=False, dtype=torch.float64)(z)
    )


def test_constant_features_single_rows_and_zeros() -> None:
    z = torch.cat([Z, torch.full((4, 1), 7.0)], 1).requires_grad_()
    penalty = rank_penalty(z)
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(0.168883 * 9 / 16, abs=1e-6)
    assert bool(z.grad.isfinite().all())  # type: ignore[union-attr]
    assert float(rank_penalty(Z[:1])) == 0
    assert float(rank_penalty(torch.zeros(5, 3))) == 0


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_gradient_is_exact(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(rank_penalty, features(*shape).requires_grad_())


def test_computed_in_float32_under_mixed_precision() -> None:
    z = features(32, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, matrix = rank_penalty(z), correlations(z)
    assert found.dtype == torch.float32
    assert torch.equal(found, rank_penalty(z.float()))
    assert torch.equal(matrix, correlations(z.float()))


def test_a_reward_lowers_the_rank() -> None:
    z = features(64, 16, seed=3).requires_grad_()
    before = effective_rank(z, center=True)
    (slope,) = torch.autograd.grad(rank_penalty(z), z)
    assert effective_rank(z + 200 * slope, center=True) < before - 0.01
    assert effective_rank(z - 200 * slope, center=True) > before


@pytest.mark.parametrize(
    ("matrix", "center", "entropy"),
    [
        (torch.eye(2), False, 0.693147),
        (torch.eye(4), False, 1.386294),
        (torch.eye(8), False, 2.079442),
        (torch.diag(torch.tensor([4.0, 2, 1, 1])), False, 1.213008),
        (torch.diag(torch.tensor([3.0, 1])), False, 0.562335),
        (torch.ones(3, 3), False, 0.0),
        (Z, False, 0.601621),
        (Z, True, 0.663964),
        (torch.zeros(3, 2), False, 0.0),
    ],
)
def test_entropies_of_given_matrices(matrix: Tensor, center: bool, entropy: float) -> None:
    found = rank_entropy(spectrum(matrix, center=center))
    assert found == pytest.approx(entropy, abs=1e-6)
    assert effective_rank(matrix, center=center) == pytest.approx(math.exp(found))


def test_entropy_of_nothing_is_not_a_number() -> None:
    assert math.isnan(rank_entropy(torch.zeros(0)))
    assert math.isnan(rank_entropy(torch.tensor([1.0, math.nan])))
