"""Corrupted CIFAR-10: objects in pictures whose fault gives the object away, almost always."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from truecue.data.corruptions import CORRUPTIONS, Draws
from truecue.data.files import Progress, cached_folder, workers
from truecue.data.sets import ArrayFile, Attribute, ImageSet, Splits
from truecue.data.suites.assignment import assign
from truecue.data.suites.base import Suite
from truecue.data.suites.cifar10 import CLASSES, LAYOUT, MARKS, PLACES, Cifar10, read_cifar10
from truecue.data.suites.splitting import Ids, drawn
from truecue.seeds import derive

_CHUNK = 128  # images corrupted at a time: their float64 copies stay small
_MAKING = 1  # raise it when a corruption gives other pixels, so that old caches are not used


class CorruptedCIFAR10(Suite):
    """What is in the picture? Its corruption says so too, almost always.

    The protocol of Learning from Failure (Nam et al., 2020), also that of SiH and DeNetDM. Every
    image has one of ten corruptions; which image gets which is fixed by the data set's order and
    the same for every seed. A seed draws what is random in the corruptions, and the validation
    images. In the test images all corruptions are equally frequent with every class.
    `val_share = 0` is the published protocol of LfF and DeNetDM, which train on all 50,000 images
    and have no validation images.
    """

    source: ClassVar[str] = (
        "CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009),"
        " corrupted as by Nam et al., Learning from Failure, NeurIPS 2020, with the corruptions of"
        " Hendrycks and Dietterich, ICLR 2019"
    )
    licence: ClassVar[str] = "none stated (CIFAR-10)"
    obtain: ClassVar[str] = (
        "cifar-10-python.tar.gz or cifar-10-binary.tar.gz from www.cs.toronto.edu/~kriz/cifar.html,"
        " unpacked, or what torchvision.datasets.CIFAR10(root, download=True) fetches"
    )
    layout: ClassVar[str] = LAYOUT
    counts: ClassVar[Mapping[str, int]] = {"train": 50000, "test": 10000}
    checksums: ClassVar[Mapping[str, str]] = {
        "cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a",
        "cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530",
    }
    folders: ClassVar[tuple[str, ...]] = PLACES
    marks: ClassVar[tuple[str, ...]] = MARKS

    type: Literal[0, 1] = 0
    """Which ten corruptions: 0 weather, colour and processing; 1 noise, blur and none at all."""
    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the training images whose corruption is not that of their class; the papers use
    0.005, 0.01, 0.02, 0.05 and, SiH, also 0.1 and 0.2."""
    level: Annotated[int, Field(ge=1, le=5)] = 5
    """Strength of the corruptions; the papers' severity is one less, and they use severity 4."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images that becomes the (equally biased) validation set; 0: none."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read CIFAR-10 and corrupt it, or find the corrupted images in the cache.

        Args:
            root: the folder with CIFAR-10.
            seed: of the corruptions' random parts and of the validation images.
            progress: called with (images done, images in all), first while compressed images are
                decoded and then while the images of a split are corrupted.

        Raises:
            DataError: CIFAR-10 is absent or damaged; the message says what to put where.
            StorageError: the cache could not be written.
        """
        cifar = read_cifar10(root, progress)
        train = self._part(cifar, "train", 1 - self.conflicting, seed, progress)
        test = self._part(cifar, "test", 0.1, seed, progress)
        kept, val = drawn(len(train), self.val_share, seed, "corrupted_cifar10", "val")
        return Splits(
            train.select(torch.from_numpy(kept)),
            train.select(torch.from_numpy(val)) if len(val) else None,
            test,
            bias="corruption",
            aligned=torch.eye(10, dtype=torch.bool),
            notes=(*cifar.notes, *self._notes()),
        )

    def corruptions(self) -> tuple[str, ...]:
        """The corruptions, in the order of the classes that they are aligned with."""
        return tuple(CORRUPTIONS)[10 * self.type : 10 * self.type + 10]

    def _notes(self) -> tuple[str, ...]:
        if self.type == 1:
            return ()
        return ("frost is drawn by a rule; the papers lay photographs of frost over the images",)

    def _part(
        self, cifar: Cifar10, part: str, aligned: float, seed: int, progress: Progress | None
    ) -> ImageSet:
        x, y = (cifar.x_train, cifar.y_train) if part == "train" else (cifar.x_test, cifar.y_test)
        values, names = assign(y, aligned, 10), self.corruptions()

        def fill(folder: Path) -> None:
            made = np.empty((len(x), 3, 32, 32), dtype=np.uint8)
            for done, (ids, images) in enumerate(corrupt(x, values, names, self.level, seed, part)):
                made[ids] = images.transpose(0, 3, 1, 2)
                if progress is not None:
                    progress(min((done + 1) * _CHUNK, len(x)), len(x))
            np.save(folder / "images.npy", made, allow_pickle=False)

        key = (_MAKING, self.type, self.level, part, aligned, seed, cifar.key)
        folder = cached_folder("corrupted-cifar10", key, fill)
        return ImageSet(
            ArrayFile(folder / "images.npy"),
            torch.from_numpy(np.array(y)),
            CLASSES,
            {"corruption": Attribute(torch.from_numpy(values), names)},
        )


def corrupt(
    x: npt.NDArray[np.uint8],
    values: Ids,
    names: tuple[str, ...],
    level: int,
    seed: int,
    part: str,
) -> Iterator[tuple[Ids, npt.NDArray[np.uint8]]]:
    """Corrupt every image in its own way.

    What an image becomes depends on its pixels, its position, its corruption, the level, the seed
    and the part, and on nothing else: not on other images, nor on the number of threads.

    Args:
        x: uint8 [n, 32, 32, 3].
        values: int64 [n], index into `names`.
        names: which of `CORRUPTIONS`.
        level: 1 to 5.
        seed: of what is random.
        part: name of the split, so that no two splits have the same random numbers.

    Yields:
        Positions int64 [m], and what the images there became, uint8 [m, 32, 32, 3].
    """

    def work(name: str, ids: Ids) -> tuple[Ids, npt.NDArray[np.uint8]]:
        draws = Draws(derive(seed, "corrupted_cifar10", part, name, i) for i in ids.tolist())
        return ids, CORRUPTIONS[name](x[ids], level, draws)

    chunks = [
        (name, ids)
        for value, name in enumerate(names)
        for ids in _cut(np.flatnonzero(values == value))
    ]
    # numpy, scipy and Pillow let go of the interpreter's lock while they compute
    with ThreadPoolExecutor(workers()) as pool:
        yield from pool.map(work, *zip(*chunks, strict=True))


def _cut(ids: Ids) -> Iterator[Ids]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
