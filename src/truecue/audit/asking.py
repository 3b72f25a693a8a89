"""The two questions: does a cue tell the class, and do a model's answers go by it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.audit.candidates import Candidate, Measured
from truecue.audit.cue_table import How
from truecue.audit.telling import Teller
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.evaluate import apply
from truecue.metrics.evidence import label_shuffles, rank_shuffles, sign_flips
from truecue.metrics.intervals import Estimate, mean_of_cells
from truecue.seeds import derive

_JUDGED = 2_500  # training images on which a cue's classifier is judged


def halves(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Positions for fitting and for judging: half of each class (at least one) and the others."""
    rng = torch.Generator().manual_seed(derive(seed, "cues", "halves"))
    order = torch.randperm(len(y), generator=rng)
    order = order[y[order].argsort(stable=True)]
    place = torch.arange(len(y))
    fit, judge = order[place % 2 == 0], order[place % 2 == 1]
    keep = torch.randperm(len(judge), generator=rng)[:_JUDGED]
    return fit, judge[keep]


class Told(NamedTuple):
    """How well a cue alone tells the class."""

    accuracy: Estimate
    """Mean over classes."""
    p: float
    by_class: tuple[float, ...]


def tell(
    seen: Sequence[tuple[Teller, Tensor]], y: Tensor, k: int, draws: int, seed: int
) -> list[Told]:
    """How well each cue alone tells the class.

    Args:
        seen: classifiers that were fitted to other images, each with what it sees, float [n, d].
        y: int64 [n].
        k: number of classes.
        draws: shuffles of the labels.
        seed: of the shuffles.
    """
    scores = torch.stack([teller.scores(x) for teller, x in seen])
    p = label_shuffles(scores, y, draws=draws, seed=derive(seed, "cues", "labels")).tolist()
    total = torch.bincount(y, minlength=k)
    out = []
    for i, guess in enumerate(scores.masked_fill(total == 0, -math.inf).argmax(2)):
        hits = torch.bincount(y[guess == y], minlength=k)
        shares = (hits / total.clamp(min=1)).tolist()
        out.append(Told(mean_of_cells(hits, total), p[i], tuple(shares)))
    return out


class Used(NamedTuple):
    """How far a model goes by a cue."""

    gap: Estimate
    """Accuracy that hangs on it, mean over classes."""
    p: float
    by_class: tuple[float, ...]
    how: How


class Pairs(NamedTuple):
    """Held-out images and the training images that give their cues."""

    ids: Tensor
    own: Tensor
    other: Tensor


def draw_pairs(data: Measured, images: int, seed: int) -> Pairs:
    """Equally many images of each class, as far as there are; other classes equally often."""
    rng = torch.Generator().manual_seed(derive(seed, "cues", "pairs"))
    present = data.test.y.unique()
    each = max(1, images // len(present))
    members = {int(c): (data.train.y == c).nonzero().squeeze(1) for c in present}
    ids, own, other = [], [], []
    for c in present.tolist():
        mine = (data.test.y == c).nonzero().squeeze(1)
        mine = mine[torch.randperm(len(mine), generator=rng)[:each]]
        rest = present[present != c]
        turns = torch.randperm(len(rest), generator=rng)
        which = rest[turns[torch.arange(len(mine)) % len(rest)]]
        ids.append(mine)
        own.append(_drawn(members[c], len(mine), rng))
        chosen = torch.empty_like(mine)
        for j in which.unique().tolist():
            at = which == j
            chosen[at] = _drawn(members[j], int(at.sum()), rng)
        other.append(chosen)
    return Pairs(torch.cat(ids), torch.cat(own), torch.cat(other))


def _drawn(of: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Draw n of some positions, each as often as any other (give or take one)."""
    rounds = -(-n // len(of))
    order = [of[torch.randperm(len(of), generator=rng)] for _ in range(rounds)]
    return torch.cat([*order, of[:0]])[:n]


def exchange(
    cues: Mapping[int, Candidate], data: Measured, model: Callable[[Tensor], Tensor],
    pairs: Pairs, draws: int, seed: int, device: Device,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Used]:  # fmt: skip
    """How the accuracy changes when cues are exchanged for those of other classes.

    Args:
        cues: that can be exchanged.
        data: where the images are from.
        model: from uint8 images to logits.
        pairs: which image gets the cues of which.
        draws: of signs.
        seed: of the signs.
        device: where the model computes.
        progress: called with (cues done, cues in all) after each.
    """
    chosen = data.test.select(pairs.ids)
    x = chosen.images[:]
    givers = [(ids, data.train.images[ids]) for ids in (pairs.own, pairs.other)]
    total = torch.bincount(chosen.y, minlength=len(chosen.classes))
    share = 1 / (total[chosen.y] * int((total > 0).sum()))
    differences = []
    for cue in cues.values():
        assert cue.exchange is not None
        right = []
        for ids, donors in givers:
            shown = ImageSet(cue.exchange(x, donors, ids), chosen.y, chosen.classes)
            right.append((apply(model, shown, device).argmax(1) == chosen.y).float())
        differences.append(right[0] - right[1])
        if progress is not None:
            progress(len(differences), len(cues))
    d = torch.stack(differences, 1)
    p = sign_flips(d, share, draws=draws, seed=derive(seed, "cues", "signs")).tolist()
    found = {}
    for at, i in enumerate(cues):
        means, errors = _by_class(d[:, at], chosen.y, total)
        found[i] = Used(_normal(means, errors, len(x)), p[at], tuple(means.tolist()), "exchanged")
    return found


def _by_class(values: Tensor, y: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and squared standard error in every class, float64; nan where there is no image."""
    k, values = len(total), values.double()
    sums = torch.zeros(k, dtype=torch.float64).index_add_(0, y, values)
    squares = torch.zeros(k, dtype=torch.float64).index_add_(0, y, values.square())
    means = sums / total
    return means, (squares / total - means.square()).clamp(min=0) / (total - 1).clamp(min=1)


def _normal(means: Tensor, errors: Tensor, n: int) -> Estimate:
    """The mean over classes with its normal 95 % interval."""
    known = ~means.isnan()
    mean = float(means[known].mean())
    half = 1.96 * float(errors[known].sum().sqrt()) / int(known.sum())
    return Estimate(mean, mean - half, mean + half, n)


def as_found(
    strengths: Mapping[int, Tensor], data: Measured, draws: int, seed: int
) -> dict[int, Used]:
    """Whether images of a class do better where the cue speaks for it.

    The effect is the accuracy of the upper third, by strength, minus that of the lower third.
    """
    y, k = data.test.y, len(data.test.classes)
    x = torch.stack(list(strengths.values()), 1)
    seed = derive(seed, "cues", "within")
    p = rank_shuffles(x, data.margin, y, draws=draws, seed=seed).tolist()
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(len(y), generator=rng)  # so that ties do not follow the order of files
    found = {}
    for at, i in enumerate(strengths):
        means = torch.full((k,), math.nan, dtype=torch.float64)
        errors = means.clone()
        for c in y.unique().tolist():
            mine = mixed[y[mixed] == c]
            mine = mine[x[mine, at].argsort(stable=True)]
            third = max(1, len(mine) // 3)
            low, high = data.hits[mine[:third]].double(), data.hits[mine[-third:]].double()
            means[c] = high.mean() - low.mean()
            errors[c] = (low.var(correction=0) + high.var(correction=0)) / max(1, third - 1)
        found[i] = Used(_normal(means, errors, len(y)), p[at], tuple(means.tolist()), "as found")
    return found
