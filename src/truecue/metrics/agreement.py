"""What many models have in common: robustness beyond their accuracy, and gaps that agree."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from truecue.errors import ConfigError, DataError
from truecue.metrics.ranking import Ranking, end_hits

DRAWS = 200
"""Fewest random orders that a null distribution is made of."""


class Robustness(NamedTuple):
    """A line through models, and how far above it each of them is."""

    slope: float
    intercept: float
    residuals: Tensor
    """float64 [models], effective robustness; they add up to 0."""


def effective_robustness(high: Tensor, low: Tensor) -> Robustness:
    """How much better models do without the cue than models of their accuracy with it do.

    Least squares of the low ends' accuracy on that of the high ends; linear, not in log odds.

    Args:
        high: float [models], accuracy on images that show the cue.
        low: float [models], accuracy on images that do not.

    Raises:
        DataError: fewer than three models, lengths that differ, or one accuracy for all.

    Source: Moayeri et al. 2023, appendix D.
    """
    if len(high) < 3 or len(high) != len(low):
        raise DataError(
            "effective robustness is measured against a line through models: give at least three,"
            f" with both accuracies; got {len(high)} and {len(low)}"
        )
    x, y = high.double(), low.double()
    centred = x - x.mean()
    if float(centred.abs().max()) < 1e-12:
        raise DataError("all models are equally accurate on the high ends: there is no line")
    slope = float(centred @ y / centred.square().sum())
    intercept = float(y.mean()) - slope * float(x.mean())
    return Robustness(slope, intercept, y - (slope * x + intercept))


class Agreement(NamedTuple):
    """How alike the class gaps of models are."""

    r: Tensor
    """float64 [models, models], Pearson's correlations; nan with a model of constant gaps."""
    mean: float
    """Over all pairs of models, those with nan left out; nan where there is none."""
    ratio: float
    """Variance over classes of the mean over models, by variance over models of the mean over
    classes. Independent noise alone gives classes / models."""


def agreement(gaps: Tensor) -> Agreement:
    """Correlations between models' class gaps, and how much of them is the classes' own.

    Models find the same images hard, so that gaps of random orders agree, too: compare with
    `null_gap`.

    Args:
        gaps: float [models, classes].

    Source: Moayeri et al. 2023, section 4.
    """
    g = gaps.double()
    centred = g - g.mean(1, keepdim=True)
    norm = centred.norm(dim=1)
    norm = norm.where(norm > 1e-12 * math.sqrt(max(1, g.shape[1])), torch.nan)
    r = (centred @ centred.T) / (norm[:, None] * norm)
    pairs = r[tuple(torch.triu_indices(len(g), len(g), 1))]
    pairs = pairs[~pairs.isnan()]
    mean = float(pairs.mean()) if len(pairs) else math.nan
    few = len(g) < 2 or g.shape[1] < 2
    ratio = math.nan if few else float(g.mean(0).var() / g.mean(1).var())
    return Agreement(r, mean, ratio)


class Null(NamedTuple):
    """What random orders within classes give."""

    gap: Tensor
    """float64 [draws, models], mean gap over classes."""
    r: Tensor
    """float64 [draws], mean correlation between models; nan for a single one."""
    ratio: Tensor
    """float64 [draws]; nan for a single model."""

    def band(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and the limits of 95 % of the draws of `gap`, `r` or `ratio`."""
        values: Tensor = getattr(self, name)
        low, high = values.nanquantile(torch.tensor([0.025, 0.975]).double(), dim=0)
        return values.nanmean(0), low, high


def null_gap(
    right: Tensor, ranking: Ranking, k: int | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Null:
    """Gaps, correlations and variance ratios when the order within each class is random.

    Args:
        right: bool [models, n], or [n] for one model.
        ranking: says which images are ranked, and in which class.
        k: images in each end, as for `spurious_gap`.
        draws: random orders, at least 200.
        seed: of the orders.

    Raises:
        ConfigError: fewer draws are asked for.
    """
    if draws < DRAWS:
        raise ConfigError(f"a null band needs at least {DRAWS} draws; got {draws}")
    right = right if right.dim() == 2 else right[None]
    # only the ranked images, side by side: smaller, and their classes come in order
    right = right[:, ranking.order]
    sizes = ranking.starts.diff()
    classes = torch.repeat_interleave(torch.arange(len(sizes)), sizes).numpy()
    rng = np.random.default_rng(seed)
    gap, r, ratio = [], [], []
    for _ in range(draws):
        order = np.argsort(classes + rng.random(len(classes)))
        gaps = end_hits(right, Ranking(torch.from_numpy(order), ranking.starts), k).gaps
        found = agreement(gaps)
        gap.append(gaps.mean(1))
        r.append(found.mean)
        ratio.append(found.ratio)
    as_tensor = [torch.tensor(values, dtype=torch.float64) for values in (r, ratio)]
    return Null(torch.stack(gap), *as_tensor)
