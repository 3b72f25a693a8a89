"""CelebA: faces with forty attributes, of which one is the label and one the bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from truecue.data.files import Progress
from truecue.data.sets import Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.listing import read_table
from truecue.data.suites.published import (
    check_counts,
    coded,
    columns_of,
    divided,
    found_counts,
    given_parts,
    labelled,
    read_files,
)
from truecue.data.suites.splitting import Ids, drawn
from truecue.errors import DataError

_ATTRIBUTES = "list_attr_celeba"
_PARTITION = "list_eval_partition"
_KEPT = 2000  # of the images without blond hair that show no man, in the subset
_HELD_OUT = 0.2  # share of the subset that is for validation


class CelebA(Suite):
    """Blond or not? In training, nearly all who are blond are women.

    Faces with forty yes-or-no attributes (Liu et al., 2015) and the official splits. Blond hair
    with the bias Male is the usual pair; `target` and `bias` may be any two attributes.
    """

    source: ClassVar[str] = (
        "CelebA, aligned and cropped (Liu, Luo, Wang and Tang, Deep Learning Face Attributes in the"
        " Wild, ICCV 2015)"
    )
    licence: ClassVar[str] = "non-commercial research only (terms of the CelebA agreement)"
    obtain: ClassVar[str] = (
        "img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from"
        " mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    )
    layout: ClassVar[str] = (
        "celeba/ with img_align_celeba/000001.jpg and so on, list_attr_celeba.txt and"
        " list_eval_partition.txt (or the two as .csv, in Kaggle's form); the folder may also be"
        " called CelebA, or be the root itself"
    )
    counts: ClassVar[Mapping[str, int]] = {
        "train": 162770,
        "train: not blond hair, not male": 71629,
        "train: not blond hair, male": 66874,
        "train: blond hair, not male": 22880,
        "train: blond hair, male": 1387,
        "val": 19867,
        "val: not blond hair, not male": 8535,
        "val: not blond hair, male": 8276,
        "val: blond hair, not male": 2874,
        "val: blond hair, male": 182,
        "test": 19962,
        "test: not blond hair, not male": 9767,
        "test: not blond hair, male": 7535,
        "test: blond hair, not male": 2480,
        "test: blond hair, male": 180,
    }
    checksums: ClassVar[Mapping[str, str]] = {
        "img_align_celeba.zip": "md5:00d2c5bc6d35e252742224ab0c1e8fcb",
        "list_attr_celeba.txt": "md5:75e246fa4810816ffd6ee81facbd244c",
        "list_eval_partition.txt": "md5:d32c9cbf5e040fd4025c592c306e6668",
    }
    folders: ClassVar[tuple[str, ...]] = ("celeba", "CelebA")
    marks: ClassVar[tuple[str, ...]] = (f"{_ATTRIBUTES}.txt", f"{_ATTRIBUTES}.csv")

    target: str = "Blond_Hair"
    """The attribute that is the label."""
    bias: str = "Male"
    """The attribute that misleads."""
    subset: Literal["all", "hong_yang"] = "all"
    """`hong_yang`: the training images of Hong and Yang (2021), of which women without blond hair
    are rare. Only for Blond_Hair and Male."""
    size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Height and width that images are brought to."""
    complete: bool = True
    """Refuse a copy that has not the published number of images in every split and group."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target == self.bias:
            raise ValueError(f"target and bias must be two attributes; both are {self.target}")
        if self.subset == "hong_yang" and not self._usual():
            raise ValueError("the subset hong_yang is made for Blond_Hair with the bias Male")
        return self

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the faces; the seed draws the subset, if one is wanted."""
        folder = self.folder(root)
        files, (target, bias) = _attributes(folder, (self.target, self.bias))
        listed, (split,) = _columns(folder, _PARTITION, ("partition",))
        if listed != files:
            raise DataError(
                f"{folder}: {_ATTRIBUTES} ({len(files):,} images) and {_PARTITION}"
                f" ({len(listed):,}) do not name the same images in the same order"
            )
        parts = given_parts(coded(split, ("train", "val", "test"), f"{_PARTITION}, partition"))
        classes, values = _yes_or_no(self.target), _yes_or_no(self.bias)
        if self.complete:
            found = found_counts(parts, target, classes, bias, values)
            if not self._usual():
                found = {split: len(ids) for split, ids in parts.items()}
            check_counts("CelebA", self.counts, found)
        if self.subset == "hong_yang":
            parts |= _hong_yang(parts["train"], target, bias, seed)
        faces = folder / "img_align_celeba"
        images = read_files([faces / name for name in files], self.size, progress)
        data = labelled(images, target, classes, files, **{self.bias: (bias, values)})
        return divided(data, parts, bias=self.bias)

    def _usual(self) -> bool:
        return (self.target, self.bias) == ("Blond_Hair", "Male")


def _yes_or_no(name: str) -> tuple[str, str]:
    """The names of an attribute's two values: `not blond hair`, `blond hair`."""
    plain = name.replace("_", " ").lower()
    return f"not {plain}", plain


def _hong_yang(train: Ids, target: Ids, bias: Ids, seed: int) -> dict[str, Ids]:
    """All training images but most of the women who are not blond, divided four to one."""
    rare = train[(target[train] == 0) & (bias[train] == 0)]
    share = min(1, _KEPT / max(1, len(rare)))
    kept = rare[drawn(len(rare), share, seed, "celeba", "subset")[1]]
    used = np.sort(np.concatenate([np.setdiff1d(train, rare), kept]))
    rest, val = drawn(len(used), _HELD_OUT, seed, "celeba", "val")
    return {"train": used[rest], "val": used[val]}


def _attributes(folder: Path, wanted: Sequence[str]) -> tuple[list[str], list[Ids]]:
    """The images' names and, for each wanted attribute, 0 or 1: int64 [n]."""
    files, columns = _columns(folder, _ATTRIBUTES, wanted)
    codes = {"-1": 0, "0": 0, "1": 1}
    found = []
    for name, column in zip(wanted, columns, strict=True):
        strange = next((i for i, value in enumerate(column) if value not in codes), None)
        if strange is not None:
            raise DataError(
                f"{_ATTRIBUTES}, {files[strange]}: {name} must be -1 or 1; found"
                f" '{column[strange]}'"
            )
        found.append(np.array([codes[value] for value in column], dtype=np.int64))
    return files, found


def _columns(folder: Path, stem: str, wanted: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The images' names and some columns of a list, as published or in Kaggle's form."""
    path = folder / f"{stem}.txt"
    if not path.is_file() and path.with_suffix(".csv").is_file():
        path = path.with_suffix(".csv")
        table: Mapping[str, Sequence[str | None]] = read_table(path, ("image_id", *wanted))
    else:
        table = _read_list(path, wanted, ("partition",) if stem == _PARTITION else None)
    names, *columns = columns_of(table, ("image_id", *wanted), path.name)
    return names, columns


def _read_list(
    path: Path, wanted: Sequence[str], columns: Sequence[str] | None
) -> dict[str, list[str]]:
    """A list with an image and its values in each line.

    Args:
        path: the list.
        wanted: columns to fill; the others stay empty.
        columns: the columns after the first; None: the second line names them.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 0
    if columns is None:
        columns, start = " ".join(lines[1:2]).split(), 2
    table: dict[str, list[str]] = {name: [] for name in ("image_id", *columns)}
    used = [(i, table[n]) for i, n in enumerate(table) if n in ("image_id", *wanted)]
    for number, line in enumerate(lines[start:], start + 1):
        row = line.split()
        if len(row) != len(table) or not row[0].endswith(".jpg"):
            raise DataError(
                f"{path} line {number}: expected are an image (.jpg) and {len(table) - 1} values;"
                f" found '{line[:60]}'. Copy the file again"
            )
        for i, cells in used:
            cells.append(row[i])
    return table
