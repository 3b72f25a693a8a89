"""Agreement of models and of people, and rankings against known groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from truecue.errors import ConfigError, DataError
from truecue.metrics.agreement import agreement, effective_robustness, null_gap
from truecue.metrics.known import cue_auroc, group_tau, low_end_purity
from truecue.metrics.ranking import Ranking, end_hits, rank
from truecue.metrics.raters import cohen_kappa, fleiss_kappa

GAPS = torch.tensor([[0.1, 0.4, 0.2, -0.3], [0.2, 0.5, 0.1, -0.1], [0, 0.3, 0.4, -0.2]])


def test_effective_robustness_by_hand():
    high, low = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0.7, 0.65, 0.5, 0.45])
    found = effective_robustness(high, low)
    assert (found.slope, found.intercept) == pytest.approx((0.9, -0.1), abs=1e-6)
    assert found.residuals.tolist() == pytest.approx([-0.01, 0.03, -0.03, 0.01], abs=1e-6)
    assert float(found.residuals.sum()) == pytest.approx(0, abs=1e-9)


def test_a_line_needs_three_models_that_differ():
    with pytest.raises(DataError, match="at least three"):
        effective_robustness(torch.rand(2), torch.rand(2))
    with pytest.raises(DataError, match="equally accurate"):
        effective_robustness(torch.full((4,), 0.5), torch.rand(4))


def test_agreement_by_hand():
    found = agreement(GAPS)
    r = [float(found.r[i, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert r == pytest.approx([0.905822, 0.863459, 0.593123], abs=1e-6)
    assert found.mean == pytest.approx(0.787468, abs=1e-6)
    assert found.ratio == pytest.approx(44.190476, abs=1e-4)


def test_a_model_of_constant_gaps_is_left_out_of_the_mean():
    found = agreement(torch.cat([GAPS, torch.full((1, 4), 0.3)]))
    assert found.r[3].isnan().all()
    assert found.mean == pytest.approx(0.787468, abs=1e-6)
    assert math.isnan(agreement(GAPS[:1]).mean)


@pytest.mark.parametrize("classes", [3, 7, 10, 11])
@pytest.mark.parametrize("gap", [0.1, 0.3, 0.7])
def test_a_mean_that_rounds_makes_no_differences_of_constant_gaps(gap: float, classes: int):
    constant = torch.full((classes,), gap, dtype=torch.float64)
    found = agreement(torch.stack([constant, torch.arange(classes).double()]))
    assert math.isnan(found.mean)
    assert float(found.r[1, 1]) == pytest.approx(1)


def simulated(kappa: float, beta: float, seed: int = 0) -> tuple[torch.Tensor, Ranking]:
    """20 models on 100 classes of 50 images: how hard images are is common to all models."""
    rng = np.random.default_rng(seed)
    classes, n, models = 100, 50, 20
    s, hard = rng.normal(size=(classes, n)), rng.normal(size=(classes, n))
    strength = beta * (1 + 0.7 * rng.normal(size=(classes, 1)))
    skill = rng.normal(1, 0.3, (models, 1, 1))
    logit = skill + kappa * hard + strength * s + rng.normal(size=(models, classes, n))
    y = torch.arange(classes).repeat_interleave(n)
    right = torch.from_numpy(logit.reshape(models, -1) > 0)
    return right, rank(torch.from_numpy(s.ravel()), y, classes)


def test_models_agree_about_hard_images_without_any_cue():
    right, ranking = simulated(kappa=2, beta=0)
    found = agreement(end_hits(right, ranking, 10).gaps)
    null = null_gap(right, ranking, 10)
    assert 0.45 < found.mean < 0.7
    mean, low, high = null.band("r")
    assert low < found.mean < high
    assert float(mean) == pytest.approx(0.57, abs=0.05)
    assert (null.gap.mean(0).abs() < 0.01).all()
    assert null.gap.shape == (200, 20)


def test_a_cue_leaves_the_null_band():
    right, ranking = simulated(kappa=1, beta=0.5)
    null = null_gap(right, ranking, 10)
    gaps = end_hits(right, ranking, 10).gaps
    _, _, high = null.band("gap")
    assert (gaps.mean(1) > high).all()
    assert agreement(gaps).mean > float(null.band("r")[2])


def test_the_null_of_one_model_and_its_seed():
    right, ranking = simulated(kappa=0, beta=0)
    one = null_gap(right[0], ranking, 10, seed=3)
    assert one.gap.shape == (200, 1)
    assert one.r.isnan().all()
    assert torch.equal(one.gap, null_gap(right[0], ranking, 10, seed=3).gap)
    assert not torch.equal(one.gap, null_gap(right[0], ranking, 10, seed=4).gap)
    with pytest.raises(ConfigError, match="at least 200 draws; got 199"):
        null_gap(right[0], ranking, 10, draws=199)


def test_null_orders_stay_within_classes():
    y = torch.arange(3).repeat_interleave(40)
    ranking = rank(torch.arange(120).double(), y, 3)
    null = null_gap(y == 1, ranking, 20)  # one class all right, the others all wrong
    assert (null.gap == 0).all()


# --- people


def test_cohens_kappa_is_scikit_learns():
    rng = np.random.default_rng(0)
    a = {i: str(v) for i, v in enumerate(rng.integers(0, 3, 50))}
    b = {i: v if rng.random() < 0.7 else str(rng.integers(0, 3)) for i, v in a.items()}
    expected = cohen_kappa_score(list(a.values()), [b[i] for i in a])
    assert cohen_kappa(a, b) == pytest.approx(expected)
    assert math.isnan(cohen_kappa(a, {99: "0"}))
    assert cohen_kappa({1: "x", 2: "y"}, {1: "x", 2: "y", 3: "x"}) == 1


def test_fleiss_kappa_of_the_published_example():
    # Fleiss 1971: 14 raters, 10 subjects, 5 categories
    counts = torch.tensor([
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ])  # fmt: skip
    assert fleiss_kappa(counts) == pytest.approx(0.20993, abs=1e-5)
    single = torch.tensor([[1, 0, 0, 0, 0]])
    assert fleiss_kappa(torch.cat([counts, single])) == fleiss_kappa(counts)
    assert math.isnan(fleiss_kappa(single))
    assert math.isnan(fleiss_kappa(torch.tensor([[3, 0]])))


# --- known groups


def test_a_ranking_against_known_groups():
    y, strength = torch.zeros(30).long(), torch.arange(30) // 10
    perfect = rank(torch.arange(30).double(), y, 1)
    assert group_tau(perfect, strength) == pytest.approx(1)
    assert group_tau(rank(-torch.arange(30).double(), y, 1), strength) < -0.4
    noise = torch.randn(30, generator=torch.Generator().manual_seed(0)).double()
    found = rank(noise, y, 1)
    true = strength[found.of(0)].numpy()
    expected = stats.weightedtau(true, np.repeat([0, 1, 2], 10)).statistic
    assert group_tau(found, strength) == pytest.approx(expected)
    assert math.isnan(group_tau(perfect, torch.ones(30).long()))
    two = rank(torch.arange(30).double(), torch.arange(30) // 20, 2)  # the second has one group
    assert group_tau(two, strength) == pytest.approx(1)


def test_auroc_of_scores_and_purity_of_the_low_end():
    rng = torch.Generator().manual_seed(0)
    y, present = torch.arange(90) % 3, torch.rand(90, generator=rng) < 0.6
    s = torch.where(present, 1.0, 0.0) + torch.randn(90, generator=rng)
    s[y == 2] = float("nan")
    found = cue_auroc(s, y, present, 3)
    for c in (0, 1):
        expected = roc_auc_score(present[y == c], s[y == c])
        assert float(found[c]) == pytest.approx(expected)
    assert found[2].isnan()
    ranking = rank(s, y, 3)
    purity = low_end_purity(ranking, present, 5)
    assert set(purity) == {0, 1}
    assert purity[0] == float((~present[ranking.of(0)[:5]]).double().mean())
