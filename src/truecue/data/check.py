"""A look at images before anything is trained on them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from truecue.data.files import Progress, decode
from truecue.data.suites import open_data
from truecue.data.suites.folder import Folder, divide, unreadable
from truecue.data.suites.listing import Fault, Listing, natural
from truecue.data.suites.splitting import Ids
from truecue.errors import DataError

_LISTED = 3  # examples in a sentence; the report has all


class Copies(NamedTuple):
    """Files with the same bytes."""

    files: tuple[str, ...]
    splits: tuple[str, ...]
    """The split of each file."""
    labels: tuple[str, ...]
    """The class of each file."""


class Table(NamedTuple):
    """How often each attribute value occurs with each class."""

    split: str
    attribute: str
    classes: tuple[str, ...]
    values: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Images [classes][values]; images whose value is not known are left out."""
    cramers_v: float | None
    """0 (independent) to 1 (one tells the other); None where it is not defined."""


@dataclass(frozen=True)
class CheckReport:
    """What was found out about a folder or a table of images."""

    path: str
    images: int
    """Usable images."""
    counts: dict[str, dict[str, int]]
    """Usable images by split and class."""
    faults: tuple[Fault, ...]
    """Images that cannot be read, and rows of the table that cannot be used."""
    small: tuple[tuple[str, str, int], ...]
    """Split, class and number of images, where a class has too few."""
    copies: tuple[Copies, ...]
    """Groups of files with the same bytes."""
    tables: tuple[Table, ...]
    sizes: dict[str, tuple[int, int]]
    """Smallest, median and largest width and height (by area)."""
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    """A sentence for each thing that should be looked at; empty where all is well."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "path": self.path,
            "images": self.images,
            "counts": self.counts,
            "faults": [fault._asdict() for fault in self.faults],
            "small": [
                {"split": split, "class": kind, "images": count}
                for split, kind, count in self.small
            ],
            "copies": [
                {"files": list(c.files), "splits": list(c.splits), "labels": list(c.labels)}
                for c in self.copies
            ],
            "tables": [
                t._asdict()
                | {"classes": list(t.classes), "values": list(t.values)}
                | {"counts": [list(row) for row in t.counts]}
                for t in self.tables
            ],
            "sizes": {name: list(size) for name, size in self.sizes.items()},
            "notes": list(self.notes),
            "problems": list(self.problems),
        }


def check(
    data: str | Path | Folder,
    *,
    at_least: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> CheckReport:
    """Look at all images of a folder or table: what can be read, how often what occurs, copies.

    Args:
        data: a folder, a CSV or Parquet table, or the settings of either.
        at_least: a class with fewer images than this in a split is a problem.
        seed: of splits that are not given.
        progress: called with (images done, images in all) while images are decoded.

    Raises:
        DataError: there is nothing to look at (no images, no such column); faults of single
            images are in the report.
    """
    settings = data if isinstance(data, Folder) else open_data(str(data))
    if not isinstance(settings, Folder):
        raise DataError(f"'{data}' is a suite of the package; a folder or table can be checked")
    listing = settings.listing()
    decoded = decode(listing.files, settings.size, progress, key=listing.key)
    good = np.flatnonzero([not reason for reason in decoded.reasons])
    faults = (*listing.faults, *unreadable(listing, decoded))
    parts, notes = divide(settings, listing, good, seed) if len(good) else ({}, ())
    classes = tuple(sorted(set(listing.labels), key=natural))
    counts = {split: _count(listing, ids, classes) for split, ids in parts.items()}
    small = tuple(
        (split, kind, count)
        for split, by_class in counts.items()
        for kind, count in by_class.items()
        if count < at_least
    )
    copies = _copies(listing, parts)
    return CheckReport(
        path=str(data) if not isinstance(data, Folder) else settings.place(),
        images=len(good),
        counts=counts,
        faults=faults,
        small=small,
        copies=copies,
        tables=_tables(listing, parts, classes),
        sizes=_sizes(decoded.sizes[good]),
        notes=(*listing.notes, *notes),
        problems=_problems(len(good), classes, faults, small, copies, at_least),
    )


def _count(listing: Listing, ids: Ids, classes: Sequence[str]) -> dict[str, int]:
    found = Counter(listing.labels[i] for i in ids)
    return {kind: found[kind] for kind in classes}


def _copies(listing: Listing, parts: dict[str, Ids]) -> tuple[Copies, ...]:
    """Groups of files with the same bytes; only files of the same length are read."""
    by_length: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for split, ids in parts.items():
        for i in ids.tolist():
            by_length[_length(listing.files[i])].append((i, split))
    by_bytes: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for members in by_length.values():
        for i, split in members if len(members) > 1 else ():
            by_bytes[_digest(listing.files[i])].append((i, split))
    return tuple(
        Copies(
            tuple(listing.names[i] for i, _ in same),
            tuple(split for _, split in same),
            tuple(listing.labels[i] for i, _ in same),
        )
        for same in by_bytes.values()
        if len(same) > 1
    )


def _length(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.stat(source).st_size


def _digest(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tables(listing: Listing, parts: dict[str, Ids], classes: tuple[str, ...]) -> tuple[Table, ...]:
    import torch

    from truecue.metrics.groups import association

    tables = []
    for name, column in listing.attributes.items():
        values = tuple(sorted({v for v in column if v is not None}, key=natural))
        for split, ids in parts.items():
            found = Counter((listing.labels[i], column[i]) for i in ids)
            counts = tuple(tuple(found[kind, v] for v in values) for kind in classes)
            strength = association(torch.tensor(counts).reshape(len(classes), len(values)))
            defined = None if np.isnan(strength) else strength
            tables.append(Table(split, name, classes, values, counts, defined))
    return tuple(tables)


def _sizes(sizes: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> dict[str, tuple[int, int]]:
    if not len(sizes):
        return {}
    order = np.argsort(sizes.astype(np.int64).prod(1), kind="stable")
    places = {"smallest": 0, "median": len(order) // 2, "largest": -1}
    return {name: (int(sizes[order[i]][0]), int(sizes[order[i]][1])) for name, i in places.items()}


def _problems(
    images: int,
    classes: Sequence[str],
    faults: Sequence[Fault],
    small: Sequence[tuple[str, str, int]],
    copies: Sequence[Copies],
    at_least: int,
) -> tuple[str, ...]:
    found = []
    if faults:
        reasons = [str(fault) for fault in faults]
        found.append(f"{_images(len(faults))} cannot be used: {_examples(reasons)}")
    if len(classes) == 1:
        found.append(f"there is only one class ({classes[0]}); a classifier needs two")
    if not images:
        return tuple(found)
    absent = [f"'{kind}' in {split}" for split, kind, count in small if count == 0]
    few = [f"'{kind}' in {split} ({count})" for split, kind, count in small if count]
    if absent:
        found.append(f"classes without images: {_examples(absent)}; every split needs every class")
    if few:
        found.append(f"classes with fewer than {at_least} images: {_examples(few)}")
    across = [c for c in copies if len(set(c.splits)) > 1]
    within = [c for c in copies if len(set(c.splits)) < len(c.splits)]
    torn = [c for c in copies if len(set(c.labels)) > 1]
    for group, what in (
        (across, "the same image is in more than one split, so the test is too easy"),
        (torn, "the same image is in more than one class"),
        (within, "the same image is in one split more than once"),
    ):
        if group:
            examples = [" = ".join(c.files[:_LISTED]) for c in group]
            found.append(f"{what} ({_images(len(group))}): {_examples(examples)}")
    return tuple(found)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _examples(items: Sequence[str]) -> str:
    more = len(items) - _LISTED
    return "; ".join(items[:_LISTED]) + (f"; and {more:,} more" if more > 0 else "")
