"""Random but reproducible partitions of positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from truecue.errors import DataError
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


def biased(
    y: Ids,
    values: Ids,
    aligned: npt.NDArray[np.bool_],
    conflicting: float,
    *,
    test_share: float,
    val_share: float,
    balanced: bool = True,
    seed: tuple[int | str, ...],
) -> dict[str, Ids]:
    """Draw training, validation and test images so that label and attribute go together as wanted.

    The test images are as many in each cell (class and attribute value): a share of the smallest
    cell. Of the rest, each class gets as many images as the wanted share of conflicting ones
    allows, the same number in every class where `balanced`; conflicting images are divided evenly
    among the class's conflicting cells. A part of them becomes the validation images, with the
    same share of conflicting ones.

    Args:
        y: int64 [n], labels.
        values: int64 [n], attribute values.
        aligned: bool [classes, values], one aligned cell in each row.
        conflicting: share of each class's training and validation images, in [0, 1].
        test_share: of the smallest cell, in (0, 1).
        val_share: of the images not used for testing, in [0, 1).
        balanced: whether all classes get the same number of images.
        seed: what the draw is for, as in `derive`.

    Returns:
        Sorted, disjoint positions, int64: train, val (which may be empty) and test.

    Raises:
        DataError: a cell holds too few images for this.
    """
    cell = y * aligned.shape[1] + values
    counts = np.bincount(cell, minlength=aligned.size).reshape(aligned.shape)
    test = round(test_share * int(counts.min()))
    wanted = [_most(row, own, conflicting) for row, own in zip(counts - test, aligned, strict=True)]
    if balanced:
        wanted = [min(wanted)] * len(wanted)
    if test < 1 or min(wanted) < 1:
        raise DataError(
            f"the smallest group has {int(counts.min()):,} images: too few for a test share of"
            f" {test_share} and a share of {conflicting} conflicting training images"
        )
    draw = np.random.default_rng(derive(*seed))
    parts: dict[str, list[Ids]] = {"train": [], "val": [], "test": []}
    for k, row in enumerate(aligned):
        val = round(val_share * wanted[k])
        sizes = {
            "test": np.full(len(row), test),
            "val": _sizes(row, val, conflicting),
            "train": _sizes(row, wanted[k], conflicting) - _sizes(row, val, conflicting),
        }
        for value in range(len(row)):
            places = draw.permutation(np.flatnonzero(cell == k * len(row) + value))
            start = 0
            for name, size in sizes.items():
                parts[name].append(places[start : start + size[value]])
                start += size[value]
    return {name: np.sort(np.concatenate(places)) for name, places in parts.items()}


def _sizes(aligned: npt.NDArray[np.bool_], size: int, conflicting: float) -> Ids:
    """How many of a class's images have each attribute value; int64 [values]."""
    against = round(conflicting * size)
    others = np.flatnonzero(~aligned)
    sizes = np.zeros(len(aligned), dtype=np.int64)
    sizes[others] = against // len(others)
    sizes[others[: against % len(others)]] += 1
    sizes[aligned] = size - against
    return sizes


def _most(available: Ids, aligned: npt.NDArray[np.bool_], conflicting: float) -> int:
    """The largest number of a class's images that its cells allow; int64 [values] are there."""
    low, high = 0, int(available.sum())
    while low < high:
        middle = (low + high + 1) // 2
        if (_sizes(aligned, middle, conflicting) <= available).all():
            low = middle
        else:
            high = middle - 1
    return low
