"""p-values that are uniform where there is nothing, and false-discovery rates by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from truecue.errors import ConfigError, DataError
from truecue.metrics.evidence import (
    benjamini_hochberg,
    label_shuffles,
    rank_shuffles,
    ranks,
    sign_flips,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- Benjamini-Hochberg


def test_q_values_worked_out_by_hand() -> None:
    # sorted: 0.005, 0.01, 0.03, 0.04, 0.5; times 5 / rank: 0.025, 0.025, 0.05, 0.05, 0.5
    q = benjamini_hochberg([0.04, 0.01, 0.5, 0.005, 0.03])
    assert q == pytest.approx([0.05, 0.025, 0.5, 0.025, 0.05])


def test_q_values_agree_with_scipy() -> None:
    p = torch.rand(40, generator=torch.Generator().manual_seed(1)).double() ** 2
    expected = stats.false_discovery_control(p.numpy())
    assert benjamini_hochberg(p.tolist()) == pytest.approx(expected.tolist())


def test_tests_that_were_not_made_do_not_count() -> None:
    q = benjamini_hochberg([math.nan, 0.01, math.nan, 0.02])
    assert q[1::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(q[0])
    assert benjamini_hochberg([]) == []


def test_a_p_value_outside_0_to_1_is_refused() -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        benjamini_hochberg([0.5, 1.2])


# --- against all permutations


def test_sign_flips_against_all_signs() -> None:
    d, weights = normal(8, 1).double() + 0.5, torch.rand(8).double()
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=torch.float64)
    sums = signs @ (d[:, 0] * weights)
    exact = float((sums >= (d[:, 0] * weights).sum() - 1e-9).double().mean())
    found = float(sign_flips(d, weights, draws=20_000, seed=1)[0])
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


def test_no_difference_at_all_is_no_evidence() -> None:
    assert sign_flips(torch.zeros(30, 2), torch.ones(30), draws=99, seed=0).tolist() == [1, 1]


def test_the_least_p_value_says_how_many_draws_there_were() -> None:
    p = sign_flips(torch.ones(60, 1), torch.ones(60), draws=199, seed=0)
    assert p.tolist() == pytest.approx([1 / 200])


def test_label_shuffles_against_all_orders() -> None:
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    scores = normal(2, 6, 3, seed=3)
    centred = scores - scores.mean(2, keepdim=True)
    sizes = torch.bincount(y).float()

    def statistic(labels: torch.Tensor) -> torch.Tensor:
        own = centred.gather(2, labels.expand(2, 6).unsqueeze(2)).squeeze(2)
        return (own / sizes[labels]).sum(1)

    every = torch.stack([statistic(y[list(o)]) for o in itertools.permutations(range(6))])
    exact = (every >= statistic(y) - 1e-5).double().mean(0)
    found = label_shuffles(scores, y, draws=20_000, seed=0)
    assert found.tolist() == pytest.approx(exact.tolist(), abs=0.015)


def test_label_shuffles_find_scores_that_know_the_label() -> None:
    y = torch.arange(90) % 3
    knows = torch.nn.functional.one_hot(y, 3).float()
    p = label_shuffles(torch.stack((knows, -knows)), y, draws=999, seed=0)
    assert p.tolist() == pytest.approx([0.001, 1.0])


def unequal(k: int, n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, k, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("k", "n"), [(10, 1000), (100, 1000), (10, 20_000)])
def test_scores_that_say_nothing_are_no_evidence_however_sums_are_rounded(k: int, n: int) -> None:
    y = unequal(k, n, seed=2)
    of_all_images = 3 * normal(1, 1, k, seed=3).expand(1, n, k)
    of_all_classes = 0.3 + 3 * normal(1, n, 1, seed=4).expand(1, n, k)
    scores = torch.cat((of_all_images, of_all_classes))
    assert label_shuffles(scores, y, draws=49, seed=0).tolist() == [1, 1]


def test_ranks_agree_with_scipy() -> None:
    x = torch.tensor([[3.0, 1], [1, 1], [3, 0], [2, 1], [3, 5]])
    expected = stats.rankdata(x.numpy(), axis=0) - 1
    assert ranks(x).tolist() == expected.tolist()


def test_rank_shuffles_agree_with_scipy_in_one_class() -> None:
    x, outcome = normal(40, 1, seed=5), normal(40, seed=6)
    outcome = outcome + 0.3 * x[:, 0]
    expected = stats.spearmanr(x[:, 0], outcome, alternative="greater").pvalue
    p = rank_shuffles(x, outcome, torch.zeros(40, dtype=torch.int64), draws=20_000, seed=0)
    assert float(p) == pytest.approx(float(expected), abs=0.01)


def test_rank_shuffles_do_not_see_differences_between_classes() -> None:
    y = torch.arange(300) % 3
    x, outcome = normal(300, 1, seed=1) + 5 * y[:, None], normal(300, seed=2) + 5 * y
    assert float(rank_shuffles(x, outcome, y, draws=999, seed=0)) > 0.05
    rising = outcome + x[:, 0]
    assert float(rank_shuffles(x, rising, y, draws=999, seed=0)) == pytest.approx(0.001)


def test_a_constant_measurement_is_no_evidence() -> None:
    y = torch.arange(20) % 2
    assert float(rank_shuffles(torch.ones(20, 1), normal(20), y, draws=99, seed=0)) == 1


def test_what_is_not_a_number_is_no_evidence() -> None:
    """A comparison with nan is false, which would count as a draw that fell short."""
    d, y = normal(30, 2), torch.arange(30) % 3
    d[4, 1] = math.nan
    scores = torch.stack((normal(30, 3), d[:, 1:] * torch.ones(3)))
    outcome = normal(30, seed=1)
    for p in (
        sign_flips(d, torch.ones(30), draws=99, seed=0),
        label_shuffles(scores, y, draws=99, seed=0),
        rank_shuffles(d, outcome, y, draws=99, seed=0),
    ):
        assert p.isnan().tolist() == [False, True]
        assert p.dtype == torch.float64
    assert bool(rank_shuffles(d, d[:, 1], y, draws=99, seed=0).isnan().all())


# --- uniform where there is nothing


@pytest.mark.slow
def test_p_values_are_uniform_where_there_is_nothing() -> None:
    n, k = 150, 400
    y = torch.arange(n) % 3
    found = {
        "signs": sign_flips(normal(n, k), torch.ones(n), draws=999, seed=0),
        "labels": label_shuffles(normal(k, n, 3, seed=1), y, draws=999, seed=1),
        "ranks": rank_shuffles(normal(n, k, seed=2), normal(n, seed=3), y, draws=999, seed=2),
    }
    for name, p in found.items():
        assert stats.kstest(p.numpy(), "uniform").pvalue > 0.01, name
        assert float((p <= 0.05).double().mean()) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / k), name


# --- refusals


def test_nothing_to_permute_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 draw"):
        sign_flips(torch.ones(3, 1), torch.ones(3), draws=0, seed=0)
    with pytest.raises(DataError, match="there are none"):
        label_shuffles(torch.ones(1, 0, 2), torch.zeros(0, dtype=torch.int64), draws=9, seed=0)
    with pytest.raises(DataError, match="no class has 3"):
        rank_shuffles(torch.ones(4, 1), torch.ones(4), torch.arange(4) // 2, draws=9, seed=0)
