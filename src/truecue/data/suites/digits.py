"""Coloured digits made from the handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch.nn import functional

from truecue.data.files import cached_arrays
from truecue.data.sets import ImageSet, Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.colour import draw_colours
from truecue.data.suites.splitting import Ids, stratified
from truecue.seeds import derive

_SIDE = 28
_TEST_SOURCES = 0.3  # share of the source digits that only test images are made from
_VAL_SOURCES = 0.15  # of the others, where validation images are wanted
_TURN = 15.0  # degrees, largest rotation
_SCALE = (0.7, 0.95)  # size of the digit's 8 x 8 field relative to the image
_SHIFT = 0.1  # largest shift, relative to the image


class Digits(Suite):
    """Which digit is it? Its colour says so too, almost always.

    1,797 real handwritten digits of 8 x 8 pixels are divided among the splits first, and only then
    turned into many larger ones by random shift, scale and rotation, so that no test image comes
    from a digit that was trained on. Which image gets which of ten colours is decided as for
    Colored MNIST. In the test images all colours are equally frequent with every digit.
    """

    source: ClassVar[str] = (
        "scikit-learn's copy of the test set of Optical Recognition of Handwritten Digits"
        " (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998)"
    )
    licence: ClassVar[str] = "CC BY 4.0"
    self_made: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any]] = {"coloured": False}

    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the training and validation images whose colour is not that of their digit."""
    severity: Annotated[int, Field(ge=1, le=5)] = 4
    """Colour noise; 1 is the strongest (standard deviation 0.05), 5 the weakest (0.002)."""
    train_size: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Number of training images."""
    test_size: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Number of test images."""
    val_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Number of validation images relative to `train_size`; 0 makes none."""
    coloured: bool = True
    """False leaves the digits grey, without a known bias."""

    def load(self, root: Path | str | None = None, *, seed: int = 0) -> Splits:
        """Divide, enlarge and colour the digits."""
        source = cached_arrays("digits", (1,), _read)
        small, y = source["images"], source["y"]
        rest, test = stratified(y, _TEST_SOURCES, seed, "digits", "test")
        val_size = round(self.val_share * self.train_size)
        kept, val = stratified(y[rest], _VAL_SOURCES if val_size else 0, seed, "digits", "val")

        def part(name: str, sources: Ids, size: int, aligned: float) -> ImageSet:
            chosen = _repeat(sources, size, derive(seed, "digits", name, "order"))
            grey = _enlarge(small[chosen], derive(seed, "digits", name, "enlarge"))
            images, attributes = torch.from_numpy(np.repeat(grey[:, None], 3, axis=1)), {}
            if self.coloured:
                noise = derive(seed, "digits", name)
                colours = draw_colours(y[chosen], aligned, self.severity, noise, bright=True)
                every = np.arange(size)
                images = colours.paint(grey, every)
                attributes = {"colour": colours.attribute(every)}
            return ImageSet(
                images,
                torch.from_numpy(y[chosen]),
                tuple("0123456789"),
                attributes,
                tuple(f"digit {i}" for i in chosen.tolist()),
            )

        return Splits(
            part("train", rest[kept], self.train_size, 1 - self.conflicting),
            part("val", rest[val], val_size, 1 - self.conflicting) if val_size else None,
            part("test", test, self.test_size, 0.1),
            bias="colour" if self.coloured else None,
            aligned=torch.eye(10, dtype=torch.bool) if self.coloured else None,
        )


def _read() -> dict[str, npt.NDArray[Any]]:
    """scikit-learn's digits: float32 [n, 8, 8] with values 0..16, and labels int64 [n]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return {"images": data.images.astype(np.float32), "y": data.target.astype(np.int64)}


def _repeat(sources: Ids, size: int, seed: int) -> Ids:
    """Positions of source digits, each as often as any other (give or take one), shuffled."""
    draw = np.random.default_rng(seed)
    rounds = -(-size // len(sources))
    order = np.concatenate([draw.permutation(sources) for _ in range(rounds)])[:size]
    return draw.permutation(order)


def _enlarge(small: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.uint8]:
    """Digits [n, 8, 8] with values 0..16 as uint8 [n, 28, 28], each moved in its own way."""
    draw = np.random.default_rng(seed)
    n = len(small)
    angle = np.deg2rad(draw.uniform(-_TURN, _TURN, n))
    scale = draw.uniform(*_SCALE, n)
    # the grid maps places of the result to places of the source, hence the division
    cos, sin = (f(angle)[:, None, None] / scale[:, None, None] for f in (np.cos, np.sin))
    shift = draw.uniform(-2 * _SHIFT, 2 * _SHIFT, (2, n, 1, 1))  # in units of half the image
    along = (2 * np.arange(_SIDE) + 1) / _SIDE - 1  # centres of the pixels
    x, y = along[None, None, :], along[None, :, None]
    # written out, because torch's affine_grid takes ten times as long for many small images
    grid = np.stack([cos * x - sin * y + shift[0], sin * x + cos * y + shift[1]], axis=-1)
    large = functional.grid_sample(
        torch.from_numpy(small)[:, None] * (255 / 16),
        torch.from_numpy(grid.astype(np.float32)),
        align_corners=False,
    )
    return large[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
