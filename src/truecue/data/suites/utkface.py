"""UTKFace: faces with gender, age and race, of which one is the label and one the bias."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

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
from truecue.data.suites.splitting import Ids, biased
from truecue.errors import DataError

VALUES = {
    "gender": ("male", "female"),
    "age": ("20 or older", "10 or younger"),
    "race": ("white", "not white"),
}
"""The two values of each attribute; faces of 11 to 19 years have no value of age."""

_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\.jpe?g(\.chip\.jpg)?", re.IGNORECASE)

Name = Literal["gender", "age", "race"]


class UTKFace(Suite):
    """Man or woman? In training, the age (or the race) says so too, in 10 of 11 images.

    Faces labelled with gender, age and race in their file names (Zhang et al., 2017), made binary
    and biased as by Hong and Yang (2021): men go with an age of 20 or more, women with 10 or less;
    or men with white, women with not white. As many training images of each class are used as the
    share of conflicting ones allows. Of each cell, the test images are equally many.
    """

    source: ClassVar[str] = (
        "UTKFace, aligned and cropped (Zhang, Song and Qi, Age Progression/Regression by"
        " Conditional Adversarial Autoencoder, CVPR 2017); biased as by Hong and Yang, Unbiased"
        " Classification through Bias-Contrastive and Bias-Balanced Learning, NeurIPS 2021"
    )
    licence: ClassVar[str] = "non-commercial research only (photographs of many owners)"
    obtain: ClassVar[str] = "susanqq.github.io/UTKFace (Aligned and Cropped Faces, UTKFace.tar.gz)"
    layout: ClassVar[str] = (
        "UTKFace/ or utkface/ with the files AGE_GENDER_RACE_DATE.jpg.chip.jpg, as in"
        " 26_1_0_20170116184024662.jpg.chip.jpg, directly or in images/"
    )
    counts: ClassVar[Mapping[str, int]] = {"images": 23708}
    folders: ClassVar[tuple[str, ...]] = (
        "UTKFace",
        "utkface",
        "utk_face",
        "UTKFace/images",
        "utkface/images",
        "utk_face/images",
    )
    marks: ClassVar[tuple[str, ...]] = ("[0-9]*_[01]_[0-4]_*.jpg",)

    target: Name = "gender"
    """The attribute that is the label."""
    bias: Name = "age"
    """The attribute that misleads."""
    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.0909
    """Share of the training and validation images of each class that are conflicting; the paper has
    10 of them for each 100 aligned ones."""
    size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Height and width that images are brought to."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the images not used for testing that is for validation; 0: none."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the smallest group that is for testing; of each group as many images are."""
    complete: bool = True
    """Refuse a copy that has not the published number of images."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target == self.bias:
            raise ValueError(f"target and bias must be two attributes; both are {self.target}")
        return self

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the faces and draw the splits."""
        folder = self.folder(root)
        every = image_files(folder)
        if self.complete:
            check_counts("UTKFace", self.counts, {"images": len(every)})
        files, found = _attributes(every)
        known = (found[self.target] >= 0) & (found[self.bias] >= 0)
        files = [file for file, kept in zip(files, known, strict=True) if kept]
        if not files:
            raise DataError(f"{folder} has no image with a known {self.target} and {self.bias}")
        y, values = found[self.target][known], found[self.bias][known]
        aligned = np.eye(2, dtype=bool)
        parts = biased(
            y,
            values,
            aligned,
            self.conflicting,
            test_share=self.test_share,
            val_share=self.val_share,
            balanced=False,
            seed=(seed, "utkface"),
        )
        data = labelled(
            read_files(files, self.size, progress),
            y,
            VALUES[self.target],
            [file.name for file in files],
            **{self.bias: (values, VALUES[self.bias])},
        )
        notes: tuple[str, ...] = ()
        strange = len(every) - len(known)
        if strange:
            images = "1 image was" if strange == 1 else f"{strange:,} images were"
            notes = (f"{images} left out: the file name has not age, gender, race and date",)
        return divided(data, parts, bias=self.bias, aligned=aligned, notes=notes)


def _attributes(files: list[Path]) -> tuple[list[Path], dict[str, Ids]]:
    """The files whose names can be read, and 0, 1 or -1 (neither) for each attribute: int64 [n]."""
    named = [(file, found) for file in files if (found := _NAME.fullmatch(file.name))]
    age, gender, race = (
        np.array([int(found[i]) for _, found in named], dtype=np.int64) for i in (1, 2, 3)
    )
    return [file for file, _ in named], {
        "gender": gender,
        "age": np.where(age >= 20, 0, np.where(age <= 10, 1, -1)),
        "race": (race > 0).astype(np.int64),
    }
