"""Biased MNIST: handwritten digits on a ground whose colour gives the digit away, almost always."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.data.suites.mnist import Arrays, OfMNIST, read_mnist
from truecue.data.suites.splitting import Ids, drawn
from truecue.seeds import derive

# The palette of ReBias (Bahng et al., 2020); FairKL changes the last one.
_COLOURS = (
    ("red", (255, 0, 0)),
    ("green", (0, 255, 0)),
    ("blue", (0, 0, 255)),
    ("yellow", (225, 225, 0)),
    ("magenta", (225, 0, 225)),
    ("cyan", (0, 255, 255)),
    ("orange", (255, 128, 0)),
    ("rose", (255, 0, 128)),
    ("violet", (128, 0, 255)),
)
_LAST = {"background": ("spring green", (50, 255, 128)), "digit": ("grey", (128, 128, 128))}

_CHUNK = 256  # images coloured at a time, so that they stay in the processor's cache


class BiasedMNIST(OfMNIST):
    """Which digit is it? The colour of the ground says so too, almost always.

    The set of ReBias (Bahng et al., 2020) as FairKL uses it: each digit in white on one of ten
    colours. A seed draws which images have the colour of another digit, and the validation images.
    In the test images all colours are about equally frequent with every digit. `val_share = 0` is
    the published protocol, which trains on all 60,000 images.
    """

    source: ClassVar[str] = (
        "MNIST (LeCun, Cortes and Burges, 1998), coloured as by Bahng et al., Learning De-biased"
        " Representations with Biased Representations, ICML 2020, in the version of Barbano et al.,"
        " Unbiased Supervised Contrastive Learning, ICLR 2023"
    )

    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the training images whose colour is that of another digit, one less the papers'
    rho; they use 0.001, 0.003, 0.005 and 0.01."""
    coloured: Literal["background", "digit"] = "background"
    """What is coloured: the ground (the digit is white), or the digit (the ground is black)."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images that becomes the (equally biased) validation set; 0: none."""
    train_size: Annotated[int, Field(ge=100, le=60_000)] = 60_000
    """Images drawn from MNIST's training images, before they are coloured and divided."""
    test_size: Annotated[int, Field(ge=100, le=10_000)] = 10_000
    """Images drawn from MNIST's test images, before they are coloured."""

    def load(self, root: Path | str | None = None, *, seed: int = 0) -> Splits:
        """Read MNIST and colour it."""
        mnist = read_mnist(root)
        ids, ids_test = self._drawn(mnist, "train", seed), self._drawn(mnist, "test", seed)
        y, y_test = mnist["y_train"][ids], mnist["y_test"][ids_test]
        # colours are given before the images are divided, so that the validation images are as
        # biased as the training images
        values = shuffle_colours(y, 1 - self.conflicting, derive(seed, "biased_mnist", "train"))
        kept, val = drawn(len(y), self.val_share, seed, "biased_mnist", "val")
        test = shuffle_colours(y_test, 0.1, derive(seed, "biased_mnist", "test"))
        x = mnist["x_train"]
        return Splits(
            self._part(x[ids[kept]], y[kept], values[kept]),
            self._part(x[ids[val]], y[val], values[val]) if len(val) else None,
            self._part(mnist["x_test"][ids_test], y_test, test),
            bias="colour",
            aligned=torch.eye(10, dtype=torch.bool),
        )

    def _drawn(self, mnist: Arrays, part: Literal["train", "test"], seed: int) -> Ids:
        """Sorted positions of the images that are used; all, where MNIST has no more."""
        n = len(mnist[f"y_{part}"])
        wanted = min(n, self.train_size if part == "train" else self.test_size)
        order = np.random.default_rng(derive(seed, "biased_mnist", "size", part)).permutation(n)
        return np.sort(order[:wanted])

    def _part(self, grey: npt.NDArray[np.uint8], y: Ids, values: Ids) -> ImageSet:
        names, palette = zip(*_COLOURS, _LAST[self.coloured], strict=True)
        tints = np.array(palette, dtype=np.uint8)[values, :, None, None]
        # with 255 where there is ink and 0 elsewhere, "or" gives white ink on a coloured ground and
        # "and" coloured ink on a black one
        lay = np.bitwise_or if self.coloured == "background" else np.bitwise_and
        images = np.empty((len(grey), 3, *grey.shape[1:]), dtype=np.uint8)
        for start in range(0, len(grey), _CHUNK):
            part = slice(start, start + _CHUNK)
            ink = np.where(grey[part, None] > 0, np.uint8(255), np.uint8(0))
            lay(ink, tints[part], out=images[part])
        return ImageSet(
            torch.from_numpy(images),
            torch.from_numpy(y),
            tuple("0123456789"),
            {"colour": Attribute(torch.from_numpy(values), names)},
        )


def shuffle_colours(y: Ids, aligned: float, seed: int) -> Ids:
    """Which image gets which of ten colours.

    Of the n shuffled images of a class, `int(n * aligned)` get the class's colour. The rest is cut
    into pieces of `ceil(rest / 9)`, and each piece gets another of the other colours, in shuffled
    order; where the rest is small, some colours get none.

    Args:
        y: int64 [n], digits 0..9.
        aligned: the papers' rho, in [0, 1]; 0.1 makes the colour independent of the digit.
        seed: of the shuffling.

    Returns:
        int64 [n].
    """
    draw = np.random.default_rng(seed)
    given = y.copy()
    for label in range(10):
        places = draw.permutation(np.flatnonzero(y == label))
        others = draw.permutation(np.delete(np.arange(10), label))
        rest = places[int(len(places) * aligned) :]
        given[rest] = others[np.arange(len(rest)) // max(1, -(-len(rest) // 9))]
    return given
