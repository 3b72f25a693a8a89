"""Waterbirds: birds cut out and pasted on land or on water."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

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

CLASSES = ("landbird", "waterbird")
PLACES = ("land", "water")

_TABLE = "metadata.csv"
_SPLITS = ("train", "val", "test")


class Waterbirds(Suite):
    """Landbird or waterbird? In training, the background says so too, in 95 of 100 images.

    Birds of CUB-200-2011 pasted on backgrounds of Places (Sagawa et al., Group DRO, 2020). In the
    validation and test images every class is on land and on water equally often, but there are more
    landbirds than waterbirds. The splits are those of the paper.
    """

    source: ClassVar[str] = (
        "Waterbirds (Sagawa, Koh, Hashimoto and Liang, Distributionally Robust Neural Networks for"
        " Group Shifts, ICLR 2020), from CUB-200-2011 and Places365"
    )
    licence: ClassVar[str] = "none stated (CUB-200-2011 and Places365: non-commercial research)"
    obtain: ClassVar[str] = (
        "waterbird_complete95_forest2water2.tar.gz, linked in the README of"
        " github.com/kohpangwei/group_DRO"
    )
    layout: ClassVar[str] = (
        "waterbird_complete95_forest2water2/ with metadata.csv (columns img_filename, y, split and"
        " place) and the folders of birds, 001.Black_footed_Albatross/ and so on; the folder may"
        " also be called waterbirds, or be the root itself"
    )
    counts: ClassVar[Mapping[str, int]] = {
        "train": 4795,
        "train: landbird, land": 3498,
        "train: landbird, water": 184,
        "train: waterbird, land": 56,
        "train: waterbird, water": 1057,
        "val": 1199,
        "val: landbird, land": 467,
        "val: landbird, water": 466,
        "val: waterbird, land": 133,
        "val: waterbird, water": 133,
        "test": 5794,
        "test: landbird, land": 2255,
        "test: landbird, water": 2255,
        "test: waterbird, land": 642,
        "test: waterbird, water": 642,
    }
    folders: ClassVar[tuple[str, ...]] = ("waterbird_complete95_forest2water2", "waterbirds")
    marks: ClassVar[tuple[str, ...]] = (_TABLE,)

    size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Height and width that images are brought to."""
    complete: bool = True
    """Refuse a copy that has not the published number of images in every group."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the images; nothing is drawn, so the seed has no effect."""
        folder = self.folder(root)
        wanted = ("img_filename", "y", "split", "place")
        names, labels, splits, places = columns_of(
            read_table(folder / _TABLE, wanted), wanted, _TABLE
        )
        y = coded(labels, CLASSES, f"{_TABLE}, column y")
        place = coded(places, PLACES, f"{_TABLE}, column place")
        parts = given_parts(coded(splits, _SPLITS, f"{_TABLE}, column split"))
        if self.complete:
            check_counts("Waterbirds", self.counts, found_counts(parts, y, CLASSES, place, PLACES))
        images = read_files([folder / name for name in names], self.size, progress)
        data = labelled(images, y, CLASSES, names, place=(place, PLACES))
        return divided(data, parts, bias="place", aligned=np.eye(2, dtype=bool))
