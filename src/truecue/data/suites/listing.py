"""What there is in a folder of images or in a table of them, before any image is opened."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from truecue.config import suggest
from truecue.data.files import SUFFIXES
from truecue.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""How splits may be called, in any case."""

TABLES = (".csv", ".parquet", ".pq")
"""What the name of a table may end with."""

FRACTION = re.compile(r"[-+]?\d*\.\d+(e[-+]?\d+)?|nan", re.IGNORECASE)
"""What is a number, and not a class."""

_MAX_VALUES = 32  # of a column that is taken for an attribute without being named
_MAX_CLASSES_LISTED = 20


class Fault(NamedTuple):
    """One image that cannot be used, and why."""

    where: str
    """The file, or the table's row."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class Listing:
    """Images with labels, one entry of every list for each image."""

    files: Sequence[Path | bytes] = field(default_factory=list)
    """Image files, or what they hold."""
    names: list[str] = field(default_factory=list)
    """The files as people know them: relative to the folder, or as the table has them."""
    labels: list[str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    """train, val or test; None for all where the splits are still to be made."""
    attributes: dict[str, list[str | None]] = field(default_factory=dict)
    where: list[str] = field(default_factory=list)
    """For messages: the file, with the table's row where there is a table."""
    faults: list[Fault] = field(default_factory=list)
    """Rows of the table that have no usable label, split or file name; not in the lists above."""
    notes: tuple[str, ...] = ()
    key: str | None = None
    """Changes when an image does; None where the files tell it themselves."""

    def __len__(self) -> int:
        return len(self.files)


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts "2" before "10", and otherwise as text."""
    parts = re.split(r"([0-9]+)", name)  # text and digits by turns
    return tuple((int(p), "") if i % 2 else (-1, p) for i, p in enumerate(parts)), name


def list_folder(root: Path) -> Listing:
    """Images in class folders, `class/...`, or in splits, `train/class/...`, `test/class/...`.

    A folder counts as divided into splits where it has a folder called train that holds folders
    and no images. Hidden files and folders are left out, symbolic links are followed, unless to a
    folder above, and class folders may have folders inside.

    Raises:
        DataError: the folder is absent or shows no images in class folders.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    files: list[Path] = []
    found = Listing(files)
    splits = _split_folders(root)
    for split, folder in splits or [(None, root)]:
        above = {os.path.realpath(root), os.path.realpath(folder)}
        for kind in _folders(folder):
            real = os.path.realpath(kind)
            if real in above:
                continue
            label = unicodedata.normalize("NFC", kind.name)  # macOS writes accents in two parts
            for file in _images(kind, above | {real}):
                files.append(file)
                found.names.append(file.relative_to(root).as_posix())
                found.labels.append(label)
                found.splits.append(split)
    if not found.files:
        raise DataError(_nothing(root))
    found.where = found.names
    used = {folder for _, folder in splits}
    others = [f"'{f.name}'" for f in _folders(root) if splits and f not in used]
    if others:
        found.notes = (f"folders beside 'train' that are no splits were left out: {_some(others)}",)
    return found


def list_table(
    table: Path,
    root: Path,
    *,
    file: str,
    label: str,
    split: str,
    attributes: tuple[str, ...] | None,
    bias: str | None,
) -> Listing:
    """Images named in a CSV or Parquet table, one row each.

    Args:
        table: the table.
        root: the folder that relative file names start from.
        file: name of the column with the files.
        label: name of the column with the classes.
        split: name of the column with train, val or test; if it is "split" it may be absent.
        attributes: names of columns; None takes every other column with few values.
        bias: an attribute that is wanted in any case.

    Raises:
        DataError: the table or a column is absent or cannot be read.
    """
    columns = read_table(table)
    wanted = [file, label, *(attributes or ()), *([bias] if bias else [])]
    for name in wanted if split == "split" else [*wanted, split]:
        if name not in columns:
            raise DataError(
                f"{table.name} has no column '{name}'{suggest(name, list(columns))}"
                f" (columns: {', '.join(columns)})"
            )
    if attributes is None:
        given = {file, label, split}
        names = [n for n in columns if n not in given and may_mislead(columns[n], columns[label])]
    else:
        names = list(attributes)
    if bias and bias not in names:
        names.append(bias)

    files: list[Path] = []
    found = Listing(files, attributes={name: [] for name in names})
    count = len(columns[file])
    if not count:
        raise DataError(f"{table} has no rows")
    for i in range(count):
        row = f"{table.name} row {i + 1}"
        text, kind = columns[file][i], columns[label][i]
        part = columns[split][i] if split in columns else None
        reason = _row_fault(text, kind, part, (file, label, split), split in columns)
        if reason or text is None or kind is None:
            found.faults.append(Fault(f"{row} ({text})" if text else row, reason))
            continue
        files.append(_locate(root, text, part))
        found.names.append(text)
        found.labels.append(kind)
        found.splits.append(None if part is None else SPLITS[part.lower()])
        found.where.append(f"{row} ({text})")
        for name in names:
            found.attributes[name].append(columns[name][i])
    return found


def _row_fault(
    text: str | None,
    kind: str | None,
    part: str | None,
    columns: tuple[str, str, str],
    divided: bool,
) -> str:
    """Why a row cannot be used; empty if it can."""
    file, label, split = columns
    if text is None:
        return f"column '{file}' is empty"
    if kind is None:
        return f"it has no label (column '{label}' is empty)"
    if FRACTION.fullmatch(kind):
        return f"label {kind} is not a class: give names or whole numbers"
    if divided and (part is None or part.lower() not in SPLITS):
        found = f"'{part}'" if part else "nothing"
        return f"column '{split}' has {found}, and must have one of {', '.join(SPLITS)}"
    return ""


def read_table(path: Path, wanted: Sequence[str] = ()) -> dict[str, list[str | None]]:
    """The columns of a CSV or Parquet table as text; None where a cell is empty.

    Args:
        path: the table.
        wanted: columns; empty: all. Of those that are absent nothing is said here.

    Raises:
        DataError: the table is absent or damaged, names two columns alike, or has its columns
            separated by semicolons or tabs.
    """
    from pyarrow import ArrowException, csv, parquet

    if not path.is_file():
        raise DataError(f"there is no table {path}")
    try:
        if path.suffix.lower() == ".csv":
            _check_separator(path)
            head = csv.open_csv(path).schema.names
            options = csv.ConvertOptions(
                include_columns=[n for n in head if not wanted or n.strip() in wanted],
                # text, so that "007" stays what it is
                column_types=dict.fromkeys(head, "string"),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            )
            table = csv.read_csv(path, convert_options=options)
        elif path.suffix.lower() in TABLES:
            known = parquet.read_schema(path).names
            chosen = [n for n in known if not wanted or n.strip() in wanted]
            table = parquet.read_table(path, columns=chosen)
        else:
            raise DataError(f"{path} must be a table with the suffix {' or '.join(TABLES)}")
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        encoded = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        advice = "; save it as UTF-8" if encoded else ""
        raise DataError(f"{path} cannot be read as a table: {error}{advice}") from error
    names = [name.strip() for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path.name} has more than one column '{twice[0]}'")
    columns = zip(names, table.columns, strict=True)
    return {name: [as_text(v) for v in column.to_pylist()] for name, column in columns}


def _check_separator(path: Path) -> None:
    """Refuse a CSV table with other separators than commas, as some spreadsheets write it.

    Raises:
        DataError: its first line has semicolons or tabs, and no comma.
        OSError, UnicodeDecodeError: its first line cannot be read.
    """
    with path.open("rb") as file:
        head = file.readline().decode("utf-8-sig").strip()
    if "," not in head and (";" in head or "\t" in head):
        raise DataError(
            f"{path} has the heads {head!r} without a comma; separate columns by commas"
        )


def as_text(value: Any) -> str | None:
    """A cell as text: 1.0 as "1" (whole numbers with gaps become floats), empty cells as None."""
    if value is None or value != value:  # NaN is not itself # noqa: PLR0124
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if text.endswith(".0") and text[:-2].removeprefix("-").isdecimal():
        text = text[:-2]
    return text or None


def may_mislead(values: Sequence[str | None], labels: Sequence[str | None]) -> bool:
    """Whether a column looks like an attribute: few values, and not the label under other names."""
    different = {value for value in values if value is not None}
    if not 2 <= len(different) <= min(_MAX_VALUES, len(values) // 2):
        return False
    pairs = {(v, k) for v, k in zip(values, labels, strict=True) if v is not None}
    kinds = {k for _, k in pairs}
    return not len(pairs) == len(different) == len(kinds)


def _locate(root: Path, text: str, split: str | None) -> Path:
    """The file that a table names.

    Looked for under the folder, and then under the folder of its split; in both, accents may be
    written in one part or in two.
    """
    path = root / text
    if os.path.exists(path):
        return path
    others = [root / unicodedata.normalize("NFD", text)]
    if split is not None:
        others.append(root / split / text)
    return next((other for other in others if other.exists()), path)


def _split_folders(root: Path) -> list[tuple[str | None, Path]]:
    """The folders of the splits, or nothing where the folders of `root` are classes."""
    found: dict[str | None, Path] = {}
    for folder in _folders(root):
        split = SPLITS.get(folder.name.lower())
        if split is not None and split in found:
            raise DataError(
                f"{root} has two folders of {split} images: '{found[split].name}' and"
                f" '{folder.name}'"
            )
        if split is not None:
            found[split] = folder
    train = found.get("train")
    if train and len(found) > 1 and len(found) == len(_folders(root)) and not _folders(train):
        raise DataError(
            f"{train} holds images but no class folders; put them into one folder for each class,"
            " or name them in a table with the columns file, label and split"
        )
    if train is None or not _folders(train) or any(_is_image(p) for p in train.iterdir()):
        return []
    return list(found.items())


def _folders(root: Path) -> list[Path]:
    inside = (p for p in root.iterdir() if not p.name.startswith((".", "__")) and p.is_dir())
    return sorted(inside, key=lambda p: natural(p.name))


def _images(folder: Path, above: set[str]) -> Iterator[Path]:
    """The images in a folder and below, sorted; a link back to a folder above is not followed."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            real = os.path.realpath(path)
            if real not in above:
                yield from _images(path, above | {real})
        elif _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _nothing(root: Path) -> str:
    """Why nothing was found in a folder, and what would be."""
    tables = sorted(p.name for p in root.iterdir() if p.suffix.lower() in TABLES)
    if tables:
        return (
            f"{root} has no class folders with images, but a table; give"
            f" '{root / tables[0]}' instead"
        )
    loose = sum(_is_image(p) for p in root.iterdir())
    if loose:
        return (
            f"{root} holds {loose:,} images that are in no class folder; put them into one folder"
            " for each class, or name them in a table with the columns file and label"
        )
    return (
        f"{root} has no images; expected are class folders, as in {root.name}/cat/1.jpg, or splits"
        f" with class folders, as in {root.name}/train/cat/1.jpg"
        f" (files that end with {', '.join(sorted(SUFFIXES))})"
    )


def _some(items: Sequence[str]) -> str:
    more = len(items) - _MAX_CLASSES_LISTED
    return ", ".join(items[:_MAX_CLASSES_LISTED]) + (f" and {more} more" if more > 0 else "")
