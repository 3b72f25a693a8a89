"""Biased Action Recognition: six actions, each nearly always photographed in one kind of place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from truecue.data.files import Progress
from truecue.data.sets import Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.published import (
    check_counts,
    divided,
    image_files,
    labelled,
    read_files,
)
from truecue.data.suites.splitting import stratified
from truecue.errors import DataError

CLASSES = ("climbing", "diving", "fishing", "racing", "throwing", "pole vaulting")
"""The six actions, in the order of the paper's code."""

_NAME = re.compile(r"(.+)_\d+\.\w+")


class BAR(Suite):
    """Which action is it? The place says so too, in training: climbers are on rock walls.

    Biased Action Recognition (Nam et al., Learning from Failure, 2020): real photographs. In the
    training images every action takes place where it usually does, in the test images it does not:
    all test images conflict with the bias. The places themselves are not labelled, so there are no
    groups; the accuracy on the test images is the conflicting accuracy that papers report.
    """

    source: ClassVar[str] = (
        "Biased Action Recognition (Nam et al., Learning from Failure, NeurIPS 2020), from imSitu,"
        " Stanford 40 Actions, Flickr and Google Image Search"
    )
    licence: ClassVar[str] = "none stated (photographs of many owners)"
    obtain: ClassVar[str] = "the repository github.com/alinlab/BAR (clone it)"
    layout: ClassVar[str] = (
        "bar/train/ and bar/test/ with the photographs under their original names,"
        " climbing_0.jpg to pole vaulting_409.jpg; the folder may also be called BAR, or be the"
        " root itself"
    )
    counts: ClassVar[Mapping[str, int]] = {"train": 1941, "test": 654}
    folders: ClassVar[tuple[str, ...]] = ("bar", "BAR")
    marks: ClassVar[tuple[str, ...]] = ("train/climbing_*.*",)

    size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Height and width that images are brought to."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images of each class that is for validation; 0: none."""
    complete: bool = True
    """Refuse a copy that has not the published numbers of images."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the photographs; the validation images are drawn from the training images."""
        folder = self.folder(root)
        given = {split: image_files(folder / split) for split in ("train", "test")}
        if self.complete:
            check_counts("BAR", self.counts, {split: len(files) for split, files in given.items()})
        files = [*given["train"], *given["test"]]
        y = np.array([_label(file) for file in files], dtype=np.int64)
        n = len(given["train"])
        kept, val = stratified(y[:n], self.val_share, seed, "bar", "val")
        data = labelled(
            read_files(files, self.size, progress),
            y,
            CLASSES,
            [file.relative_to(folder).as_posix() for file in files],
        )
        return divided(
            data,
            {"train": kept, "val": val, "test": np.arange(n, len(files))},
            notes=(
                "all test images conflict with the bias: no action is in its usual place; places"
                " are not labelled, so there are no groups",
            ),
        )


def _label(file: Path) -> int:
    found = _NAME.fullmatch(file.name)
    if found is None or found[1] not in CLASSES:
        raise DataError(
            f"{file}: the name must begin with one of {', '.join(CLASSES)} and end with _ and a"
            " number, as in climbing_12.jpg"
        )
    return CLASSES.index(found[1])
