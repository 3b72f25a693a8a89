"""Confidence intervals: known values, limits and coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from truecue.errors import ConfigError, DataError
from truecue.metrics.intervals import Estimate, bootstrap, mean_of_cells, student_t, wilson


def approx(low: float, high: float, tolerance: float = 1e-6):
    return pytest.approx((low, high), abs=tolerance)


def test_to_dict_is_json():
    found = Estimate(0.5, math.nan, math.nan, 1).to_dict()
    assert found == {"value": 0.5, "low": None, "high": None, "n": 1}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# --- Wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_wilson_known_values(hits, n, low, high):
    found = wilson(hits, n)
    assert (found.value, found.n) == (hits / n, n)
    assert found[1:3] == approx(low, high)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("hits", "n"), [(0, 3), (8, 10), (999, 1000), (1000, 1000), (31, 977)])
def test_wilson_equals_scipy(hits, n, level):
    expected = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson(hits, n, level)[1:3] == approx(expected.low, expected.high, 1e-12)


def test_wilson_touches_its_bounds_exactly():
    for n in range(1, 200):
        assert wilson(0, n).low == 0
        assert wilson(n, n).high == 1


def test_wilson_solves_its_own_equation():
    # the limits are where |p - limit| = z * sqrt(limit * (1 - limit) / n)
    p, low, high, n = wilson(31, 97)
    z = stats.norm.ppf(0.975)
    for limit in (low, high):
        assert abs(p - limit) == pytest.approx(z * math.sqrt(limit * (1 - limit) / n))


def test_wilson_of_nothing_is_nan():
    assert wilson(0, 0).to_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_wilson_refuses_what_cannot_be():
    for hits, n in ((3, 2), (-1, 2)):
        with pytest.raises(DataError, match="between 0 and its total"):
            wilson(hits, n)
    for level in (0, 1, 95):
        with pytest.raises(ConfigError, match="confidence level"):
            wilson(1, 2, level)


# --- means over cells


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (8, 10), (10, 10), (123, 500)])
def test_mover_of_one_cell_is_wilson(hits, n):
    found = mean_of_cells(torch.tensor([[hits]]), torch.tensor([[n]]), 0.9)
    assert found == wilson(hits, n, 0.9)


def test_mover_equals_the_formula_written_out():
    hits, total = [8, 3, 40], [10, 9, 40]
    p, down, up = 0.0, 0.0, 0.0
    for h, n in zip(hits, total, strict=True):
        cell = wilson(h, n)
        p += cell.value / 3
        down += ((cell.value - cell.low) / 3) ** 2
        up += ((cell.high - cell.value) / 3) ** 2
    found = mean_of_cells(torch.tensor(hits), torch.tensor(total))
    assert found == pytest.approx((p, p - math.sqrt(down), p + math.sqrt(up), 59))


def test_mover_leaves_empty_cells_out_and_ignores_order():
    found = mean_of_cells(torch.tensor([[8, 0], [0, 3]]), torch.tensor([[10, 0], [0, 9]]))
    other = mean_of_cells(torch.tensor([3, 8]), torch.tensor([9, 10]))
    assert found == pytest.approx(other)
    nothing = mean_of_cells(torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert nothing.n == 0
    assert all(math.isnan(v) for v in nothing[:3])
    assert math.isnan(mean_of_cells(torch.tensor([]), torch.tensor([])).value)


@pytest.mark.parametrize("right", [False, True])
def test_mover_of_extreme_cells_stays_within_bounds(right):
    total = torch.tensor([1, 7, 300])
    found = mean_of_cells(total * right, total)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.high == 1) is right


def test_mover_of_equal_cells_narrows_with_their_number():
    # the mean of k equal cells is as certain as its variance says: width goes with 1 / sqrt(k)
    widths = []
    for k in (1, 4):
        found = mean_of_cells(torch.full((k,), 50), torch.full((k,), 100))
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(2)


def test_mover_refuses_other_shapes():
    with pytest.raises(DataError, match="one shape"):
        mean_of_cells(torch.tensor([1]), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("p", "n"),
    [
        ([0.9, 0.2, 0.4, 0.8], [90, 10, 10, 90]),
        ([0.98, 0.6, 0.75, 0.95], [400, 40, 40, 120]),
        ([0.5, 0.5], [25, 60]),
    ],
)
def test_mover_covers_as_often_as_it_says(p, n):
    draws = np.random.default_rng(0).binomial(n, p, size=(2000, len(p)))
    total = torch.tensor(n)
    found = [mean_of_cells(hits, total) for hits in torch.from_numpy(draws)]
    covered = np.mean([e.low <= np.mean(p) <= e.high for e in found])
    assert 0.93 <= covered <= 0.97


# --- seeds


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_student_t_equals_scipy(level):
    values = [0.71, 0.74, 0.69, 0.80, 0.75]
    low, high = stats.t.interval(level, 4, loc=np.mean(values), scale=stats.sem(values))
    assert student_t(values, level) == pytest.approx((np.mean(values), low, high, 5))


def test_student_t_of_few_or_equal_values():
    one = student_t([0.7])
    assert (one.value, one.n) == (0.7, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert student_t([]).to_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert student_t([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)
    assert all(math.isnan(v) for v in student_t([0.5, math.nan])[:3])
    with pytest.raises(ConfigError, match="confidence level"):
        student_t([0.5], 1.5)


# --- bootstrap


def mean(values):
    return values.mean(1)


def test_bootstrap_equals_a_loop_over_draws():
    values = torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(7, (50, 7), generator=rng).tolist()
    means = [sum(float(values[i]) for i in row) / 7 for row in ids]
    low, high = np.quantile(means, [0.05, 0.95])
    found = bootstrap(values, mean, level=0.9, draws=50, seed=3)
    assert found == pytest.approx((float(values.mean()), low, high, 7))


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    found = bootstrap(values, mean, seed=0)
    half = 1.96 * float(values.std()) / 20
    assert found.low == pytest.approx(found.value - half, abs=0.012)
    assert found.high == pytest.approx(found.value + half, abs=0.012)


def test_bootstrap_of_several_columns_keeps_rows_together():
    x = torch.arange(30.0)
    values = torch.stack([x, 2 * x], 1)
    found = bootstrap(values, lambda v: (v[..., 1] - 2 * v[..., 0]).abs().amax(1), seed=0)
    assert found == (0, 0, 0, 30)


def test_bootstrap_depends_on_its_seed_only(monkeypatch):
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    first = bootstrap(values, mean, seed=0)
    torch.manual_seed(99)
    assert bootstrap(values, mean, seed=0) == first
    assert bootstrap(values, mean, seed=1) != first
    # memory is bounded by drawing in blocks, which must not show
    monkeypatch.setattr("truecue.metrics.intervals._BLOCK", 50 * 7)
    assert bootstrap(values, mean, seed=0) == first


def test_bootstrap_leaves_out_draws_without_a_value():
    values = torch.tensor([0.0, 1.0])

    def mean_of_positive(v):
        return torch.where(v > 0, v, torch.nan).nanmean(1)

    assert bootstrap(values, mean_of_positive, seed=0) == (1, 1, 1, 2)


def test_bootstrap_of_nothing():
    assert bootstrap(torch.zeros(0), mean, seed=0).to_dict()["value"] is None
    with pytest.raises(ConfigError, match="at least 1 draw"):
        bootstrap(torch.ones(3), mean, draws=0, seed=0)
    with pytest.raises(ConfigError, match="confidence level"):
        bootstrap(torch.ones(3), mean, level=0, seed=0)
