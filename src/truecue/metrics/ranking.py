"""Images of a class in order of spuriosity, and how accuracy differs between the two ends."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truecue.errors import ConfigError
from truecue.metrics.intervals import Estimate, wilson_limits
from truecue.metrics.spurious import FEW

SHARE = 0.2
"""Of a class's images, the share in each end where no number is given."""
_LARGE = 256  # images in an end, from which on the null distribution is taken to be normal
_NAN = float("nan")


class Ranking(NamedTuple):
    """The images of every class in ascending order, class after class."""

    order: Tensor
    """int64 [r], positions of images; images of classes without a score are left out."""
    starts: Tensor
    """int64 [classes + 1]: class c has `order[starts[c]:starts[c + 1]]`."""

    def of(self, c: int) -> Tensor:
        """The positions of a class's images, ascending; empty where the class has no ranking."""
        return self.order[int(self.starts[c]) : int(self.starts[c + 1])]


def rank(scores: Tensor, y: Tensor, n_classes: int) -> Ranking:
    """Rank the images of each class by their scores.

    Images of equal scores stay in their order (many are exactly zero after a ReLU).

    Args:
        scores: floating [n]; images with nan are left out.
        y: int64 [n], labels.
        n_classes: number of classes.
    """
    ids = (~scores.isnan()).nonzero().squeeze(1)
    order = ids[torch.from_numpy(np.lexsort((scores[ids].numpy(), y[ids].numpy())))]
    counts = torch.bincount(y[ids], minlength=n_classes)
    return Ranking(order, torch.nn.functional.pad(counts.cumsum(0), (1, 0)))


def end_sizes(counts: Tensor, k: int | None) -> Tensor:
    """Images in each end: `k` or a fifth of the class (at least 1), at most half of the class.

    Args:
        counts: int64, any shape, images of the classes.
        k: None: a share of `SHARE`.

    Returns:
        int64, the same shape; 0 where a class has fewer than two images.

    Raises:
        ConfigError: k is below 1.
    """
    if k is not None and k < 1:
        raise ConfigError(f"an end of a ranking needs at least 1 image; got k = {k}")
    wanted = (
        (counts * SHARE).round().long().clamp(min=1) if k is None else torch.full_like(counts, k)
    )
    return torch.minimum(wanted, counts // 2)


def ends(ranking: Ranking, k: int | None) -> dict[int, tuple[Tensor, Tensor]]:
    """The lowest and the highest images of each class that has two images.

    Args:
        ranking: of the images.
        k: images in each end, see `end_sizes`.

    Returns:
        Positions (low, high) by class, both ascending, of equal length and disjoint.
    """
    sizes = end_sizes(ranking.starts.diff(), k).tolist()
    found = {c: ranking.of(c) for c, size in enumerate(sizes) if size}
    return {c: (ids[: sizes[c]], ids[-sizes[c] :]) for c, ids in found.items()}


class EndHits(NamedTuple):
    """Right predictions in the two ends of every class that has ends."""

    classes: Tensor
    """int64 [c]."""
    k: Tensor
    """int64 [c], images in each end."""
    low: Tensor
    """int64 [..., c], of each model."""
    high: Tensor
    """int64 [..., c]."""

    @property
    def gaps(self) -> Tensor:
        """float64 [..., c], accuracy of the high end minus that of the low end."""
        return (self.high - self.low).double() / self.k


def end_hits(right: Tensor, ranking: Ranking, k: int | None) -> EndHits:
    """Count the right predictions in both ends, for one model or many.

    Args:
        right: bool [..., n], whether each image is predicted right.
        ranking: of the images.
        k: images in each end, see `end_sizes`.
    """
    sizes = end_sizes(ranking.starts.diff(), k)
    classes = sizes.nonzero().squeeze(1)
    size, first, last = sizes[classes], ranking.starts[classes], ranking.starts[classes + 1]
    sums = right[..., ranking.order].cumsum(-1, dtype=torch.int32)
    sums = torch.nn.functional.pad(sums, (1, 0)).long()
    low = sums[..., first + size] - sums[..., first]
    return EndHits(classes, size, low, sums[..., last] - sums[..., last - size])


class Gap(NamedTuple):
    """How much better a model does on images that show a class's cue than on those that do not."""

    low: Estimate
    """Accuracy of the low end, with Wilson's interval."""
    high: Estimate
    gap: Estimate
    """High minus low; Newcombe's interval."""
    p: float
    """Chance of a gap of this size or larger, either way, in a random order of the same images."""
    null: tuple[float, float]
    """Between these, 95 % of the gaps of random orders lie."""


class SpuriousGaps(NamedTuple):
    """Gaps by class and over classes."""

    by_class: dict[int, Gap]
    """Classes without a ranking or with fewer than two images are absent."""
    macro: Estimate
    """Mean over classes, bootstrap interval over images; `n` is the number of classes."""
    pooled: Estimate
    """Accuracy of all high ends together minus that of all low ends together."""


def spurious_gap(
    right: Tensor, ranking: Ranking, k: int | None = None, *, draws: int = 2000, seed: int = 0
) -> SpuriousGaps:
    """The accuracy of the most spurious images of each class minus that of the least spurious.

    Positive: the model does better where the cue is present, which is the usual bias. The interval
    of a class is Newcombe's (of the difference of two proportions): a bootstrap collapses to a
    point where both ends are all right. The intervals over classes are from a bootstrap of the
    images in each end, for fixed ends.

    Args:
        right: bool [n], whether each image is predicted right.
        ranking: of the images, which should not be training images of the model.
        k: images in each end; None: a fifth of each class. At most half of a class.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        All estimates are nan where no class has ends.

    Source: Moayeri et al. 2023, section 4; Newcombe 1998, method 10.
    """
    hits = end_hits(right, ranking, k)
    sizes = ranking.starts.diff()
    of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    total = torch.bincount(of[right[ranking.order]], minlength=len(sizes))
    found = class_gaps(hits.low, hits.high, hits.k, total[hits.classes], sizes[hits.classes])
    by_class = dict(zip(hits.classes.tolist(), found, strict=True))
    return SpuriousGaps(by_class, *_over_classes(hits, draws, seed))


def class_gaps(low: Tensor, high: Tensor, k: Tensor, hits: Tensor, n: Tensor) -> list[Gap]:
    """The gaps of classes from counts, all int64 [c].

    Args:
        low: right predictions in the low end.
        high: right predictions in the high end.
        k: images in each end, at least 1.
        hits: right predictions in the whole class.
        n: images of the class, at least 2k.
    """
    a, b = low / k.double(), high / k.double()
    (a_low, a_high), (b_low, b_high) = wilson_limits(low, k), wilson_limits(high, k)
    gap = b - a
    lower = (gap - torch.hypot(b - b_low, a_high - a)).clamp(min=-1)
    upper = (gap + torch.hypot(b_high - b, a - a_low)).clamp(max=1)
    columns = (a, a_low, a_high, b, b_low, b_high, gap, lower, upper)
    values = zip(*(column.tolist() for column in columns), strict=True)
    counts = zip(*(column.tolist() for column in (low, high, k, hits, n)), strict=True)
    found = []
    for v, (lo, hi, size, right, whole) in zip(values, counts, strict=True):
        null = _null(right, whole, size)
        one, other, gap_of = (Estimate(v[i], v[i + 1], v[i + 2], size) for i in (0, 3, 6))
        found.append(Gap(one, other, gap_of, null.chance[abs(hi - lo)], null.between))
    return found


class _Null(NamedTuple):
    chance: tuple[float, ...]
    """Of a difference of 0..k right predictions or more, either way."""
    between: tuple[float, float]
    """Limits of 95 % of the gaps."""


@lru_cache(maxsize=4096)
def _null(hits: int, n: int, k: int) -> _Null:
    """What gaps random orders of a class give."""
    chances = _differences(hits, n, k)
    folded = chances[k:] + np.r_[0.0, chances[:k][::-1]]
    tail = folded[::-1].cumsum()[::-1].clip(max=1)
    sums = chances.cumsum()
    low, high = (int(np.searchsorted(sums, at)) - k for at in (0.025 + 1e-9, 0.975 - 1e-9))
    return _Null(tuple(tail.tolist()), (low / k, high / k))


def _differences(hits: int, n: int, k: int) -> npt.NDArray[np.float64]:
    """Chances of high minus low = -k..k right predictions when the order is random.

    The two ends are then two disjoint random sets, so that the counts have the multivariate
    hypergeometric distribution; large ends take the normal one of the same variance, which is
    2 k p (1 - p) n / (n - 1).
    """
    from scipy.special import gammaln, ndtr

    difference = np.arange(-k, k + 1)
    if k > _LARGE:
        p = hits / n
        spread = math.sqrt(2 * k * p * (1 - p) * n / (n - 1))
        if spread == 0:
            return np.where(difference == 0, 1.0, 0.0)
        upper, lower = ndtr((difference + 0.5) / spread), ndtr((difference - 0.5) / spread)
        return np.asarray(upper - lower)

    def choose(total: Any, part: Any) -> Any:
        possible = (part >= 0) & (part <= total)
        part = np.where(possible, part, 0)
        found = gammaln(total + 1) - gammaln(part + 1) - gammaln(total - part + 1)
        return np.where(possible, found, -np.inf)

    a, b = np.arange(k + 1)[:, None], np.arange(k + 1)[None]
    log = choose(k, a) + choose(k, b) + choose(n - 2 * k, hits - a - b) - choose(n, hits)
    summed = np.bincount((b - a + k).ravel(), weights=np.exp(log).ravel(), minlength=2 * k + 1)
    return np.asarray(summed, dtype=np.float64)


def _over_classes(hits: EndHits, draws: int, seed: int) -> tuple[Estimate, Estimate]:
    k, low, high = (t.numpy() for t in (hits.k, hits.low, hits.high))
    n = len(k)
    if not n:
        nothing = Estimate(_NAN, _NAN, _NAN, 0)
        return nothing, nothing
    rng = np.random.default_rng(seed)
    (low_mean, low_all), (high_mean, high_all) = (_again(h, k, draws, rng) for h in (low, high))

    def estimate(value: float, drawn: npt.NDArray[Any]) -> Estimate:
        lower, upper = np.quantile(drawn, [0.025, 0.975])
        return Estimate(float(value), float(lower), float(upper), n)

    macro = estimate(((high - low) / k).mean(), (high_mean - low_mean) / n)
    return macro, estimate((high - low).sum() / k.sum(), (high_all - low_all) / k.sum())


def _again(
    hits: npt.NDArray[Any], k: npt.NDArray[Any], draws: int, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Accuracies and hits of ends, added up over classes, when images are drawn with replacement.

    Of images that are right or wrong, the number of right ones drawn is binomial, and so is its sum
    over ends of the same size and accuracy.
    """
    (size, right), m = np.unique(np.stack([k, hits]), axis=1, return_counts=True)
    drawn = rng.binomial(size * m, right / size, (draws, len(m)))
    return drawn @ (1 / size), drawn.sum(1)


def rank_correlation(scores: Tensor, right: Tensor) -> float:
    """Spearman's correlation of scores with being right; for classes too small for two ends.

    Args:
        scores: floating [n], of one class.
        right: bool [n].

    Returns:
        In [-1, 1]; nan where all scores are equal, or all or none are right.
    """
    from scipy.stats import rankdata

    ranks, hits = rankdata(scores.numpy()), right.double().numpy()
    if len(ranks) < 2 or np.ptp(ranks) == 0 or np.ptp(hits) == 0:
        return _NAN
    return float(np.corrcoef(ranks, hits)[0, 1])


def is_small(n: int) -> bool:
    """Whether a class has too few images for ends that mean something."""
    return n < FEW


def collisions(gaps: Tensor, classes: Tensor, below: float = 0.0) -> list[tuple[int, float]]:
    """Classes whose mean gap over models is below a threshold, the most negative first.

    There the cue goes more strongly with another class: images show several objects, or are
    labelled wrongly.

    Args:
        gaps: float [models, c].
        classes: int64 [c].
        below: the threshold.

    Source: Moayeri et al. 2023, section 5.
    """
    mean = gaps.double().mean(0)
    order = mean.argsort(stable=True)
    return [(int(classes[i]), float(mean[i])) for i in order.tolist() if float(mean[i]) < below]


def suspects(ranking: Ranking, pred: Tensor, c: int, share: float = 0.1) -> list[tuple[int, int]]:
    """The most spurious images of a class, for review, with the class that the model prefers.

    Args:
        ranking: of the images.
        pred: int64 [n], the model's predictions.
        c: the class.
        share: of the class's images that are listed, at least one.

    Returns:
        (position, predicted class), the most spurious first.
    """
    ids = ranking.of(c)
    some = ids[len(ids) - max(1, round(share * len(ids))) :].flip(0) if len(ids) else ids
    return list(zip(some.tolist(), pred[some].tolist(), strict=True))
