"""Everything that is asked about: properties, regions, and what is given as numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from truecue.audit.cue_table import Kind
from truecue.audit.properties import PROPERTIES, changed, measured
from truecue.audit.regions import USUAL, Box, all_regions, exchanged, looked_at
from truecue.config import suggest
from truecue.data.sets import ImageSet
from truecue.errors import DataError

_MAY_BE_CONTENT = frozenset(("extent",))  # an object's size may well belong to its class
_ROWS = 512  # images read at a time
_LEARNED = (
    "scores and features are judged in images as they are, and are candidates whatever their"
    " numbers until a person has looked at them: what was trained on the labels tells them for that"
    " reason alone, and images that are hard for one network are hard for another"
)


class CueColumn(NamedTuple):
    """A candidate that is given as numbers: file data, a method's bias score, a feature."""

    train: Tensor
    """float [n] or [n, d], for each training image; nan where it is not known."""
    test: Tensor
    """The same for each held-out image."""
    kind: Literal["metadata", "score", "feature"] = "score"
    about: str = ""
    """What it is, in words."""


Columns = Callable[[Tensor, Tensor], Mapping[str, CueColumn]]
"""From the positions of the training and of the held-out images that are measured, int64 [m] each,
to columns of these alone: for what is too much, or takes too long, for all images."""


class Candidate(NamedTuple):
    """One cue, measured in all images."""

    name: str
    kind: Kind
    about: str
    train: Tensor
    """float [n, d], of the training images that are measured."""
    test: Tensor
    alarming: bool
    """Whether it cannot belong to a class, by what it is or by the user's word."""
    exchange: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    """From held-out images, training images and their positions among the measured ones to held-out
    images with the cue of the training images."""


class Measured(NamedTuple):
    """The images that are measured, of the classes that have enough of them."""

    train: ImageSet
    test: ImageSet
    hits: Tensor
    """float32 [n], whether the model is right about each held-out image."""
    margin: Tensor
    """float32 [n], log-odds of its own class."""
    train_ids: Tensor
    """int64 [n], where they are among all training images."""
    test_ids: Tensor
    """The same of held-out images."""
    sizes: tuple[int, int]
    """How many training and held-out images there are in all."""
    notes: tuple[str, ...]
    """What a reader must know about which images were measured."""


def candidates(
    data: Measured,
    nuisance: Mapping[str, Box | Tensor],
    columns: Mapping[str, CueColumn] | Columns,
    core: Collection[str],
) -> tuple[list[Candidate], tuple[str, ...]]:
    """All candidates, and notes on what cannot be measured here.

    Raises:
        DataError: a region or a column does not fit or has the name of another cue, or there is no
            property or region of a name in `core`.
    """
    channels, height, width = data.train.shape
    properties = {k: p for k, p in PROPERTIES.items() if channels == 3 or not p.coloured}
    regions = named_regions(nuisance, core, height, width)
    first, second = (_measure(part, properties, regions) for part in (data.train, data.test))
    found = []
    for name, prop in properties.items():
        free = name not in core and name not in _MAY_BE_CONTENT
        found.append(Candidate(
            name, "property", prop.about, first[name], second[name], free,
            _giving(name, first[name]),
        ))  # fmt: skip
    for name, mask in regions.items():
        kind: Kind = "nuisance" if name in nuisance else "region"
        about = "declared not to matter" if name in nuisance else USUAL[name]
        found.append(Candidate(
            name, kind, about, first[name], second[name], name not in core, _swapping(mask)
        ))  # fmt: skip
    rows, sizes = (data.train_ids, data.test_ids), data.sizes
    if callable(columns):
        sizes = len(data.train_ids), len(data.test_ids)
        columns, rows = columns(*rows), (torch.arange(sizes[0]), torch.arange(sizes[1]))
    for name, column in columns.items():
        if name in first:
            raise DataError(f"there is already a cue '{name}'; call yours something else")
        train = _picked(name, "training", column.train, sizes[0], rows[0])
        test = _picked(name, "held-out", column.test, sizes[1], rows[1])
        if train.shape[1] != test.shape[1]:
            raise DataError(
                f"column '{name}' has {train.shape[1]} numbers for each training image and"
                f" {test.shape[1]} held out"
            )
        alarming = column.kind == "metadata"
        found.append(Candidate(name, column.kind, column.about, train, test, alarming, None))
    notes = []
    if channels != 3:
        notes.append("colours: not available, the images have not three channels")
    if not any(column.kind == "metadata" for column in columns.values()):
        notes.append("file data (format, size, compression): not available, none was given")
    if any(column.kind != "metadata" for column in columns.values()):
        notes.append(_LEARNED)
    return found, tuple(notes)


def named_regions(
    nuisance: Mapping[str, Box | Tensor], core: Collection[str], height: int, width: int
) -> dict[str, Tensor]:
    """The masks of all regions, bool [height, width]; nothing but names and boxes is looked at.

    Raises:
        DataError: a region does not fit or has the name of another cue, or there is no property or
            region of a name in `core`.
    """
    for name in nuisance:
        if name in PROPERTIES:
            raise DataError(
                f"there is already a property '{name}'; call your region something else"
            )
    regions = all_regions(nuisance, height, width)
    for name in core:
        if name not in PROPERTIES and name not in regions:
            known = [*PROPERTIES, *regions]
            raise DataError(
                f"there is no property or region '{name}'{suggest(name, known)}"
                f" (there are: {', '.join(known)})"
            )
    return regions


def _measure(
    part: ImageSet, properties: Collection[str], regions: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Everything of all images: float32 [n, d] by name; images are read once, piece by piece."""
    found: dict[str, list[Tensor]] = {name: [] for name in (*properties, *regions)}
    for start in range(0, len(part), _ROWS):
        images = part.images[start : start + _ROWS]
        seen = {name: measured(name, images) for name in properties} | looked_at(images, regions)
        for name, values in seen.items():
            found[name].append(values)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _swapping(mask: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, other, _: exchanged(x, mask, other)


def _giving(name: str, values: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, _, donors: changed(name, x, values[donors])


def _picked(name: str, which: str, values: Tensor, n: int, ids: Tensor) -> Tensor:
    """The rows of a column that are measured: float32 [m, d]."""
    if values.dim() not in {1, 2} or len(values) != n:
        raise DataError(
            f"column '{name}' must have one row for each of the {n:,} {which} images; got"
            f" {list(values.shape)}"
        )
    values = values[ids].float()
    if bool(values.isinf().any()):
        raise DataError(f"column '{name}' is infinite somewhere; use nan for what is not known")
    return values.unsqueeze(1) if values.dim() == 1 else values
