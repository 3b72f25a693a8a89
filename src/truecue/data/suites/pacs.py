"""PACS: seven classes in four styles, in proportions of one's own choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
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
    image_files,
    labelled,
    read_column,
    read_files,
)
from truecue.data.suites.splitting import Ids, biased

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
STYLES = ("photo", "art_painting", "cartoon", "sketch")

Kind = Literal["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
Style = Literal["photo", "art_painting", "cartoon", "sketch"]

_TABLE = "pacs_128.parquet"


class PACS(Suite):
    """What is it? The style of the picture, such as cartoon or sketch, says so too, almost always.

    The images of PACS (Li et al., 2017), made for domain generalisation, in proportions that make
    their style a real, not a drawn-on, spurious attribute: each class is tied to one style. The
    other styles of `styles` appear in `conflicting` of its training images, evenly. Of each cell
    of class and style, the test images are equally many.
    """

    source: ClassVar[str] = (
        "PACS (Li, Yang, Song and Hospedales, Deeper, Broader and Artier Domain Generalization,"
        " ICCV 2017)"
    )
    licence: ClassVar[str] = "none stated (for research; images from several collections)"
    obtain: ClassVar[str] = (
        "the authors' page sketchx.eecs.qmul.ac.uk or the data sets of DomainBed"
        " (github.com/facebookresearch/DomainBed)"
    )
    layout: ClassVar[str] = (
        "pacs/ or PACS/ with the folders photo/dog/, art_painting/dog/, cartoon/dog/, sketch/dog/"
        f" and so on, directly or in kfold/; or pacs/{_TABLE} with the columns class_name,"
        " domain_name, name and jpeg"
    )
    counts: ClassVar[Mapping[str, int]] = {
        "photo": 1670,
        "art_painting": 2048,
        "cartoon": 2344,
        "sketch": 3929,
    }
    folders: ClassVar[tuple[str, ...]] = ("pacs", "PACS", "kfold", "pacs/kfold", "PACS/kfold")
    marks: ClassVar[tuple[str, ...]] = (_TABLE, "art_painting/dog")

    classes: Annotated[tuple[Kind, ...], Field(min_length=2)] = ("elephant", "horse")
    """The classes to tell apart."""
    styles: Annotated[tuple[Style, ...], Field(min_length=2)] = ("cartoon", "sketch")
    """The styles that appear."""
    aligned: tuple[Style, ...] = ()
    """The style of each class, in the order of `classes`; empty: `styles` by turns."""
    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the training and validation images of each class that are in other styles."""
    size: Annotated[int, Field(ge=8, le=1024)] = 128
    """Height and width that images are brought to."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the images not used for testing that is for validation; 0: none."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the smallest group that is for testing; of each group as many images are."""
    complete: bool = True
    """Refuse a copy that has not the published number of images of each style."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("classes", "styles"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} must differ; got {', '.join(given)}")
        if self.aligned and len(self.aligned) != len(self.classes):
            raise ValueError(
                f"aligned must name a style for each of the {len(self.classes)} classes; got"
                f" {len(self.aligned)}"
            )
        strange = sorted({*self.aligned} - {*self.styles})
        if strange:
            raise ValueError(f"aligned has {strange[0]}, which is not among the styles")
        if len({*self.pairing().values()}) < 2:
            raise ValueError("all classes have the same style; it could not mislead")
        return self

    def pairing(self) -> dict[str, str]:
        """The style that goes with each class."""
        turns = [self.styles[i % len(self.styles)] for i in range(len(self.classes))]
        return dict(zip(self.classes, self.aligned or turns, strict=True))

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the images and draw the splits."""
        folder = self.folder(root)
        table = folder / _TABLE
        if table.is_file():
            wanted = ("name", "class_name", "domain_name")
            names, kinds, domains = columns_of(read_table(table, wanted), wanted, table.name)
            kind = coded(kinds, CLASSES, f"{table.name}, column class_name")
            style = coded(domains, STYLES, f"{table.name}, column domain_name")
            names = [f"{d}/{k}/{n}" for d, k, n in zip(domains, kinds, names, strict=True)]
        else:
            files, kind, style = _files(folder)
            names = [file.relative_to(folder).as_posix() for file in files]
        if self.complete:
            found = np.bincount(style, minlength=len(STYLES)).tolist()
            check_counts("PACS", self.counts, dict(zip(STYLES, found, strict=True)))
        # a table is decoded as a whole, of files only those that are wanted
        used = np.isin(kind, [CLASSES.index(k) for k in self.classes])
        used &= np.isin(style, [STYLES.index(s) for s in self.styles])
        rows = np.flatnonzero(used)
        if table.is_file():
            everything = read_column(table, "jpeg", names, self.size, progress)
            images = everything.select(torch.from_numpy(rows))
        else:
            images = read_files([files[i] for i in rows], self.size, progress)
        y = np.array([self.classes.index(CLASSES[k]) for k in kind[rows]], dtype=np.int64)
        values = np.array([self.styles.index(STYLES[s]) for s in style[rows]], dtype=np.int64)
        ties = self.pairing()
        aligned = np.array([[ties[k] == s for s in self.styles] for k in self.classes])
        parts = biased(
            y,
            values,
            aligned,
            self.conflicting,
            test_share=self.test_share,
            val_share=self.val_share,
            seed=(seed, "pacs"),
        )
        data = labelled(
            images, y, self.classes, [names[i] for i in rows], style=(values, self.styles)
        )
        return divided(data, parts, bias="style", aligned=aligned)


def _files(folder: Path) -> tuple[list[Path], Ids, Ids]:
    """All image files, with the positions of their classes and styles."""
    files: list[Path] = []
    cells: list[tuple[int, int]] = []
    for s, style in enumerate(STYLES):
        for k, kind in enumerate(CLASSES):
            found = image_files(folder / style / kind)
            files += found
            cells += [(k, s)] * len(found)
    kinds, styles = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    return files, kinds, styles
