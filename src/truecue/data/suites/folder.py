"""Images of one's own: in folders, named in a table, in a data set on disk, or in shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from truecue.data.files import Decoded, Progress, decode, known
from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.hf import is_hugging_face, read_hugging_face
from truecue.data.suites.listing import Fault, Listing, list_folder, list_table, natural
from truecue.data.suites.records import Records, list_records
from truecue.data.suites.splitting import Ids, stratified
from truecue.data.suites.wds import find_shards, read_shards
from truecue.errors import DataError


class Folder(Suite):
    """Your own images.

    Either in a folder for each class (`cat/1.jpg`), or in such folders inside `train`, `val` (or
    `valid`, `validation`) and `test`, or named in a CSV or Parquet table with a column for the
    file, one for the class, if wanted one for the split, and any number of attributes; or in a
    Hugging Face data set on disk; or in WebDataset shards. Splits that are not given are drawn by
    the seed, class by class; attributes play no part in that.

    Images are turned upright, their short side is resized to `size` (Lanczos filter), and the
    middle square is kept. They are decoded once; after that they come from the cache.
    """

    source: ClassVar[str] = "your own images"
    licence: ClassVar[str] = "as you have it"
    obtain: ClassVar[str] = "nothing to get: they are yours"
    layout: ClassVar[str] = (
        "class folders (cat/1.jpg), or splits with class folders (train/cat/1.jpg, val/..,"
        " test/..), or a table (.csv, .parquet) with the columns file and label, or a data set"
        " that the library datasets saved to disk, or WebDataset shards (.tar)"
    )

    root: str = ""
    """The folder, shard or pattern of shards. Empty: the folder that `load` is given. Relative file
    names in a table start here, or, where this is empty, at the table's own folder."""
    table: str = ""
    """A CSV or Parquet table of the images; empty: the images lie in class folders."""
    file: str = "file"
    """The table's column with the names of the files. Of a data set on disk: the column with the
    images, and of shards: their extension; left at its default, any images that there are."""
    label: str = "label"
    """The column with the classes; in shards, `cls` counts as `label`."""
    split: str = "split"
    """The column with train, val or test; it may be absent under this default name."""
    attributes: tuple[str, ...] | None = None
    """The columns with attributes; left out: every other column with 2 to 32 values that is not the
    label under other names."""
    bias: str | None = None
    """The attribute that misleads, where it is known."""
    size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Height and width that images are brought to."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the images not used for testing that is for validation, where no split says so;
    0: none."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images that is for testing, where no split says so."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, and say so in the report, rather than stop."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the images, from the cache where they were decoded before.

        Args:
            root: the folder, where the setting `root` is empty.
            seed: of splits that are not given.
            progress: called with (images done, images in all) while images are decoded.

        Raises:
            DataError: a path that is not UTF-8, no images, one class only, a class that a split
                lacks, unreadable images, or a table that does not fit; the message names the file
                or the row.
            StorageError: the cache could not be written.
        """
        listing = self.listing(root)
        _refuse(listing.faults, "entries cannot be used", self.place(root))
        decoded = decode(listing.files, self.size, progress, key=listing.key)
        faults = unreadable(listing, decoded)
        if not self.skip_unreadable:
            _refuse(
                faults,
                "images cannot be read",
                self.place(root),
                "; --skip-unreadable (setting skip_unreadable) leaves them out",
            )
        good = np.flatnonzero([not reason for reason in decoded.reasons])
        if not len(good):
            raise DataError(
                f"none of the {len(listing):,} images can be read; the first: {faults[0]}"
            )
        parts, notes = divide(self, listing, good, seed)
        notes = (*listing.notes, *notes, *self._resizing(decoded.sizes[good]))
        if faults:
            notes = (*notes, f"{_images(len(faults))} could not be read and were left out")
        sets = _sets(listing, decoded, parts)
        return Splits(sets["train"], sets.get("val"), sets["test"], bias=self.bias, notes=notes)

    def listing(self, root: Path | str | None = None) -> Listing:
        """What there is, before any image is opened.

        Raises:
            DataError: see `load`.
        """
        base = self._base(root)
        _check_name(self.place(root))
        if self.table:
            table = self._table(base)
            return list_table(
                table,
                base or table.parent,
                file=self.file,
                label=self.label,
                split=self.split,
                attributes=self.attributes,
                bias=self.bias,
            )
        if base is None:
            raise DataError("which folder? Give its path, or set root")
        records = self._records(base)
        if records is not None:
            return list_records(
                records,
                label=self.label,
                split=self.split,
                attributes=self.attributes,
                bias=self.bias,
            )
        try:
            listing = list_folder(base)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
        named = [*(self.attributes or ()), *([self.bias] if self.bias else [])]
        if named:
            raise DataError(
                f"class folders have no attributes such as '{named[0]}'; name the images in a table"
                " with a column for it, and set table"
            )
        return listing

    def version(self, root: Path | str | None = None) -> str:
        """A short text that changes when a file does: its path, its size or its time of change.

        Raises:
            DataError: see `load`.
        """
        listing = self.listing(root)
        if listing.key is not None:
            return listing.key
        tables = [self._table(self._base(root))] if self.table else []
        return known([*tables, *listing.files])

    def _records(self, base: Path) -> Records | None:
        """What a Hugging Face data set or shards hold; None where there are neither."""
        image = None if self.file == Folder.model_fields["file"].default else self.file
        if is_hugging_face(base):
            return read_hugging_face(base, image, self.split)
        shards = find_shards(base)
        return read_shards(shards, image, self.split) if shards else None

    def _base(self, root: Path | str | None) -> Path | None:
        given = self.root or root
        return None if given is None else Path(given).expanduser()

    def _table(self, base: Path | None) -> Path:
        table = Path(self.table).expanduser()
        return table if base is None else base / table

    def place(self, root: Path | str | None = None) -> str:
        """The path that the user would type."""
        base = self._base(root)
        return str(self._table(base) if self.table else base)

    def _resizing(self, sizes: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> tuple[str, ...]:
        """A note on images that were not of the wanted size; sizes int32 [n, 2]."""
        if (sizes == self.size).all():
            return ()
        low, high = (sizes[np.argsort(sizes.prod(1), kind="stable")[i]] for i in (0, -1))
        found = f"{low[0]} x {low[1]}"
        if (low != high).any():
            found += f" to {high[0]} x {high[1]}"
        return (
            f"images of {found} pixels: short side resized to {self.size} (Lanczos), middle square"
            " kept",
        )


def _check_name(place: str) -> None:
    """Refuse a path that no run could write into its settings, which are UTF-8.

    Raises:
        DataError: the path is in another encoding.
    """
    try:
        place.encode()
    except UnicodeEncodeError:
        shown = place.encode("utf-8", "backslashreplace").decode()
        raise DataError(f"the name of {shown} is not UTF-8; rename it") from None


def unreadable(listing: Listing, decoded: Decoded) -> list[Fault]:
    """The images that could not be decoded."""
    pairs = zip(listing.where, decoded.reasons, strict=True)
    return [Fault(where, reason) for where, reason in pairs if reason]


def divide(
    settings: Folder, listing: Listing, usable: Ids, seed: int
) -> tuple[dict[str, Ids], tuple[str, ...]]:
    """Positions of the images of each split: those that are given, and those that are drawn.

    Args:
        settings: shares of the splits that are not given.
        listing: the images.
        usable: int64 [m], positions of the images to divide.
        seed: of the draw, which is made class by class and looks at nothing else.

    Returns:
        The positions by split (train, test and, if wanted, val), and notes on what was drawn.

    Raises:
        DataError: there are splits, but none for training.
    """
    codes = {label: i for i, label in enumerate(sorted(set(listing.labels)))}
    y = np.array([codes[label] for label in listing.labels])
    given = np.array([split or "train" for split in listing.splits])
    parts = {name: usable[given[usable] == name] for name in ("train", "val", "test")}
    if not len(parts["train"]):
        raise DataError("no image is marked as a training image")
    notes: tuple[str, ...] = ()
    wanted = {"test": settings.test_share, "val": settings.val_share}
    for name, share in wanted.items():
        if len(parts[name]) or not share:
            continue
        kept, drawn = stratified(y[parts["train"]], share, seed, "folder", name)
        parts[name], parts["train"] = parts["train"][drawn], parts["train"][kept]
        whole = {"test": "test", "val": "validation"}[name]
        notes += (f"{whole} images: {share:.0%} of each class, drawn by the seed",)
    if not len(parts["val"]):
        del parts["val"]
    return parts, notes


def _sets(listing: Listing, decoded: Decoded, parts: dict[str, Ids]) -> dict[str, ImageSet]:
    """The sets of images of all splits, with the same classes and attribute values in each."""
    classes, y = _coded(listing.labels)
    coded = {name: _coded(values) for name, values in listing.attributes.items()}
    return {
        split: ImageSet(
            decoded.images.select(torch.from_numpy(ids)),
            y[ids],
            classes,
            {name: Attribute(values[ids], names) for name, (names, values) in coded.items()},
            tuple(listing.names[i] for i in ids.tolist()),
        )
        for split, ids in parts.items()
    }


def _coded(values: Sequence[str | None]) -> tuple[tuple[str, ...], Tensor]:
    """The different values in natural order, and which one each entry is: int64 [n], -1 none."""
    names = sorted({value for value in values if value is not None}, key=natural)
    codes: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    return tuple(names), torch.tensor([codes.get(value, -1) for value in values])


def _refuse(faults: Sequence[Fault], what: str, place: str, way_out: str = "") -> None:
    """Stop at the first fault.

    Raises:
        DataError: there is one.
    """
    if faults:
        count = f"{len(faults):,} {what}; the first is " if len(faults) > 1 else ""
        raise DataError(f"{count}{faults[0]}. `truecue data check {place}` lists all{way_out}")


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
