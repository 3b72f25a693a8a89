"""Whether a number could be chance: p-values from permutations, and false-discovery rates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from truecue.errors import ConfigError, DataError

# values held at a time, 64 MiB
_BLOCK = 2**24


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """q-values: the smallest false-discovery rate at which each finding would be kept.

    With m p-values in ascending order, q of the i-th is the least of m p_j / j over j >= i.

    Args:
        p: p-values in [0, 1]; nan stands for a test that could not be made. It stays nan and does
            not count.

    Returns:
        q-values in [0, 1], in the order of `p`.

    Raises:
        DataError: a p-value is outside [0, 1].

    Source: Benjamini & Hochberg 1995. Holds for independent and positively dependent tests.
    """
    values = torch.tensor(list(p), dtype=torch.float64)
    made = ~values.isnan()
    tested = values[made]
    if bool(((tested < 0) | (tested > 1)).any()):
        raise DataError("p-values must lie between 0 and 1")
    order = tested.argsort(descending=True)
    m = len(tested)
    scaled = tested[order] * m / torch.arange(m, 0, -1, dtype=torch.float64)
    q = torch.empty_like(tested)
    q[order] = scaled.cummin(0).values.clamp(max=1) if m else scaled
    values[made] = q
    return values.tolist()


def sign_flips(d: Tensor, weights: Tensor, *, draws: int, seed: int) -> Tensor:
    """p-values of the mean differences of pairs: is each above 0?

    Where a treatment does nothing, the two members of a pair could change places: every difference
    is as likely as its negative. One-sided.

    Args:
        d: float [n, k], differences of n pairs in k measurements.
        weights: float [n], of the pairs in the mean, none negative.
        draws: number of random signs, at least 1. The least p-value is 1 / (draws + 1).
        seed: of the draws.

    Returns:
        float64 [k]. 1 where all differences are 0; nan where one is nan.

    Raises:
        ConfigError: there are no draws.
        DataError: there are no pairs.
    """
    _check(draws, len(d))
    weighted = (d * weights.unsqueeze(1)).double()
    rng = torch.Generator().manual_seed(seed)
    found, step = torch.zeros(d.shape[1], dtype=torch.int64), max(1, _BLOCK // len(d))
    observed = _a_little_less(weighted.sum(0), weighted.abs().sum(0))
    for done in range(0, draws, step):
        signs = torch.randint(0, 2, (min(step, draws - done), len(d)), generator=rng)
        found += ((2.0 * signs - 1).double() @ weighted >= observed).sum(0)
    return _p(found, draws, observed)


def label_shuffles(scores: Tensor, y: Tensor, *, draws: int, seed: int) -> Tensor:
    """p-values of scores for the labels: are they higher for the true class than by chance?

    The statistic is the mean, over classes, of the mean score that images of the class have for
    it, each score less the image's mean over all classes. Labels are shuffled among the images.
    One-sided. Exact where the scores come from a rule that was made without these labels.

    Args:
        scores: float [k, n, c], of k rules, for c classes.
        y: int64 [n], labels. Classes without an image are left out.
        draws: number of shuffles, at least 1. The least p-value is 1 / (draws + 1).
        seed: of the draws.

    Returns:
        float64 [k]. 1 where a rule says the same of all images, or of all classes; nan where a
        score is nan.

    Raises:
        ConfigError: there are no draws.
        DataError: there are no images.
    """
    k, n, c = scores.shape
    _check(draws, n)
    flat = (scores - scores.mean(2, keepdim=True)).reshape(k, n * c).float()
    share = 1 / torch.bincount(y, minlength=c).clamp(min=1)[y].double()
    first = torch.arange(n) * c

    def sums(labels: Tensor, weights: Tensor) -> Tensor:
        # in double precision: sums of thousands in single precision tell apart what is equal
        return (flat[:, first + labels].double() * weights).sum(2).T

    observed = _a_little_less(sums(y[None], share[None])[0], c * scores.abs().mean((1, 2)))
    rng = torch.Generator().manual_seed(seed)
    found, step = torch.zeros(k, dtype=torch.int64), max(1, _BLOCK // (2 * n * k))
    for done in range(0, draws, step):
        order = torch.rand(min(step, draws - done), n, generator=rng).argsort(1)
        found += (sums(y[order], share[order]) >= observed).sum(0)
    return _p(found, draws, observed)


def rank_shuffles(x: Tensor, outcome: Tensor, y: Tensor, *, draws: int, seed: int) -> Tensor:
    """p-values of rank correlations within classes: does the outcome rise with x?

    The statistic is the mean over classes of Spearman's correlation within the class. Outcomes are
    shuffled among the images of each class, so that differences between classes play no part.
    One-sided.

    Args:
        x: float [n, k], k measurements.
        outcome: float [n].
        y: int64 [n], classes. Those with fewer than 3 images are left out.
        draws: number of shuffles, at least 1. The least p-value is 1 / (draws + 1).
        seed: of the draws.

    Returns:
        float64 [k]. 1 where a measurement is constant within every class; nan where it, or the
        outcome, is nan for an image.

    Raises:
        ConfigError: there are no draws.
        DataError: there are no images, or no class has 3.
    """
    _check(draws, len(x))
    rng = torch.Generator().manual_seed(seed)
    observed = torch.zeros(x.shape[1], dtype=torch.float64)
    chance = torch.zeros(draws, x.shape[1], dtype=torch.float64)
    classes = [ids for c in y.unique() if len(ids := (y == c).nonzero().squeeze(1)) >= 3]
    if not classes:
        raise DataError("no class has 3 images, so there are no ranks to compare within a class")
    for ids in classes:
        a, b = (_unit(ranks(v[ids])) for v in (x, outcome.unsqueeze(1)))
        observed += (a * b).sum(0)
        step = max(1, _BLOCK // len(ids))
        for done in range(0, draws, step):
            some = min(step, draws - done)
            order = torch.rand(some, len(ids), generator=rng).argsort(1)
            chance[done : done + some] += b[:, 0][order] @ a
    at_least = chance >= _a_little_less(observed, torch.ones_like(observed))
    known = torch.where(x.isnan().any(0) | outcome.isnan().any(), torch.nan, observed)
    return _p(at_least.sum(0), draws, known)


def ranks(x: Tensor) -> Tensor:
    """Ranks from 0 within each column, equal values sharing their mean: [n, k], float64."""
    order = x.argsort(0)
    up = x.gather(0, order)
    places = torch.arange(len(x), dtype=torch.float64)
    out = torch.empty(x.shape, dtype=torch.float64)
    for k in range(x.shape[1]):  # runs of equal values differ from column to column
        _, run, size = up[:, k].unique_consecutive(return_inverse=True, return_counts=True)
        total = torch.zeros(len(size), dtype=torch.float64).index_add_(0, run, places)
        out[order[:, k], k] = (total / size)[run]
    return out


def _unit(x: Tensor) -> Tensor:
    """Columns with mean 0 and length 1; constant ones become 0."""
    x = x - x.mean(0)
    length = x.norm(dim=0)
    return x / torch.where(length > 0, length, 1.0)


def _a_little_less(observed: Tensor, size: Tensor) -> Tensor:
    """Rounding must not tell apart what is equal: a draw that equals what was found counts."""
    return observed - 1e-6 * size


def _p(at_least: Tensor, draws: int, observed: Tensor) -> Tensor:
    """p-values from how many draws reached what was found; nothing is above or below nan."""
    return torch.where(observed.isnan(), torch.nan, (1 + at_least).double() / (1 + draws))


def _check(draws: int, n: int) -> None:
    if draws < 1:
        raise ConfigError(f"a permutation test needs at least 1 draw; got {draws}")
    if n == 0:
        raise DataError("a permutation test needs images; there are none")
