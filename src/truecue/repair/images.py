"""Which images a last layer is tuned on, and the halves that it is chosen and measured by."""

from __future__ import annotations

import torch
from torch import Tensor

from truecue.metrics.ranking import Ranking, rank


def lowest(ranking: Ranking, sizes: Tensor) -> Tensor:
    """The first images of each class's ranking.

    Args:
        ranking: of the images.
        sizes: int64 [classes], how many of each class.

    Returns:
        int64 [m], positions, class after class; fewer of a class that has fewer.
    """
    counts = ranking.starts.diff()
    of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    place = torch.arange(len(ranking.order)) - ranking.starts[of]
    return ranking.order[place < sizes[of]]


def drawn(y: Tensor, sizes: Tensor, seed: int, first: Tensor | None = None) -> Tensor:
    """Random images of each class.

    Args:
        y: int64 [n], labels.
        sizes: int64 [classes], how many of each class.
        seed: of the draw.
        first: bool [n], images that are taken before any others of their class.

    Returns:
        int64 [m], positions, class after class; fewer of a class that has fewer.
    """
    key = torch.rand(len(y), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if first is not None:
        key -= first.double()
    return lowest(rank(key, y, len(sizes)), sizes)


def halves(y: Tensor, scores: Tensor, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split images at random, half of each class to either side, alike in their scores.

    Neighbours in a class's ranking are paired, and chance says which of a pair goes where: the few
    images at the low end that lack the cue would otherwise often all fall into one half.

    Args:
        y: int64 [n], labels.
        scores: floating [n], spuriosity; classes of images with nan are split without regard to it.
        n_classes: number of classes.
        seed: of the split.

    Returns:
        Positions to choose by and to measure by, both ascending; of an odd class the first has one
        more.
    """
    rng = torch.Generator().manual_seed(seed)
    chance = torch.rand(len(y), generator=rng, dtype=torch.float64)
    ranking = rank(torch.where(scores.isnan(), chance, scores.double()), y, n_classes)
    counts = torch.bincount(y, minlength=n_classes)
    of = y[ranking.order]
    place = torch.arange(len(y)) - ranking.starts[of]
    coin = torch.randint(2, (len(y),), generator=rng)[ranking.starts[of] + place // 2]
    alone = place == counts[of] - 1
    first = (place % 2 == coin) | (alone & (place % 2 == 0))
    chosen = torch.zeros(len(y), dtype=torch.bool)
    chosen[ranking.order[first]] = True
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)
