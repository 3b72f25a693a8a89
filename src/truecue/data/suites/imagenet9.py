"""ImageNet-9: nine kinds of things on their own and on other things' backgrounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

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
from truecue.data.suites.splitting import Ids, stratified
from truecue.errors import DataError

CLASSES = (
    "dog",
    "bird",
    "wheeled vehicle",
    "reptile",
    "carnivore",
    "insect",
    "musical instrument",
    "primate",
    "fish",
)
"""In the order of the numbers that the folders begin with."""

BACKGROUNDS = {
    "mixed_rand": "of a random class",
    "mixed_same": "of the same class",
    "mixed_next": "of the next class",
    "only_fg": "black",
}
"""What the background of a test variant is."""


class ImageNet9(Suite):
    """What is it? The background says so too, and in half of the test images it does not.

    ImageNet-9 (Xiao et al., Noise or Signal, 2021): training images as they are; test images as
    they are (background `own`) and once more on another background. The gap between the two groups
    is what a classifier owes to backgrounds.
    """

    source: ClassVar[str] = (
        "ImageNet-9 and the Backgrounds Challenge (Xiao, Engstrom, Ilyas and Madry, Noise or"
        " Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021), from ImageNet"
    )
    licence: ClassVar[str] = "non-commercial research only (terms of ImageNet)"
    obtain: ClassVar[str] = (
        "github.com/MadryLab/backgrounds_challenge: test images in its release, training images"
        " (original.tar.gz or in9l.tar.gz) by the links in its README"
    )
    layout: ClassVar[str] = (
        "imagenet9/ or bg_challenge/ with original/train/00_dog/ to original/train/08_fish/ (or"
        " in9l/train/), original/val/00_dog/ and so on, and mixed_rand/val/00_dog/ and so on. The"
        " val folders must be those of the release, not those that come with training images"
    )
    counts: ClassVar[Mapping[str, int]] = {
        "original/train": 45405,
        "original/val": 4050,
        "mixed_rand/val": 4050,
        "mixed_same/val": 4050,
        "mixed_next/val": 4050,
        "only_fg/val": 4050,
    }
    folders: ClassVar[tuple[str, ...]] = ("imagenet9", "bg_challenge", "imagenet9/bg_challenge")
    marks: ClassVar[tuple[str, ...]] = ("original/val/00_*",)

    train: Literal["original", "in9l"] = "original"
    """The training images: those of ImageNet-9, or the larger set IN-9L."""
    variant: Literal["mixed_rand", "mixed_same", "mixed_next", "only_fg"] = "mixed_rand"
    """The test images on another background."""
    size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Height and width that images are brought to."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images of each class that is for validation; 0: none."""
    complete: bool = True
    """Refuse a copy that has not the published numbers of images; that of IN-9L is not checked."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the images; the validation images are drawn from the training images."""
        folder = self.folder(root)
        places = (f"{self.train}/train", "original/val", f"{self.variant}/val")
        found = {place: _images(folder / place) for place in places}
        sizes = {place: len(files) for place, (files, _) in found.items()}
        if self.complete:
            known = {place: n for place, n in sizes.items() if place in self.counts}
            check_counts("ImageNet-9", self.counts, known)
        files = [file for listed, _ in found.values() for file in listed]
        y = np.concatenate([codes for _, codes in found.values()])
        n, other = sizes[places[0]], sizes[places[0]] + sizes[places[1]]
        kept, val = stratified(y[:n], self.val_share, seed, "imagenet9", "val")
        data = labelled(
            read_files(files, self.size, progress),
            y,
            CLASSES,
            [file.relative_to(folder).as_posix() for file in files],
            background=(
                (np.arange(len(files)) >= other).astype(np.int64),
                ("own", BACKGROUNDS[self.variant]),
            ),
        )
        return divided(
            data,
            {"train": kept, "val": val, "test": np.arange(n, len(files))},
            bias="background",
            aligned=np.tile([True, False], (len(CLASSES), 1)),
            notes=(
                "all training images have their own background; the test images are shown on their"
                f" own background and on one that is {BACKGROUNDS[self.variant]}",
            ),
        )


def _images(folder: Path) -> tuple[list[Path], Ids]:
    """The image files of the nine classes, with their labels: int64 [n]."""
    files: list[Path] = []
    labels: list[int] = []
    for k, kind in enumerate(CLASSES):
        inside = [path for path in sorted(folder.glob(f"{k:02}_*")) if path.is_dir()]
        found = [file for path in inside for file in image_files(path)]
        if not found:
            raise DataError(
                f"{folder} has no images of class '{kind}' (a folder {k:02}_{kind}). Expected:"
                f" {ImageNet9.layout}"
            )
        files += found
        labels += [k] * len(found)
    return files, np.array(labels, dtype=np.int64)
