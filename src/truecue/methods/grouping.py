"""The group of every image: its class together with its bias value, or its class alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from truecue.data.sets import ImageSet
from truecue.errors import SupervisionError
from truecue.seeds import derive

By = Literal["group", "class"]


class Groups(NamedTuple):
    """The groups that occur, numbered by class and then by bias value."""

    of: Tensor
    """int64 [n], the number of each image's group."""
    counts: Tensor
    """int64 [groups], images in each; at least 1."""
    names: tuple[str, ...]
    """What to call each group."""
    cells: Tensor
    """int64 [classes, values], the number of each combination; -1 where there is no image."""


def grouped(data: ImageSet, bias: str | None, by: By = "group") -> Groups:
    """Divide images into groups.

    Args:
        data: the images; with the attribute `bias` where groups are wanted.
        bias: name of the attribute.
        by: "group" for class and bias value, "class" for the class alone.

    Raises:
        SupervisionError: an image's bias value is not known.
    """
    known: tuple[str, ...]
    if by == "class":
        values, known = torch.zeros_like(data.y), ("",)
    else:
        if bias is None or bias not in data.attributes:
            raise SupervisionError("groups need bias labels, and these images have none")
        values, known = data.attributes[bias]
        absent = int((values < 0).sum())
        if absent:
            raise SupervisionError(
                f"the '{bias}' of {absent:,} of {len(data):,} images is not known, so they belong"
                " to no group; leave them out, or use a method that needs class labels only"
            )
    cell = data.y * len(known) + values
    present, of, counts = cell.unique(return_inverse=True, return_counts=True)
    cells = torch.full((len(data.classes) * len(known),), -1)
    cells[present] = torch.arange(len(present))
    names = tuple(
        f"{data.classes[c // len(known)]} with {bias} {known[c % len(known)]}"
        if by == "group"
        else data.classes[c]
        for c in present.tolist()
    )
    return Groups(of, counts, names, cells.view(len(data.classes), len(known)))


def balanced_subset(groups: Groups, *key: int | str) -> Tensor:
    """As many randomly chosen images of every group as the smallest group has.

    Args:
        groups: of the images.
        *key: what the choice depends on, for `derive`.

    Returns:
        int64 [groups * smallest], positions in ascending order.
    """
    rng = torch.Generator().manual_seed(derive(*key))
    order = torch.randperm(len(groups.of), generator=rng)
    least = int(groups.counts.min())
    kept = [order[groups.of[order] == g][:least] for g in range(len(groups.counts))]
    return torch.cat(kept).sort().values
