"""Rankings, their two ends, gaps and the chances of gaps."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats

from truecue.errors import ConfigError
from truecue.metrics import ranking
from truecue.metrics.ranking import (
    Ranking,
    class_gaps,
    collisions,
    end_hits,
    end_sizes,
    ends,
    rank,
    rank_correlation,
    spurious_gap,
    suspects,
)

NAN = float("nan")


def class_gap(*counts: int):
    """One class: right in the low end and in the high end, size of an end, right in all, images."""
    return class_gaps(*torch.tensor(counts)[:, None])[0]


def in_order(*sizes: int) -> Ranking:
    """Classes of these sizes whose images are in ascending order already."""
    starts = torch.tensor([0, *np.cumsum(sizes)])
    return Ranking(torch.arange(int(starts[-1])), starts)


RIGHT = torch.tensor([0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1]).bool()
TWO = in_order(10, 6)


def test_equal_scores_keep_the_order_of_images():
    s = torch.tensor([0.5, 0, 0, 0.5, 0.2])
    assert rank(s, torch.zeros(5).long(), 1).of(0).tolist() == [1, 2, 4, 0, 3]


def test_a_ranking_is_a_permutation_of_each_class():
    rng = torch.Generator().manual_seed(0)
    y, s = torch.randint(4, (300,), generator=rng), torch.randn(300, generator=rng)
    s[y == 2] = NAN
    found = rank(s, y, 5)
    for c in range(5):
        ids = found.of(c)
        expected = [] if c in (2, 4) else (y == c).nonzero().squeeze(1).tolist()
        assert sorted(ids.tolist()) == expected
        assert (s[ids].diff() >= 0).all()


@pytest.mark.parametrize(
    ("n", "k", "size"),
    [(1, 5, 0), (2, 5, 1), (50, 100, 25), (1300, 100, 100), (3, 1, 1), (0, 4, 0),
     (50, None, 10), (2, None, 1), (4, None, 1), (1300, None, 260)],
)  # fmt: skip
def test_ends_never_overlap(n, k, size):
    assert int(end_sizes(torch.tensor(n), k)) == size
    found = ends(in_order(n), k)
    if not size:
        assert found == {}
        return
    low, high = found[0]
    assert low.tolist() == list(range(size))
    assert high.tolist() == list(range(n - size, n))
    assert not set(low.tolist()) & set(high.tolist())


def test_the_high_end_of_a_ramp_is_its_last_images():
    _, high = ends(in_order(1300), 100)[0]
    assert high.tolist() == list(range(1200, 1300))


def test_an_end_needs_an_image():
    with pytest.raises(ConfigError, match="at least 1 image; got k = 0"):
        end_sizes(torch.tensor([4]), 0)


@pytest.mark.parametrize(
    ("k", "gaps", "sizes", "macro", "pooled"),
    [
        (2, (1.0, 0.0), (2, 2), 0.5, 0.5),
        (3, (2 / 3, -1 / 3), (3, 3), 1 / 6, 1 / 6),
        (5, (0.6, -1 / 3), (5, 3), 0.133333, 0.25),
    ],
)
def test_gaps_by_hand(k, gaps, sizes, macro, pooled):
    found = spurious_gap(RIGHT, TWO, k)
    for c in (0, 1):
        assert found.by_class[c].gap.value == pytest.approx(gaps[c])
        assert found.by_class[c].gap.n == sizes[c]
    assert found.macro.value == pytest.approx(macro, abs=1e-6)
    assert found.pooled.value == pytest.approx(pooled)
    assert found.macro.low <= found.macro.value <= found.macro.high


def test_many_models_at_once_count_as_each_alone():
    rng = torch.Generator().manual_seed(0)
    right = torch.rand(3, 16, generator=rng) < 0.5
    together = end_hits(right, TWO, 3)
    for m in range(3):
        alone = end_hits(right[m], TWO, 3)
        assert torch.equal(together.low[m], alone.low)
        assert torch.equal(together.high[m], alone.high)
        for c in (0, 1):
            low, high = ends(TWO, 3)[c]
            assert alone.low[c] == right[m][low].sum()
            assert alone.high[c] == right[m][high].sum()


def test_an_oracle_has_no_gap_and_a_model_of_the_cue_has_all_of_it():
    half = torch.arange(40) % 20 >= 10  # right where the score is above the median
    for right, gap in ((torch.ones(40).bool(), 0), (half, 1), (~half, -1)):
        found = spurious_gap(right, in_order(20, 20), 10)
        assert found.macro.value == found.pooled.value == gap
        assert [g.gap.value for g in found.by_class.values()] == [gap, gap]


def test_classes_without_ends_are_absent():
    found = spurious_gap(torch.ones(5).bool(), in_order(0, 1, 4), 2)
    assert list(found.by_class) == [2]
    nothing = spurious_gap(torch.zeros(0).bool(), in_order(0, 0), 2)
    assert nothing.by_class == {}
    assert math.isnan(nothing.macro.value)


def test_the_interval_of_a_class_is_newcombes():
    # Newcombe 1998, table II, example (a): 56/70 against 48/80, here turned to equal ends
    found = class_gap(3, 9, 10, 12, 20)
    other = stats.binomtest(9, 10).proportion_ci(method="wilson")
    own = stats.binomtest(3, 10).proportion_ci(method="wilson")
    assert found.gap.low == pytest.approx(0.6 - math.hypot(0.9 - other.low, own.high - 0.3))
    assert found.gap.high == pytest.approx(0.6 + math.hypot(other.high - 0.9, 0.3 - own.low))
    certain = class_gap(10, 10, 10, 20, 20)
    assert certain.gap.value == 0
    assert certain.gap.low < -0.2  # ten of ten twice says little


def test_the_chance_of_a_gap_is_that_over_all_orders():
    right, k = (1, 1, 0, 0, 1, 0), 2
    counts: dict[int, int] = {}
    for order in permutations(right):
        d = sum(order[-k:]) - sum(order[:k])
        counts[d] = counts.get(d, 0) + 1
    total = sum(counts.values())
    for low in range(3):
        for high in range(3):
            expected = sum(n for d, n in counts.items() if abs(d) >= abs(high - low)) / total
            assert class_gap(low, high, k, 3, 6).p == pytest.approx(expected)


def test_the_null_distribution_of_large_ends_is_nearly_exact(monkeypatch):
    arguments = (150, 172, 200, 800, 1000)
    ranking._null.cache_clear()
    exact = class_gap(*arguments)
    monkeypatch.setattr(ranking, "_LARGE", 1)
    ranking._null.cache_clear()
    near = class_gap(*arguments)
    ranking._null.cache_clear()
    assert near.p == pytest.approx(exact.p, abs=2e-4)
    assert near.null == exact.null
    assert 0.001 < exact.p < 0.02


@pytest.mark.parametrize(("hits", "n", "k"), [(9, 20, 4), (3, 15, 5), (30, 40, 8)])
def test_95_percent_of_random_orders_lie_between_the_limits(hits: int, n: int, k: int):
    chance = np.zeros(2 * k + 1)
    for low in range(k + 1):
        for high in range(k + 1):
            rest = hits - low - high
            if 0 <= rest <= n - 2 * k:
                ways = math.comb(k, low) * math.comb(k, high) * math.comb(n - 2 * k, rest)
                chance[high - low + k] += ways / math.comb(n, hits)
    low, high = (round(limit * k) + k for limit in class_gap(0, 0, k, hits, n).null)
    for below in (chance[:low].sum(), chance[high + 1 :].sum()):
        assert below <= 0.025
    for reached in (chance[: low + 1].sum(), chance[high:].sum()):
        assert reached >= 0.025


def test_chances_are_small_in_few_random_orders_only():
    rng = np.random.default_rng(0)
    right = np.arange(60) < 30
    found = []
    for _ in range(500):
        order = rng.permutation(right)
        found.append(class_gap(int(order[:12].sum()), int(order[-12:].sum()), 12, 30, 60))
    assert 0.01 < np.mean([gap.p <= 0.05 for gap in found]) <= 0.06
    outside = [not gap.null[0] <= gap.gap.value <= gap.null[1] for gap in found]
    assert np.mean(outside) < 0.06


def test_a_model_that_is_right_at_random_has_no_gap_at_half():
    rng = torch.Generator().manual_seed(0)
    right = torch.rand(4000, generator=rng) < 0.7
    found = spurious_gap(right, in_order(*[200] * 20), 100)
    assert abs(found.macro.value) < 0.05
    assert found.macro.low < 0 < found.macro.high


def test_the_bootstrap_interval_covers():
    rng = np.random.default_rng(1)
    sizes, covered = [60] * 8, 0
    p = np.tile(np.r_[np.full(30, 0.5), np.full(30, 0.8)], 8)
    for trial in range(120):
        right = torch.from_numpy(rng.random(480) < p)
        found = spurious_gap(right, in_order(*sizes), 30, seed=trial, draws=400).macro
        covered += found.low <= 0.3 <= found.high
    assert 0.88 <= covered / 120 <= 0.99


def test_rank_correlation_is_spearmans():
    scores = torch.tensor([0.0, 0, 0.5, 0.1, 0.9, 0.3])
    right = torch.tensor([1, 0, 1, 0, 1, 1]).bool()
    expected = stats.spearmanr(scores.numpy(), right.numpy()).statistic
    assert rank_correlation(scores, right) == pytest.approx(expected)
    assert math.isnan(rank_correlation(scores, torch.ones(6).bool()))
    assert math.isnan(rank_correlation(torch.zeros(6), right))


def test_collisions_are_classes_of_negative_mean_gap():
    gaps = torch.tensor([[0.1, -0.4, 0.2, -0.1], [0.3, -0.6, 0.0, 0.0]])
    classes = torch.tensor([2, 3, 5, 7])
    assert collisions(gaps, classes) == [(3, pytest.approx(-0.5)), (7, pytest.approx(-0.05))]
    assert collisions(gaps, classes, -0.2) == [(3, pytest.approx(-0.5))]


def test_suspects_are_the_most_spurious_with_what_the_model_prefers():
    pred = torch.arange(20) % 3
    assert suspects(in_order(0, 20), pred, 1) == [(19, 1), (18, 0)]
    assert suspects(in_order(0, 20), pred, 0) == []


def test_of_a_small_class_one_image_is_suspect():
    pred = torch.tensor([0, 1, 0])
    assert suspects(in_order(3), pred, 0) == [(2, 0)]
    assert suspects(in_order(0, 3), pred, 0) == []
