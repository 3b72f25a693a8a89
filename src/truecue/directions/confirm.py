"""Whether cues seen in generated images also matter in real ones, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truecue.data.sets import ImageSet
from truecue.directions.probe import LEVEL, Probe
from truecue.directions.traverse import render
from truecue.directions.view import ClassifierView
from truecue.engine.device import Device
from truecue.engine.evaluate import apply
from truecue.errors import DataError
from truecue.metrics.agreement import null_gap
from truecue.metrics.evidence import benjamini_hochberg
from truecue.metrics.ranking import Gap, Ranking, rank, spurious_gap
from truecue.nets.generator import Generator, as_uint8
from truecue.seeds import derive

DRIFT = 1.0
"""Deviations of generated images' scores by which the mean of real ones may differ."""
FAR = 1.5
"""A picture is off what was trained on when its nearest training image is so many times as far away
as that of a real image that was not trained on."""
_BINS, _SIDE, _MOST = 24, 16, 5000


class RealGap(NamedTuple):
    """A cue of one class on real images: those that show it most, against those that do least."""

    direction: int
    label: int
    sign: int
    """1 where the class's margin rises along the direction, -1 where it falls: scores times this
    rise with the margin."""
    gap: Gap
    q: float
    """Of `gap.p`, over all pairs of direction and class."""
    flagged: bool
    """Whether the direction moves the classifier more than random ones, see `Probe.flagged`."""
    low: list[int]
    """Positions of the images of the low end, ascending by score."""
    high: list[int]

    @property
    def differs(self) -> bool:
        """Whether the gap is positive and beats random orders."""
        return self.gap.gap.value > 0 and self.q <= LEVEL

    @property
    def confirmed(self) -> bool:
        """Whether generated images and real ones say the same: `flagged`, and `differs`."""
        return self.flagged and self.differs


class Together(NamedTuple):
    """The mean gap of all classes along a direction, beside that of random orders."""

    gap: float
    null: tuple[float, float]
    """Between these lie 95 % of the means of random orders."""


class Confirmed(NamedTuple):
    """What real images say of visible directions."""

    gaps: list[RealGap]
    """Of every visible direction and class that has two images and a margin that moves; direction
    by direction."""
    together: dict[int, Together]
    """By direction."""


def confirm(
    found: Probe, scores: Tensor, y: Tensor, right: Tensor, k: int | None = None, *,
    draws: int = 1000, seed: int = 0,
) -> Confirmed:  # fmt: skip
    """Rank the real images of each class by a direction's score, and compare the two ends.

    A score is turned so that it rises with the class's margin; a class whose margin does not move
    at all gives no ranking. A positive gap then means that real images that show more of the cue
    are classified better, which is what the generated ones say.

    Args:
        found: what the classifier does along directions.
        scores: float [n, k], a scorer's or measured ones, of images that the classifier was not
            trained on.
        y: int64 [n], their classes.
        right: bool [n], whether the classifier is right.
        k: images in each end; None: a fifth of the class.
        draws: random orders behind `Together.null`, at least 200.
        seed: of the draws.

    Raises:
        DataError: there is not one score for each direction.

    Source: the gap is that of Moayeri et al. 2023, section 4.
    """
    directions, classes = found.class_q.shape
    if scores.shape != (len(y), directions):
        raise DataError(
            f"there are {directions} directions and {len(y)} images; their scores must be"
            f" [{len(y)}, {directions}], and are {list(scores.shape)}"
        )
    flagged, signs = found.flagged.tolist(), found.moves.margin.sign()
    gaps, together = [], {}
    for d in found.moves.visible.nonzero().squeeze(1).tolist():
        sign = signs[d].where(signs[d] != 0, torch.nan)[y]  # rank() leaves nan out
        ranking = rank(scores[:, d].double() * sign, y, classes)
        by_class = spurious_gap(right, ranking, k, seed=seed).by_class
        gaps += [
            _real(d, c, int(signs[d, c]), gap, flagged[d], ranking) for c, gap in by_class.items()
        ]
        if by_class:
            drawn = null_gap(right, ranking, k, draws=draws, seed=derive(seed, "orders", d) % 2**32)
            _, low, high = drawn.band("gap")
            mean = sum(gap.gap.value for gap in by_class.values()) / len(by_class)
            together[d] = Together(mean, (float(low), float(high)))
    adjusted = benjamini_hochberg([each.gap.p for each in gaps])
    return Confirmed([g._replace(q=q) for g, q in zip(gaps, adjusted, strict=True)], together)


class Drift(NamedTuple):
    """How a scorer's numbers for real images differ from those for generated ones."""

    shift: Tensor
    """float [k], difference of the means, in deviations of the generated images' scores."""
    ratio: Tensor
    """float [k], deviation of real images' scores over that of generated ones'."""
    edges: Tensor
    """float [k, bins + 1], of the histograms."""
    real: Tensor
    """float [k, bins], share of images."""
    generated: Tensor
    """float [k, bins]."""

    @property
    def drifted(self) -> Tensor:
        """Bool [k], where means differ by a deviation or more, or deviations by a factor of 2."""
        return (self.shift.abs() >= DRIFT) | (self.ratio >= 2) | (self.ratio <= 0.5)


def drift(real: Tensor, generated: Tensor) -> Drift:
    """Compare scores float [n, k] of real images with those [m, k] of generated ones."""
    spread = generated.std(0).clamp(min=1e-12)
    shift, ratio = (real.mean(0) - generated.mean(0)) / spread, real.std(0) / spread
    both = torch.cat([real, generated])
    low, high = both.amin(0), both.amax(0)
    high = torch.where(high > low, high, low + 1)
    edges = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, _BINS + 1)

    def shares(values: Tensor) -> Tensor:
        place = ((values - low) / (high - low) * _BINS).long().clamp(0, _BINS - 1)
        counts = torch.zeros(values.shape[1], _BINS)
        return counts.scatter_add_(1, place.T, torch.ones_like(values.T).float()) / len(values)

    return Drift(shift, ratio, edges, shares(real), shares(generated))


def nearest(
    found: Probe, generator: Generator, rows: Tensor, see: ClassifierView, train: ImageSet,
    held_out: ImageSet, device: Device, *, n: int = 16, seed: int = 0,
) -> Tensor:  # fmt: skip
    """How far pictures are from the nearest training image, at every step of each direction.

    Distances are between images averaged down to 16 x 16 pixels at most. They are divided by the
    same distance of real images that were not trained on, so that 1 is what a fresh real image has.

    Args:
        found: gives codes and steps.
        generator: of the directions.
        rows: float [k, d], the directions, of length 1.
        see: brings pictures to the classifier's size and channels.
        train: images that the classifier was trained on; of more than 5,000 so many are drawn.
        held_out: others of the same kind; of more than 1,000 so many are drawn.
        device: where real images are averaged.
        n: codes.
        seed: of the drawing.

    Returns:
        float [k, m], medians over codes.
    """
    steps, codes = torch.tensor(found.steps), found.codes[:n]
    known = _small(_some(train, _MOST, seed), device)
    usual = _apart(_small(_some(held_out, 1000, seed), device), known).median()
    made = []
    for row in rows:
        shifts = (steps[:, None] * row).repeat(len(codes), 1)
        images = render(generator, codes.repeat_interleave(len(steps), 0), shifts)
        apart = _apart(_reduced(see.adapt(as_uint8(images))), known)
        made.append(apart.unflatten(0, (len(codes), len(steps))).median(0).values)
    return torch.stack(made) / usual.clamp(min=1e-12)


def to_dict(found: Confirmed, names: Sequence[str], classes: Sequence[str]) -> list[dict[str, Any]]:
    """For JSON: each pair of direction and class."""
    return [
        {
            "direction": names[g.direction],
            "class": classes[g.label],
            "sign": g.sign,
            "low": g.gap.low.to_dict(),
            "high": g.gap.high.to_dict(),
            "gap": g.gap.gap.to_dict(),
            "p": g.gap.p,
            "q": g.q,
            "null": list(g.gap.null),
            "flagged": g.flagged,
            "differs": g.differs,
            "confirmed": g.confirmed,
        }
        for g in found.gaps
    ]


def _real(d: int, c: int, sign: int, gap: Gap, flagged: bool, ranking: Ranking) -> RealGap:
    ids = ranking.of(c).tolist()
    size = gap.low.n
    return RealGap(d, c, sign, gap, 1.0, flagged, ids[:size], ids[len(ids) - size :])


def _some(images: ImageSet, most: int, seed: int) -> ImageSet:
    if len(images) <= most:
        return images
    rng = torch.Generator().manual_seed(derive(seed, "some"))
    return images.select(torch.randperm(len(images), generator=rng)[:most].sort().values)


def _small(images: ImageSet, device: Device) -> Tensor:
    return apply(_reduced, images, device)


def _reduced(x: Tensor) -> Tensor:
    """Images uint8 [b, c, h, w], averaged down, flat, in [0, 1]."""
    floats = x.float() / 255
    side = min(_SIDE, *x.shape[2:])
    return torch.nn.functional.adaptive_avg_pool2d(floats, side).flatten(1)


def _apart(images: Tensor, known: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, known).amin(1) for part in images.split(500)])
