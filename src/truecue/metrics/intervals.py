"""How far a measured number can be trusted: confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.errors import ConfigError, DataError

_NAN = float("nan")
# Resampled indices held at a time, 32 MiB.
_BLOCK = 2**22


class Estimate(NamedTuple):
    """A number with its confidence interval; what is not defined is nan."""

    value: float
    low: float
    high: float
    n: int
    """Samples (or seeds) that it rests on."""

    def to_dict(self) -> dict[str, float | int | None]:
        """The four fields by name, for JSON: None where a number is nan."""
        return {k: None if math.isnan(v) else v for k, v in self._asdict().items()}


def wilson(hits: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion with its Wilson score interval, without continuity correction.

    Args:
        hits: successes, 0 to n.
        n: trials. With none, everything is nan.
        level: confidence, in (0, 1).

    Raises:
        DataError: hits are not in 0..n.
        ConfigError: the level is not in (0, 1).

    Source: Wilson 1927.
    """
    return mean_of_cells(torch.tensor([hits]), torch.tensor([n]), level)


def wilson_limits(hits: Tensor, n: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """The limits of many Wilson intervals at once.

    Args:
        hits: int64, any shape, successes, 0 to `n`.
        n: int64, the same shape, trials, at least 1.
        level: confidence, in (0, 1).

    Returns:
        Lower and upper limits, float64, of the same shape.
    """
    _, low, high = _wilson(hits.double(), n.double(), _normal_quantile(level))
    return low.clamp(min=0), high.clamp(max=1)


def mean_of_cells(hits: Tensor, total: Tensor, level: float = 0.95) -> Estimate:
    """The unweighted mean of the proportions of independent cells, with its MOVER interval.

    With p the proportion, l and u the Wilson limits of each of k cells, the interval runs from
    mean(p) - √Σ((p - l)/k)² to mean(p) + √Σ((u - p)/k)². With one cell it is Wilson's.

    Args:
        hits: int64, any shape, successes in each cell.
        total: int64, the same shape, trials in each cell. Empty cells are left out.
        level: confidence, in (0, 1).

    Returns:
        The mean; `n` is the number of trials in all cells. All nan where every cell is empty.

    Raises:
        DataError: the shapes differ, or hits are not in 0..total.
        ConfigError: the level is not in (0, 1).

    Source: Zou & Donner 2008, the method of variance estimates recovery (MOVER, "square and add").
    """
    z = _normal_quantile(level)
    if hits.shape != total.shape:
        raise DataError(
            f"hits and totals must have one shape; got {list(hits.shape)} and {list(total.shape)}"
        )
    hits, total = hits.cpu(), total.cpu()
    if bool(((hits < 0) | (hits > total)).any()):
        raise DataError("the hits of a cell must lie between 0 and its total")
    filled = total > 0
    k = int(filled.sum())
    if k == 0:
        return Estimate(_NAN, _NAN, _NAN, 0)
    p, low, high = _wilson(hits[filled].double(), total[filled].double(), z)
    mean = float(p.mean())
    down = float((p - low).norm()) / k
    up = float((high - p).norm()) / k
    # the clamps only remove rounding errors, so that no hits give exactly 0 and all exactly 1
    return Estimate(mean, max(mean - down, 0.0), min(mean + up, 1.0), int(total.sum()))


def student_t(values: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean of repeated measurements, such as one for each seed, with Student's t interval.

    Args:
        values: finite numbers; a nan among them makes everything nan.
        level: confidence, in (0, 1).

    Returns:
        The mean; the limits are nan for one value, everything is nan for none.

    Raises:
        ConfigError: the level is not in (0, 1).
    """
    _check_level(level)
    n = len(values)
    if n == 0:
        return Estimate(_NAN, _NAN, _NAN, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, _NAN, _NAN, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = _t_quantile(level, n - 1) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def bootstrap(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int,
) -> Estimate:
    """A statistic of samples with its percentile bootstrap interval.

    Args:
        values: [n, ...], one row for each sample; rows are drawn with replacement.
        statistic: from many samples at once, [m, n, ...], to float [m]; for instance
            `lambda v: v.mean(1)`.
        level: confidence, in (0, 1).
        draws: number of samples drawn, at least 1.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        The statistic of the values themselves with the interval. Draws for which the statistic is
        nan are left out of the interval. All nan where there are no values.

    Raises:
        ConfigError: the level is not in (0, 1), or there are no draws.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    _check_level(level)
    if draws < 1:
        raise ConfigError(f"a bootstrap needs at least 1 draw; got {draws}")
    n = len(values)
    if n == 0:
        return Estimate(_NAN, _NAN, _NAN, 0)
    rng = torch.Generator().manual_seed(seed)
    found = []
    step = max(1, _BLOCK // n)
    for done in range(0, draws, step):
        ids = torch.randint(n, (min(step, draws - done), n), generator=rng)
        found.append(statistic(values[ids.to(values.device)]).cpu().double())
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(found).nanquantile(tails).tolist()
    return Estimate(float(statistic(values[None])), low, high, n)


def _wilson(hits: Tensor, n: Tensor, z: float) -> tuple[Tensor, Tensor, Tensor]:
    """Proportions and their Wilson limits, float64."""
    p = hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)).sqrt()
    return p, centre - half, centre + half


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"a confidence level must lie between 0 and 1; got {level}")


def _normal_quantile(level: float) -> float:
    # what scipy.stats.norm.ppf calls too, without the second that scipy.stats takes to load
    from scipy.special import ndtri

    _check_level(level)
    return float(ndtri((1 + level) / 2))


def _t_quantile(level: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
