"""What a classifier does while images move along one direction, beside random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.directions.directions import Directions, check_fit, unit
from truecue.directions.traverse import HALF_GREY, render, symmetric
from truecue.errors import ConfigError, DataError
from truecue.metrics.evidence import benjamini_hochberg
from truecue.nets.generator import Generator, as_uint8
from truecue.seeds import derive

LEAST_NULL = 100
"""Random directions that are needed at least."""
LEVEL = 0.05
"""False-discovery rate up to which a direction counts as one that moves the classifier."""

See = Callable[[Tensor], Tensor]
"""From a generator's images, uint8 [b, c, h, w], to a classifier's logits, float [b, classes]."""


class Moves(NamedTuple):
    """How logits of c classes follow m steps along each of k directions, over n codes."""

    slope: Tensor
    """float64 [k, c], least-squares slope of a class's logit per unit of step; mean over codes."""
    slope_se: Tensor
    """float64 [k, c], its standard error over codes."""
    margin: Tensor
    """float64 [k, c], the same of the logit minus the largest of the other classes."""
    margin_se: Tensor
    """float64 [k, c]."""
    monotone: Tensor
    """float64 [k, c], Spearman's correlation of logit and step; mean over codes, 0 where a logit
    stays the same."""
    flips: Tensor
    """float64 [k], share of codes whose predicted class differs between the two ends."""
    travel: Tensor
    """float64 [k], length of the way that logits go from step to step, over that of the image's
    way, both summed over codes; see `probe_classifier`. nan for a direction without visible
    effect."""
    change: Tensor
    """float64 [k], root of the mean squared change of a pixel of images in [0, 1] between the two
    ends; mean over codes. As `Effects.change`."""
    visible: Tensor
    """bool [k], as `Effects.visible`."""
    mean: Tensor
    """float64 [k, m, c], logits at every step; mean over codes."""
    spread: Tensor
    """float64 [k, m, c], their standard deviation over codes."""


class Probe(NamedTuple):
    """What a classifier does along directions, and how that compares with random ones."""

    moves: Moves
    null: Moves
    """Of random unit directions."""
    steps: list[float]
    p: Tensor
    """float64 [k], share of random directions along which the classifier travels as far for the
    same way of the image, this one counted in; nan for a direction without visible effect."""
    q: Tensor
    """float64 [k], Benjamini and Hochberg's, over all directions."""
    per_change: Tensor
    """float64 [k, c], change of the margin over all steps, divided by the image's change; nan as
    `p`."""
    null_per_change: Tensor
    """float64 [r, c], of the random directions that have a visible effect."""
    class_p: Tensor
    """float64 [k, c], see `chance`; nan where `per_change` is."""
    class_q: Tensor
    """float64 [k, c], Benjamini and Hochberg's, over all directions and classes."""
    codes: Tensor
    """float [n, d], where movements begin."""

    @property
    def flagged(self) -> Tensor:
        """Bool [k], the directions that move the classifier more than random ones do."""
        return self.q <= LEVEL

    @property
    def one_way(self) -> Tensor:
        """Bool [k, c], the classes whose margin rises or falls more than along random ones."""
        return self.class_q <= LEVEL

    @property
    def band(self) -> Tensor:
        """float64 [2, c]: between these lie 95 % of random directions."""
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        return torch.quantile(torch.cat([self.null_per_change, -self.null_per_change]), ends, dim=0)


@torch.no_grad()
def probe_classifier(
    generator: Generator, directions: Directions, see: See, *, reach: float = 3.0, n: int = 64,
    columns: int = 11, null: int = 400, seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:  # fmt: skip
    """Move images along each direction, one at a time, and watch a classifier's logits.

    Directions are used with length 1, so that a step means the same for all. A direction is tested
    by how far the logits travel: the lengths of their moves from step to step (the mean over
    classes removed, since it does not matter), summed over steps and codes, divided by the same sum
    for the image (root of the mean squared change of a pixel). Without the division, directions
    that change much would win. A sum of lengths, unlike a slope, sees cues that turn around on the
    way, and pushes that differ between codes. The same is done with random unit directions.

    Beside it, the slope of each class's margin, divided by the image's change, is tested for each
    direction and class.

    Args:
        generator: on any device.
        directions: of the generator's space.
        see: the classifier, a `ClassifierView` or a function of one's own.
        reach: the longest step E, forward and back.
        n: codes that movements begin at, at least 2.
        columns: steps from -E to E, odd.
        null: random directions, at least 100. The least p-value is 1 / (null + 1): for one of k
            directions to be flagged alone it takes 20 k.
        seed: of codes and of random directions.
        progress: called with (directions done, directions in all).

    Raises:
        ConfigError: a number is too small, or the steps are not symmetric.
        DataError: directions are of another space or generator, an image or a logit is not finite,
            there are fewer than two classes, or random directions have no visible effect.

    Source: none; proposed here, with Benjamini & Hochberg 1995 for many tests at once.
    """
    check_fit(directions, generator)
    if n < 2 or null < LEAST_NULL:
        raise ConfigError(
            f"probing needs at least 2 codes and {LEAST_NULL} random directions; got {n} and {null}"
        )
    steps = symmetric(reach, columns)
    codes = generator.codes(n, seed, "probe")
    rng = torch.Generator().manual_seed(derive(seed, "probe", "null"))
    random = unit(torch.randn(null, generator.dim, generator=rng))
    rows = torch.cat([unit(directions.matrix), random])
    made = []
    for i, row in enumerate(rows):
        made.append(_follow(generator, codes, row, steps, see, seed))
        if progress is not None:
            progress(i + 1, len(rows))
    k = len(directions)
    moves, others = (
        Moves(*map(torch.stack, zip(*part, strict=True))) for part in (made[:k], made[k:])
    )
    usable = int(others.visible.sum())
    if usable < LEAST_NULL // 2:
        raise DataError(
            f"only {usable} of {null} random directions change the image visibly, too few to"
            f" compare with; make the step larger (it is {reach:g})"
        )
    p = reached(moves.travel, others.travel[others.visible])
    found, drawn = _per_change(moves, reach), _per_change(others, reach)[others.visible]
    by_class = chance(found, drawn)
    return Probe(
        moves, others, steps, p, _adjusted(p), found, drawn, by_class, _adjusted(by_class), codes
    )


def reached(found: Tensor, null: Tensor) -> Tensor:
    """One-sided p-values [k] of values [k] (nan stays nan), from those [r] of random directions.

    The least is 1 / (r + 1). For a direction that is a random one itself, a p-value of at most x
    has a chance of at most x.
    """
    ordered = null.sort().values
    below = torch.searchsorted(ordered, (found * (1 - 1e-9)).nan_to_num())
    p = (1 + len(null) - below).double() / (1 + len(null))
    return torch.where(found.isnan(), torch.nan, p)


def chance(found: Tensor, null: Tensor) -> Tensor:
    """Two-sided p-values of directions for each class, from those of random directions.

    A class's values are divided by the root mean square of its random ones, and those of all
    classes are then taken together: r random directions alone could not give p-values small enough
    to survive a correction for k x c tests. This takes the random values of different classes to
    have the same distribution but for their scale.

    Args:
        found: float [k, c]; rows of nan stay nan.
        null: float [r, c].

    Returns:
        float64 [k, c]; the least is 1 / (r c + 1). 1 for a class that nothing moves.
    """
    scale = null.square().mean(0).sqrt()
    known = scale > 0
    scale = torch.where(known, scale, 1.0)
    drawn = (null / scale)[:, known].abs().flatten()
    if not len(drawn):
        drawn = null.new_zeros(len(null))
    return reached((found / scale).abs(), drawn)


def follow(logits: Tensor, steps: Sequence[float]) -> tuple[Tensor, ...]:
    """What one direction does to logits.

    Args:
        logits: float [n, m, c], of n codes at m steps.
        steps: m numbers, ascending.

    Returns:
        `slope`, `slope_se`, `margin`, `margin_se`, `monotone` [c] and `flips`, as in `Moves`.
    """
    values = logits.double()
    e = torch.tensor(steps, dtype=torch.float64)
    weights = (e - e.mean()) / (e - e.mean()).square().sum()
    found: list[Tensor] = []
    for each in (values, margins(values)):
        slopes = torch.einsum("m,nmc->nc", weights, each)
        found += [slopes.mean(0), slopes.std(0) / len(slopes) ** 0.5]
    places = values[:, :, None] - values[:, None]
    ranks = places.sign().sum(2)  # twice the distance from the middle rank, ties shared
    order = (e[:, None] - e).sign().sum(1)
    length = ranks.norm(dim=1) * order.norm()
    agreement = torch.einsum("nmc,m->nc", ranks, order) / torch.where(length > 0, length, 1.0)
    ends = values[:, [0, -1]].argmax(2)
    return *found, agreement.mean(0), (ends[:, 0] != ends[:, 1]).double().mean()


def margins(logits: Tensor) -> Tensor:
    """Each class's logit minus the largest of the others, [..., c], for at least two classes."""
    top = logits.topk(2, dim=-1)
    best, second = top.values.unbind(-1)
    mine = F.one_hot(top.indices[..., 0], logits.shape[-1]).bool()
    return logits - torch.where(mine, second[..., None], best[..., None])


def _follow(
    generator: Generator, codes: Tensor, row: Tensor, steps: list[float], see: See, seed: int
) -> tuple[Tensor, ...]:
    n, m = len(codes), len(steps)
    shifts = (torch.tensor(steps)[:, None] * row).repeat(n, 1)
    images = render(generator, codes.repeat_interleave(m, 0), shifts, seed)
    logits = see(as_uint8(images))
    if logits.dim() != 2 or len(logits) != n * m or logits.shape[1] < 2:
        raise DataError(
            f"a classifier must give logits [{n * m}, classes] of at least two classes; this gave"
            f" {list(logits.shape)}"
        )
    if not bool(logits.isfinite().all()):
        raise DataError("the classifier gives logits that are not finite")
    logits = logits.unflatten(0, (n, m)).double()
    first, last = images.unflatten(0, (n, m))[:, [0, -1]].unbind(1)
    apart = (last - first).flatten(1)
    change = (apart / 2).square().mean(1).sqrt().mean().double()
    visible = apart.abs().amax(1).mean() >= HALF_GREY
    way = _length((images.unflatten(0, (n, m)) / 2).flatten(2)) / apart.shape[1] ** 0.5
    travel = (
        _length(logits - logits.mean(2, keepdim=True)) / way
        if visible
        else logits.new_tensor(torch.nan)
    )
    return *follow(logits, steps), travel, change, visible, logits.mean(0), logits.std(0)


def _length(ways: Tensor) -> Tensor:
    """The length of the ways [n, m, features] from step to step, summed over all n."""
    total: Tensor = ways.diff(dim=1).norm(dim=2).double().sum()
    return total


def _adjusted(p: Tensor) -> Tensor:
    q = benjamini_hochberg(p.flatten().tolist())
    return torch.tensor(q, dtype=torch.float64).view_as(p)


def _per_change(moves: Moves, reach: float) -> Tensor:
    """Change of margins over the whole movement, per change of the image."""
    change = torch.where(moves.visible, moves.change, torch.nan)
    return 2 * reach * moves.margin / change[:, None]


def table(found: Probe, names: Sequence[str], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The numbers of each direction, and of each class under it, for JSON."""
    moves, band = found.moves, found.band
    return [
        {
            "name": name,
            "change": float(moves.change[k]),
            "visible": bool(moves.visible[k]),
            "flips": float(moves.flips[k]),
            "travel": float(moves.travel[k]),
            "p": float(found.p[k]),
            "q": float(found.q[k]),
            "flagged": bool(found.flagged[k]),
            "classes": [
                {
                    "class": label,
                    "slope": float(moves.slope[k, c]),
                    "slope_se": float(moves.slope_se[k, c]),
                    "margin_slope": float(moves.margin[k, c]),
                    "margin_slope_se": float(moves.margin_se[k, c]),
                    "monotone": float(moves.monotone[k, c]),
                    "per_change": float(found.per_change[k, c]),
                    "random": [float(band[0, c]), float(band[1, c])],
                    "p": float(found.class_p[k, c]),
                    "q": float(found.class_q[k, c]),
                    "one_way": bool(found.one_way[k, c]),
                    "logits": moves.mean[k, :, c].tolist(),
                    "logits_sd": moves.spread[k, :, c].tolist(),
                }
                for c, label in enumerate(classes)
            ],
        }
        for k, name in enumerate(names)
    ]
