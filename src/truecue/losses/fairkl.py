"""FairKL: similarities must not depend on whether two samples share a bias.

Barbano, Dufumier, Tartaglione, Grangetto, Gori, ICLR 2023, arXiv 2211.05568. Pairs of a batch fall
into four sets: positives (same class) and negatives, each aligned (same bias) or conflicting
(another bias). That is said of two samples. A single sample is conflicting where its bias is not
the usual one of its class, which is another notion.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from truecue.errors import ConfigError
from truecue.losses.contrastive import similarities
from truecue.losses.mmd import mmd
from truecue.losses.precision import wide

Variant = Literal[
    "none", "end_linear", "means", "mean_std", "kl", "jeffreys", "mmd_rbf", "official"
]
"""What is compared of two sets of similarities; see `fairkl`."""
Empty = Literal["skip", "zero"]
SETS = ("PA", "PC", "NA", "NC")
"""Positives and negatives, each aligned and conflicting."""
FROM_PAIRS = ("mmd_rbf", "official")
"""Variants that moments do not suffice for."""
_LEAST = 1e-12
"""The smallest variance that is divided by."""


class Moments(NamedTuple):
    """Of sets of similarities; each field is [...], one number for each set."""

    n: Tensor
    """Ordered pairs, or the sum of their weights."""
    mean: Tensor
    """0 for an empty set."""
    var: Tensor
    """With n - 1; 0 where it is not defined."""

    @property
    def std(self) -> Tensor:
        """Standard deviations."""
        return self.var.sqrt()


class Fairness(NamedTuple):
    """The regulariser, its two parts and what they were taken of."""

    loss: Tensor
    """Scalar: the sum of both parts."""
    pos: Tensor
    """Scalar: aligned against conflicting positives; 0 where skipped."""
    neg: Tensor
    """Scalar: aligned against conflicting negatives; 0 where skipped."""
    moments: Moments
    """[4] each, in the order of `SETS`, detached."""
    skipped: Tensor
    """bool [2]: whether the part of positives, and of negatives, was left out: a set was empty."""
    fell_back: Tensor
    """bool [2]: whether a part compared means alone, since a set had fewer than two pairs."""


def fairkl(
    s: Tensor,
    y: Tensor,
    bias: Tensor,
    variant: Variant = "kl",
    *,
    kappa: float = 1.0,
    var_floor: float = 1e-4,
    empty: Empty = "skip",
    per_anchor: bool = False,
) -> Fairness:
    """How far the similarities of aligned pairs are from those of conflicting ones.

    The sum of a part of positives (A: aligned, C: conflicting positives) and the same of negatives:

    - `none`: 0;
    - `end_linear`: -mean_C of positives, +mean_A of negatives (the idea of EnD, 2021);
    - `means`: (mean_A - mean_C)^2, eq. (9) a, b as a penalty;
    - `mean_std`: the same + kappa (std_A - std_C)^2, what the released code means;
    - `kl`: Kullback-Leibler divergence of two normal distributions, (A || C), eq. (9) c, d;
    - `jeffreys`: (A || C) + (C || A);
    - `mmd_rbf`: squared maximum mean discrepancy with a Gaussian kernel, which compares whole
      distributions, of up to 512 pairs of a set; not in the paper; see `truecue.losses.mmd`;
    - `official`: what the released code computes: pairs of a sample with itself count as aligned,
      deviations are those of a matrix with zeros in it, an empty set's mean is 0, and `end_linear`
      is always added. May be below 0.

    `kl` and `jeffreys` are the same for distances; `means` and `mean_std` are a quarter of theirs.

    Args:
        s: float [n, n], cosine similarities; see `similarities`.
        y: int64 [n], labels.
        bias: int64 [n], -1 where not known (such samples are in no pair), or float [n, k], the
            probability of each bias value. Then q_i . q_j is the chance that a pair shares its
            bias, and moments are weighted.
        variant: what is compared.
        kappa: weight of the deviations in `mean_std` and `official`.
        var_floor: added to variances in `kl` and `jeffreys`, at least 0.
        empty: leave a part out where one of its sets is empty, or take 0 for the mean of that set,
            as the released code does. A set whose weights add up to less than one pair is empty.
        per_anchor: compare means anchor by anchor and average over those that have both sets;
            for `means` alone.

    Returns:
        Never NaN. With fewer than two pairs in a set `mean_std`, `kl` and `jeffreys` compare means.

    Raises:
        ConfigError: a number is out of range, there is no such variant, or two options do not go
            together.
        ValueError: `bias` is not one of the two.
    """
    _check(variant, var_floor, kappa, per_anchor, empty)
    s = wide(s)
    weights = pair_weights(y, bias, s.dtype)
    moments = weighted_moments(s, weights)
    if variant == "official":
        if bias.is_floating_point():
            raise ConfigError("variant 'official' takes bias labels, not probabilities")
        pos, neg = _official(s, y, bias, kappa)
        never = torch.zeros(2, dtype=torch.bool, device=s.device)
        return _outcome(pos, neg, moments, never, never)
    if per_anchor or variant == "mmd_rbf":
        by = _by_anchor if per_anchor else _by_mmd
        pos, neg, skipped = by(s, weights, empty)
        return _outcome(pos, neg, moments, skipped, torch.zeros_like(skipped))
    return from_moments(moments, variant, kappa=kappa, var_floor=var_floor, empty=empty)


def from_moments(
    moments: Moments,
    variant: Variant = "kl",
    *,
    kappa: float = 1.0,
    var_floor: float = 1e-4,
    empty: Empty = "skip",
) -> Fairness:
    """The regulariser of four sets' moments [4]; see `fairkl`.

    Raises:
        ConfigError: `official` or `mmd_rbf`, which need the similarities; there is no such variant;
            or a number is out of range.
    """
    _check(variant, var_floor, kappa, False, empty)
    if variant in FROM_PAIRS:
        raise ConfigError(f"variant '{variant}' is computed from similarities, not from moments")
    there, enough = moments.n >= 2, moments.n >= 4  # ordered pairs: each is there twice
    values, absent, alone = [], [], []
    for a, c in ((0, 1), (2, 3)):
        both = there[a] & there[c]
        spread = enough[a] & enough[c]
        if variant == "end_linear":
            both = there[c] if a == 0 else there[a]
            spread = both
            value = -moments.mean[c] if a == 0 else moments.mean[a]
        else:
            value = _part(variant, moments, a, c, spread, kappa, var_floor)
        if empty == "zero":
            both = torch.ones_like(both)
        values.append(torch.where(both, value, torch.zeros_like(value)))
        absent.append(~both)
        alone.append(both & ~spread & (variant not in ("none", "means", "end_linear")))
    pos, neg = values
    return _outcome(pos, neg, moments, torch.stack(absent), torch.stack(alone))


def fairkl_of_lists(
    pa: Tensor,
    pc: Tensor,
    na: Tensor,
    nc: Tensor,
    variant: Variant = "kl",
    *,
    kappa: float = 1.0,
    var_floor: float = 1e-4,
    empty: Empty = "skip",
) -> Fairness:
    """The regulariser of four lists of similarities, each pair once: float [any] each."""
    sets = [wide(values) for values in (pa, pc, na, nc)]
    rows = [_of_values(values) for values in sets]
    # `from_moments` counts a pair twice, (i, j) and (j, i)
    moments = Moments(*(torch.stack(field) for field in zip(*rows, strict=True)))
    doubled = moments._replace(n=2 * moments.n)
    if variant == "mmd_rbf":
        weighted = [(values, torch.ones_like(values)) for values in sets]
        pos, neg, skipped = _mmd_parts(weighted, empty)
        return _outcome(pos, neg, doubled, skipped, torch.zeros_like(skipped))
    return from_moments(doubled, variant, kappa=kappa, var_floor=var_floor, empty=empty)


def pair_weights(y: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """How much every ordered pair belongs to each of `SETS`: [4, n, n], in [0, 1].

    Args:
        y: int64 [n].
        bias: int64 [n], -1 where not known, or float [n, k], probabilities.
        dtype: of the result.

    Raises:
        ValueError: `bias` is neither.
    """
    if bias.dim() != (2 if bias.is_floating_point() else 1) or len(bias) != len(y):
        kind = str(bias.dtype).removeprefix("torch.")
        raise ValueError(
            f"bias must be integers [{len(y)}], or probabilities [{len(y)}, values]; got {kind}"
            f" {list(bias.shape)}"
        )
    off = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    positive = y[:, None] == y
    if not bias.is_floating_point():
        known = bias >= 0
        off &= known[:, None] & known
        same = bias[:, None] == bias
        masks = positive & same, positive & ~same, ~positive & same, ~positive & ~same
        return (torch.stack(masks) & off).to(dtype)
    with torch.autocast(bias.device.type, enabled=False):
        share = (bias.to(dtype) @ bias.to(dtype).T).clamp(0, 1)
    pos, neg = (positive & off).to(dtype), (~positive & off).to(dtype)
    return torch.stack([pos * share, pos * (1 - share), neg * share, neg * (1 - share)])


def weighted_moments(s: Tensor, weights: Tensor) -> Moments:
    """Moments of similarities [n, n] under weights [4, n, n]: [4] each.

    The variance is unbiased for weights of 0 and 1, and takes others for a share of reliability.
    """
    rows, values = weights.flatten(1), s.flatten()
    n = rows.sum(1)
    with torch.autocast(s.device.type, enabled=False):
        # weights that add up to less than a pair are an empty set
        mean = torch.where(n >= 2, (rows @ values) / n.clamp(min=1), 0)
        # no gradient goes through this mean: there a sum of squares does not change with it
        pairs = zip(rows, mean.detach(), strict=True)
        squares = torch.stack([w @ (values - m).square() for w, m in pairs])
    freedom = n - torch.linalg.vector_norm(rows, dim=1) ** 2 / n.clamp(min=1)
    known = (n >= 2) & (freedom > 0)
    var = torch.where(known, squares / freedom.clamp(min=0.5), torch.zeros_like(squares))
    return Moments(n, mean, var)


@torch.no_grad()
def exact_moments(z: Tensor, y: Tensor, bias: Tensor) -> Moments:
    """Moments of all pairs of a whole set, without ever holding the pairs: float64 [4] each.

    Sums of similarities and of their squares over pairs of groups are products of the groups' sums
    of z and of z z^T, which costs n d^2 instead of n^2 d.

    Args:
        z: float [n, d]; rows are scaled to length 1 here.
        y: int64 [n].
        bias: int64 [n], -1 where not known (such samples are left out).
    """
    known = bias >= 0
    z, y, bias = z[known].double(), y[known], bias[known]
    z = torch.nn.functional.normalize(z, dim=1, eps=1e-12)
    d = z.shape[1]
    # count, sum and sum of squares of all pairs within: groups, classes, bias values, everything
    within = {name: z.new_zeros(3) for name in ("group", "class", "bias", "all")}
    everything, by_bias = _Sums(z, d), dict[int, _Sums]()
    for label in y.unique().tolist():
        of_class = _Sums(z, d)
        mine = y == label
        for value in bias[mine].unique().tolist():
            group = _Sums(z, d).add(z[mine & (bias == value)])
            within["group"] += group.pairs()
            of_class.join(group)
            by_bias.setdefault(value, _Sums(z, d)).join(group)
        within["class"] += of_class.pairs()
        everything.join(of_class)
    for sums in by_bias.values():
        within["bias"] += sums.pairs()
    within["all"] = everything.pairs()
    lengths = (z**2).sum(1)
    itself = torch.stack([z.new_tensor(float(len(z))), lengths.sum(), (lengths**2).sum()])
    table = torch.stack([
        within["group"] - itself,
        within["class"] - within["group"],
        within["bias"] - within["group"],
        within["all"] - within["class"] - within["bias"] + within["group"],
    ])  # fmt: skip
    n = table[:, 0].round().clamp(min=0)
    some = n > 0
    mean = torch.where(some, table[:, 1] / n.clamp(min=1), torch.zeros_like(n))
    var = (table[:, 2] - n * mean**2).clamp(min=0) / (n - 1).clamp(min=1)
    return Moments(n, mean, torch.where(some, var, torch.zeros_like(var)))


class _Sums:
    """Count, sum and sum of outer products of some rows."""

    def __init__(self, like: Tensor, d: int):
        self.count = 0
        self.first, self.second = like.new_zeros(d), like.new_zeros(d, d)

    def add(self, rows: Tensor) -> _Sums:
        self.count += len(rows)
        self.first += rows.sum(0)
        self.second += rows.T @ rows
        return self

    def join(self, other: _Sums) -> None:
        self.count += other.count
        self.first += other.first
        self.second += other.second

    def pairs(self) -> Tensor:
        """Number of ordered pairs and self-pairs; sum of similarities, and of their squares."""
        squares = (self.second**2).sum()
        return torch.stack([self.first.new_tensor(float(self.count) ** 2), self.first @ self.first,
                            squares])  # fmt: skip


def _part(
    variant: Variant, moments: Moments, a: int, c: int, spread: Tensor, kappa: float, floor: float
) -> Tensor:
    """Aligned against conflicting; means alone where `spread` is false."""
    gap = (moments.mean[a] - moments.mean[c]) ** 2
    if variant == "none":
        return 0 * gap
    if variant == "means":
        return gap
    one = torch.ones_like(gap)  # stands for a variance that is not known, so that gradients are 0
    var_a, var_c = (torch.where(spread, moments.var[k], one) for k in (a, c))
    if variant == "mean_std":
        std_a, std_c = ((var + 1e-8).sqrt() for var in (var_a, var_c))
        return gap + kappa * (std_a - std_c) ** 2
    var_a, var_c = ((var + floor).clamp(min=_LEAST) for var in (var_a, var_c))
    value = _gaussian_kl(gap, var_a, var_c)
    if variant == "jeffreys":
        value = value + _gaussian_kl(gap, var_c, var_a)
    return torch.where(spread, value, gap)


def _gaussian_kl(gap: Tensor, var_p: Tensor, var_q: Tensor) -> Tensor:
    """KL(P || Q) of two normal distributions; `gap` is the squared difference of their means."""
    ratio = var_p / var_q
    return 0.5 * (ratio + gap / var_q - ratio.log() - 1)


def _by_anchor(s: Tensor, weights: Tensor, empty: Empty) -> tuple[Tensor, Tensor, Tensor]:
    """Squared differences of means, anchor by anchor: both parts, and which were skipped."""
    n = weights.sum(2)
    there = n >= 1
    means = torch.where(there, (weights * s).sum(2) / n.clamp(min=1), 0)
    values, skipped = [], []
    for a, c in ((0, 1), (2, 3)):
        both = there[a] & there[c] if empty == "skip" else there[a] | there[c]
        gaps = torch.where(both, (means[a] - means[c]) ** 2, torch.zeros_like(means[a]))
        values.append(gaps.sum() / both.sum().clamp(min=1))
        skipped.append(~both.any())
    return values[0], values[1], torch.stack(skipped)


def _by_mmd(s: Tensor, weights: Tensor, empty: Empty) -> tuple[Tensor, Tensor, Tensor]:
    """Both parts of `mmd_rbf`, and which were skipped; each pair counts once."""
    sets = []
    for w in weights.triu(1).flatten(1):
        there = w.nonzero().flatten()
        sets.append((s.flatten()[there], w[there]))
    return _mmd_parts(sets, empty)


def _mmd_parts(sets: list[tuple[Tensor, Tensor]], empty: Empty) -> tuple[Tensor, Tensor, Tensor]:
    """Both parts of `mmd_rbf` of four lists with weights, and which were skipped."""
    parts, skipped = [], []
    for k in (0, 2):
        (x, of_x), (y, of_y) = (_or_zero(*pair, empty) for pair in sets[k : k + 2])
        absent = bool((of_x.sum() < 1) | (of_y.sum() < 1))
        parts.append(0 * (x.sum() + y.sum()) if absent else mmd(x, y, of_x, of_y))
        skipped.append(absent)
    return parts[0], parts[1], torch.tensor(skipped, device=parts[0].device)


def _or_zero(values: Tensor, weights: Tensor, empty: Empty) -> tuple[Tensor, Tensor]:
    """With `zero` one similarity of 0 stands for a list of less than a pair."""
    if empty == "skip" or bool(weights.sum() >= 1):
        return values, weights
    return 0 * values.sum()[None], weights.new_ones(1)


def _official(s: Tensor, y: Tensor, bias: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Both parts as in github EIDOSLAB/unbiased-contrastive-learning, commit 25b3981."""
    same_y, same_b, known = y[:, None] == y, bias[:, None] == bias, bias >= 0
    pairs = known[:, None] & known
    masks = same_y & same_b, same_y & ~same_b, ~same_y & same_b, ~same_y & ~same_b
    k = pairs.sum()
    means, stds = [], []
    for mask in (mask & pairs for mask in masks):
        values = s * mask
        means.append(values.sum() / mask.sum().clamp(min=1))
        off = (values - values.sum() / k.clamp(min=1)) * pairs
        var = off.square().sum() / (k - 1).clamp(min=1)
        positive = var > 0  # the slope of a root at 0 is not a number
        stds.append(torch.where(positive, torch.where(positive, var, 1.0).sqrt(), 0.0))
    pa, pc, na, nc = means
    pos = (pc - pa) ** 2 + kappa * (stds[0] - stds[1]) ** 2 - pc
    neg = (na - nc) ** 2 + kappa * (stds[2] - stds[3]) ** 2 + na
    return pos, neg


def _of_values(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, zero = values.new_tensor(float(len(values))), values.sum() * 0
    mean = values.mean() if len(values) else zero
    var = values.var() if len(values) > 1 else zero
    return n, mean, var


def _outcome(
    pos: Tensor, neg: Tensor, moments: Moments, skipped: Tensor, fell_back: Tensor
) -> Fairness:
    plain = Moments(*(field.detach() for field in moments))
    return Fairness(pos + neg, pos, neg, plain, skipped, fell_back)


def _check(
    variant: Variant, var_floor: float, kappa: float, per_anchor: bool, empty: Empty
) -> None:
    variants, ways = get_args(Variant), get_args(Empty)
    if variant not in variants:
        raise ConfigError(f"there is no variant '{variant}'; there are {', '.join(variants)}")
    if empty not in ways:
        raise ConfigError(f"empty must be one of {', '.join(ways)}; got '{empty}'")
    if per_anchor and variant != "means":
        raise ConfigError(
            f"per_anchor is for the variant 'means'; '{variant}' needs two pairs of each of the"
            " four sets for every anchor, which few batches have"
        )
    if not var_floor >= 0:
        raise ConfigError(f"var_floor must be at least 0; got {var_floor}")
    if not kappa >= 0:
        raise ConfigError(f"kappa must be at least 0; got {kappa}")


__all__ = [
    "SETS", "Empty", "Fairness", "Moments", "Variant", "exact_moments", "fairkl", "fairkl_of_lists",
    "from_moments", "pair_weights", "similarities", "weighted_moments",
]  # fmt: skip
