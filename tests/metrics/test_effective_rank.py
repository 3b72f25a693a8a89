"""Effective rank: specified values, limits and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from truecue.metrics.rank import effective_rank


def random_features(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("diagonal", "expected"),
    [([3, 1], 1.754765), ([1, 1, 1, 1], 4), ([4, 2, 1, 1], 3.363586), ([5, 0, 0], 1)],
)
def test_specified_values(diagonal, expected):
    assert effective_rank(torch.diag(torch.tensor(diagonal))) == pytest.approx(expected, abs=1e-6)


def test_rank_one_has_effective_rank_one():
    x = random_features(20, 1) @ random_features(1, 6)
    assert effective_rank(x) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_equals_the_formula_with_numpy_and_scipy(shape):
    x = random_features(*shape)
    sizes = np.linalg.svd(x.numpy(), compute_uv=False)
    assert effective_rank(x) == pytest.approx(np.exp(entropy(sizes)))
    assert 1 < effective_rank(x) < 5


def test_rotation_scale_and_order_do_not_matter():
    x = random_features(12, 4)
    turn = torch.linalg.qr(random_features(4, 4)).Q
    assert effective_rank(-3 * x.flip(0) @ turn) == pytest.approx(effective_rank(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_computed_in_float64(dtype):
    x = random_features(12, 4).to(dtype).requires_grad_()
    assert effective_rank(x) == effective_rank(x.double())


def test_degenerate_matrices():
    assert effective_rank(torch.zeros(4, 3)) == 1
    for x in (torch.zeros(0, 3), torch.zeros(3, 0), torch.tensor([[1.0, math.nan]])):
        assert math.isnan(effective_rank(x))
