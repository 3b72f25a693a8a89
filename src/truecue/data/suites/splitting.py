"""Random but reproducible partitions of positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from truecue.seeds import derive

Ids = npt.NDArray[np.int64]


def stratified(y: Ids, share: float, *seed: int | str) -> tuple[Ids, Ids]:
    """Split positions in two, class by class.

    Args:
        y: int64 [n], labels.
        share: of each class that goes to the second part, in [0, 1). Where it is positive, every
            class with two or more images has at least one in each part.
        *seed: what the draw is for, as in `derive`.

    Returns:
        Two sorted, disjoint lists of positions, int64, that together are 0..n-1.
    """
    draw = np.random.default_rng(derive(*seed))
    second = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        places = draw.permutation(np.flatnonzero(y == label))
        wanted = round(share * len(places))
        if share > 0:
            wanted = min(max(wanted, 1), len(places) - 1)
        second[places[:wanted]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)


def drawn(n: int, share: float, *seed: int | str) -> tuple[Ids, Ids]:
    """Split 0..n-1 in two at random: sorted positions of the rest and of the drawn share."""
    order = np.random.default_rng(derive(*seed)).permutation(n)
    wanted = round(share * n)
    return np.sort(order[wanted:]), np.sort(order[:wanted])
