"""What the suites that read published files have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from truecue.config import suggest
from truecue.data.files import SUFFIXES, Decoded, Progress, decode, decode_column
from truecue.data.sets import ArrayFile, Attribute, ImageSet, Splits
from truecue.data.suites.splitting import Ids
from truecue.errors import DataError


def image_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The image files in a folder whose names fit a pattern, sorted; empty where it is absent."""
    found = (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith("."))


def read_files(files: Sequence[Path], size: int, progress: Progress | None = None) -> ArrayFile:
    """Image files, decoded once and then read from the cache: uint8 [n, 3, size, size].

    Raises:
        DataError: an image is absent or cannot be read.
        StorageError: the cache could not be written.
    """
    return _complete(decode(files, size, progress), list(map(str, files)))


def read_column(
    table: Path,
    column: str,
    names: Sequence[str],
    size: int,
    progress: Progress | None = None,
) -> ArrayFile:
    """The image files in a column of a Parquet table, see `read_files`.

    Raises:
        DataError: there is no such column, or an image cannot be read.
        StorageError: the cache could not be written.
    """
    decoded = decode_column(table, column, size, progress)
    return _complete(decoded, [f"{table.name} row {i + 1} ({n})" for i, n in enumerate(names)])


def _complete(decoded: Decoded, where: Sequence[str]) -> ArrayFile:
    faults = [(w, reason) for w, reason in zip(where, decoded.reasons, strict=True) if reason]
    if faults:
        some = f"{len(faults):,} of {len(where):,} images cannot be read; the first is "
        raise DataError(
            f"{some if len(faults) > 1 else ''}{faults[0][0]}: {faults[0][1]}. Copy or unpack the"
            " files again"
        )
    return decoded.images


def columns_of(
    table: Mapping[str, Sequence[str | None]], wanted: Sequence[str], name: str
) -> list[list[str]]:
    """Columns of a table of text, without empty cells.

    Raises:
        DataError: a column is absent, or a cell in it is empty.
    """
    for column in wanted:
        if column not in table:
            raise DataError(
                f"{name} has no column '{column}'{suggest(column, list(table))}"
                f" (columns: {', '.join(table)})"
            )
        for row, cell in enumerate(table[column]):
            if cell is None:
                raise DataError(f"{name} row {row + 1}: column '{column}' is empty")
    return [[cell for cell in table[column] if cell is not None] for column in wanted]


def coded(values: Sequence[str], names: Sequence[str], what: str) -> Ids:
    """Which of the names each value is: int64 [n].

    Args:
        values: the names or, as text, their positions.
        names: the known ones.
        what: for the message, what they are of.

    Raises:
        DataError: a value is neither.
    """
    codes = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(len(names))}
    for row, value in enumerate(values):
        if value not in codes:
            raise DataError(
                f"{what}, row {row + 1}: '{value}' is none of {', '.join(names)}"
                f" (0 to {len(names) - 1})"
            )
    return np.array([codes[value] for value in values], dtype=np.int64)


def labelled(
    images: ArrayFile,
    y: Ids,
    classes: tuple[str, ...],
    names: Sequence[str],
    **attributes: tuple[Ids, tuple[str, ...]],
) -> ImageSet:
    """All images of a data set, before they are divided into splits.

    Args:
        images: the decoded images.
        y: int64 [n], labels.
        classes: their names.
        names: of the files, for people.
        **attributes: int64 [n] values with their names.
    """
    return ImageSet(
        images,
        torch.from_numpy(y),
        classes,
        {key: Attribute(torch.from_numpy(v), values) for key, (v, values) in attributes.items()},
        tuple(names),
    )


def divided(
    data: ImageSet,
    parts: Mapping[str, Ids],
    *,
    bias: str | None = None,
    aligned: npt.NDArray[np.bool_] | None = None,
    notes: tuple[str, ...] = (),
) -> Splits:
    """The splits of a data set.

    Args:
        data: all images.
        parts: positions of the images of train, val and test; none for val where it is empty.
        bias: name of the attribute that misleads.
        aligned: bool [classes, values], see `Splits`.
        notes: see `Splits`.
    """
    made = {name: data.select(torch.from_numpy(ids)) for name, ids in parts.items() if len(ids)}
    table = None if aligned is None else torch.from_numpy(aligned)
    return Splits(made["train"], made.get("val"), made["test"], bias, table, notes)


def given_parts(split: Ids) -> dict[str, Ids]:
    """Positions by split, from codes that are 0 train, 1 val and 2 test: int64 [n]."""
    return {name: np.flatnonzero(split == i) for i, name in enumerate(("train", "val", "test"))}


def found_counts(
    parts: Mapping[str, Ids],
    y: Ids,
    classes: Sequence[str],
    values: Ids,
    names: Sequence[str],
) -> dict[str, int]:
    """Numbers of images, as in "train", and of each group, as in "train: landbird, land"."""
    found = {split: len(ids) for split, ids in parts.items()}
    for split, ids in parts.items():
        cells = np.bincount(y[ids] * len(names) + values[ids], minlength=len(classes) * len(names))
        groups = (f"{split}: {kind}, {name}" for kind in classes for name in names)
        found.update(zip(groups, cells.tolist(), strict=True))
    return found


def check_counts(name: str, expected: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Compare numbers of images with the published ones.

    Args:
        name: of the data set.
        expected: published numbers; those that `found` lacks are not compared.
        found: numbers counted.

    Raises:
        DataError: they differ.
    """
    wrong = [
        f"{what}: {expected[what]:,} expected, {n:,} found"
        for what, n in found.items()
        if expected[what] != n
    ]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise DataError(
            f"this is not the whole of {name} ({'; '.join(wrong[:4])}{more}). Copy or unpack the"
            " files again, or use what there is: --set data.complete=false"
        )
