"""Biased FFHQ: young or old faces, where the young are nearly always women."""

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
from truecue.errors import DataError

CLASSES = ("young", "old")
GENDERS = ("female", "male")

_NAME = re.compile(r".+_([01])_([01])\.\w+")


class BFFHQ(Suite):
    """Young or old? In training, the young are nearly always women and the old are men.

    Faces of FFHQ, chosen by Kim et al. (BiasSwap, 2021) and Lee et al. (2021), with labels in the
    file names. Papers report the accuracy on conflicting test images.
    """

    source: ClassVar[str] = (
        "bFFHQ (Lee et al., Learning Debiased Representation via Disentangled Feature Augmentation,"
        " NeurIPS 2021; Kim et al., BiasSwap, ICCV 2021), from FFHQ"
    )
    licence: ClassVar[str] = "CC BY-NC-SA 4.0 (FFHQ data set; single photographs vary)"
    obtain: ClassVar[str] = (
        "the link in the README of github.com/kakaoenterprise/Learning-Debiased-Disentangled;"
        " 1, 2 and 5 % also by github.com/kakaoenterprise/BiasEnsemble"
    )
    layout: ClassVar[str] = (
        "bffhq/ with 0.5pct/align/, 0.5pct/conflict/, valid/ and test/, in each of them, or in"
        " folders inside, files named NUMBER_LABEL_BIAS.png, as in 00012_0_1.png"
    )
    counts: ClassVar[Mapping[str, int]] = {
        "align": 19104,
        "conflict": 96,
        "valid": 1000,
        "test": 1000,
    }
    folders: ClassVar[tuple[str, ...]] = ("bffhq", "bFFHQ", "BFFHQ")
    marks: ClassVar[tuple[str, ...]] = ("*pct/align",)

    percent: Annotated[float, Field(gt=0, lt=100)] = 0.5
    """Which of the published training sets, by its percentage of conflicting images: 0.5, 1, 2 or
    5."""
    size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Height and width that images are brought to."""
    complete: bool = True
    """Refuse a copy that has not the published numbers of images; those of the training images are
    known for 0.5 percent."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the faces; nothing is drawn, so the seed has no effect."""
        folder = self.folder(root)
        train = f"{self.percent:g}pct"
        places = {name: folder / train / name for name in ("align", "conflict")}
        places |= {name: folder / name for name in ("valid", "test")}
        files = {name: image_files(place, "**/*") for name, place in places.items()}
        for name, found in files.items():
            if not found:
                raise DataError(f"there are no images in {places[name]}. Expected: {self.layout}")
        if self.complete:
            known = files if self.percent == 0.5 else {n: files[n] for n in ("valid", "test")}
            check_counts("bFFHQ", self.counts, {n: len(found) for n, found in known.items()})
        every = [file for found in files.values() for file in found]
        y, gender = np.array([_codes(file) for file in every], dtype=np.int64).T
        ends = np.cumsum([len(found) for found in files.values()]).tolist()
        _check_pairs(every[: ends[1]], (y == gender)[: ends[1]], ends[0])
        data = labelled(
            read_files(every, self.size, progress),
            np.ascontiguousarray(y),
            CLASSES,
            [file.relative_to(folder).as_posix() for file in every],
            gender=(np.ascontiguousarray(gender), GENDERS),
        )
        parts = {
            "train": np.arange(ends[1]),
            "val": np.arange(ends[1], ends[2]),
            "test": np.arange(ends[2], ends[3]),
        }
        return divided(data, parts, bias="gender", aligned=np.eye(2, dtype=bool))


def _codes(file: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(file.name)
    if found is None:
        raise DataError(
            f"{file}: the name must end with label and bias (0 or 1), as in 00012_0_1.png"
        )
    return int(found[1]), int(found[2])


def _check_pairs(
    files: list[Path], same: np.ndarray[tuple[int], np.dtype[np.bool_]], n: int
) -> None:
    """The first `n` training images must be aligned by their names, the others conflicting."""
    wrong = np.flatnonzero(same != (np.arange(len(files)) < n))
    if len(wrong):
        raise DataError(
            f"{files[wrong[0]]}: by its name the image is"
            f" {'aligned' if same[wrong[0]] else 'conflicting'} (label and bias"
            f" {'agree' if same[wrong[0]] else 'differ'}), by its folder it is not"
        )
