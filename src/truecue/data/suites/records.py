"""What data sets that hold their images themselves have in common: images with columns of text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

from truecue.config import suggest
from truecue.data.suites.listing import FRACTION, SPLITS, Fault, Listing, may_mislead
from truecue.errors import DataError


class Lazy(Sequence[Path | bytes]):
    """Images that are read from where they lie when they are asked for."""

    def __init__(self, n: int, read: Callable[[int], Path | bytes]):
        self._n, self._read = n, read

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, place: int) -> Path | bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[Path | bytes]: ...
    def __getitem__(self, place: int | slice) -> Path | bytes | list[Path | bytes]:
        if isinstance(place, slice):
            return [self._read(i) for i in range(*place.indices(self._n))]
        if not -self._n <= place < self._n:
            raise IndexError(place)
        return self._read(place % self._n)


class Records(NamedTuple):
    """Images of a data set, one entry of every list for each."""

    name: str
    """Of the data set, for messages."""
    read: Callable[[int], Path | bytes]
    """The file or the bytes of the image with a position."""
    missing: Sequence[str]
    """Why there is no image; empty where there is one."""
    names: Sequence[str]
    where: Sequence[str]
    columns: dict[str, list[str | None]]
    """Everything else, as text; None where it is not known."""
    key: str
    """Changes when the data set does."""
    notes: tuple[str, ...] = ()


def list_records(
    records: Records,
    *,
    label: str,
    split: str,
    attributes: tuple[str, ...] | None,
    bias: str | None,
) -> Listing:
    """Images of a data set with their labels, splits and attributes.

    Args:
        records: what there is.
        label: name of the column with the classes.
        split: name of the column with train, val or test; if it is "split" it may be absent.
        attributes: names of columns; None takes every other column with few values.
        bias: an attribute that is wanted in any case.

    Raises:
        DataError: a column is absent, or there are no images.
    """
    columns = records.columns
    wanted = [label, *(attributes or ()), *([bias] if bias else [])]
    for name in wanted if split == "split" else [*wanted, split]:
        if name not in columns:
            raise DataError(
                f"{records.name} has no column '{name}'{suggest(name, list(columns))}"
                f" (columns: {', '.join(columns) or 'none'})"
            )
    if not len(records.names):
        raise DataError(f"{records.name} has no images")
    if attributes is None:
        others = (name for name in columns if name not in {label, split})
        chosen = [name for name in others if may_mislead(columns[name], columns[label])]
    else:
        chosen = list(attributes)
    if bias and bias not in chosen:
        chosen.append(bias)

    found = Listing(notes=records.notes)
    parts = columns.get(split)
    kept = []
    for i, where in enumerate(records.where):
        part = parts[i] if parts is not None else None
        if records.missing[i]:
            reason = records.missing[i]
        elif columns[label][i] is None:
            reason = f"it has no label ('{label}' is empty)"
        elif FRACTION.fullmatch(str(columns[label][i])):
            reason = f"label {columns[label][i]} is not a class: give names or whole numbers"
        elif parts is not None and (part is None or part.lower() not in SPLITS):
            reason = f"'{split}' is '{part or ''}', and must be one of {', '.join(SPLITS)}"
        else:
            kept.append(i)
            found.splits.append(None if part is None else SPLITS[part.lower()])
            continue
        found.faults.append(Fault(where, reason))
    # which images are left out depends on the settings
    found.key = f"{records.key} {hashlib.sha256(repr(kept).encode()).hexdigest()}"
    found.files = Lazy(len(kept), lambda i: records.read(kept[i]))
    found.names = [records.names[i] for i in kept]
    found.where = [records.where[i] for i in kept]
    found.labels = [str(columns[label][i]) for i in kept]
    found.attributes = {name: [columns[name][i] for i in kept] for name in chosen}
    return found
