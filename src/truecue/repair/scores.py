"""What a model does on a part of the images, before a repair and after it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from truecue.data.sets import ImageSet
from truecue.engine.evaluate import count
from truecue.metrics.intervals import Estimate, mean_of_cells, wilson
from truecue.metrics.ranking import Ranking, end_hits, spurious_gap
from truecue.metrics.summary import summarise

BINS = 10
"""Points of the curve of accuracy by spuriosity rank."""
GROUPS = ("worst_group", "conflicting", "aligned")
"""What is measured with bias labels, where there are any."""
_Z = 1.959964  # of a normal interval of 95 %


class Part(NamedTuple):
    """Images that models are measured on."""

    phi: Tensor
    """float32 [n, f], features of the model that is repaired."""
    images: ImageSet
    """For labels, and bias labels where there are any; pixels are not looked at."""
    ranking: Ranking
    """By spuriosity, of the classes that are repaired."""
    bias: str | None
    """The attribute that groups are made of, where the images have it."""
    aligned: Tensor | None
    """bool [classes, values], see `Splits`."""

    @property
    def y(self) -> Tensor:
        """int64 [n], labels."""
        return self.images.y


@torch.no_grad()
def right(head: nn.Module, part: Part) -> Tensor:
    """Whether each image is predicted right: bool [n]."""
    hit: Tensor = head(part.phi).argmax(1) == part.y
    return hit


@torch.no_grad()
def score(head: nn.Module, part: Part, ends: int | None, seed: int) -> dict[str, Any]:
    """Accuracy, accuracy of both ends, gap, curve and, with bias labels, groups, as plain values.

    Args:
        head: from features to logits.
        part: images.
        ends: images in each end; None: a fifth of each class.
        seed: of the gap's bootstrap.
    """
    pred = head(part.phi).argmax(1)
    hit = pred == part.y
    at = end_hits(hit, part.ranking, ends)
    gap = spurious_gap(hit, part.ranking, ends, seed=seed).macro
    found: dict[str, Any] = {
        "accuracy": wilson(int(hit.sum()), len(hit)).to_dict(),
        "low": mean_of_cells(at.low, at.k).to_dict(),
        "high": mean_of_cells(at.high, at.k).to_dict(),
        "gap": gap.to_dict(),
        "untouched": _untouched(hit, part).to_dict(),
        "curve": _plain(curve(hit, part.ranking)),
        "groups": None,
    }
    if part.bias is not None and part.aligned is not None:
        counts = count(pred, part.images, part.bias)
        groups = summarise(counts, part.aligned)
        found["groups"] = {name: groups[name].to_dict() for name in GROUPS}
    return found


def curve(hit: Tensor, ranking: Ranking, bins: int = BINS) -> Tensor:
    """Accuracy by place in the class's ranking, the mean over classes.

    Args:
        hit: bool [n], whether each image is predicted right.
        ranking: of the images.
        bins: parts that each class's ranking is cut into.

    Returns:
        float64 [bins], from the least spurious images to the most; nan where no class has an image.

    Source: Moayeri et al. 2023, section 5, with parts in place of single ranks.
    """
    counts = ranking.starts.diff()
    of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    place = torch.arange(len(ranking.order)) - ranking.starts[of]
    cell = of * bins + place * bins // counts[of].clamp(min=1)
    n = torch.bincount(cell, minlength=len(counts) * bins).double()
    hits = torch.bincount(cell[hit[ranking.order]], minlength=len(counts) * bins).double()
    return (hits / n).view(-1, bins).nanmean(0)


def change(before: Tensor, after: Tensor, part: Part, ends: int | None) -> dict[str, Any]:
    """How accuracy and gap changed on the same images, with intervals.

    The intervals are normal ones of the mean difference by image: what both models do on an image
    goes together, so that they are narrower than the models' own intervals suggest.

    Args:
        before: bool [n], whether each image was predicted right.
        after: bool [n], whether it is now.
        part: the images.
        ends: images in each end; None: a fifth of each class.
    """
    moved = after.double() - before.double()
    half = _Z * float(moved.std(correction=0)) / math.sqrt(max(1, len(moved)))
    value = float(moved.mean())
    accuracy = Estimate(value, value - half, value + half, len(moved))
    up, down = (end_hits(v, part.ranking, ends) for v in (after & ~before, before & ~after))
    k, c = up.k.double(), len(up.k)
    if not c:
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return {"accuracy": accuracy.to_dict(), "gap": nothing.to_dict()}
    means, variance = [], torch.zeros(c, dtype=torch.float64)
    for gained, lost in ((up.high, down.high), (up.low, down.low)):
        mean = (gained - lost) / k
        means.append(mean)
        variance += ((gained + lost) / k - mean.square()) / k
    value = float((means[0] - means[1]).mean())
    half = _Z * float(variance.clamp(min=0).sum().sqrt()) / c
    gap = Estimate(value, value - half, value + half, c)
    return {"accuracy": accuracy.to_dict(), "gap": gap.to_dict()}


def _untouched(hit: Tensor, part: Part) -> Estimate:
    """Mean accuracy of the classes that are not repaired."""
    classes = len(part.images.classes)
    total = torch.bincount(part.y, minlength=classes)
    hits = torch.bincount(part.y[hit], minlength=classes)
    others = part.ranking.starts.diff() == 0
    return mean_of_cells(hits[others], total[others])


def _plain(values: Tensor) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values.tolist()]
