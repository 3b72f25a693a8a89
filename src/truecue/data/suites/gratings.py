"""Faint gratings under a tint: a data set of seconds for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.data.suites.assignment import assign
from truecue.data.suites.base import Suite
from truecue.seeds import derive

_SIDE = 16
_PERIOD = 4.0  # pixels
_CONTRAST = 0.12  # amplitude of the grating; pixel values lie in [0, 1]
_NOISE = 0.10  # standard deviation, each pixel and channel on its own
_TINT = 0.2  # how far a tint moves red and blue apart
_SIZES = {"train": 1024, "val": 256, "test": 512}


class Gratings(Suite):
    """Is the grating horizontal or vertical? The tint says so too, almost always, and is easier.

    1,024 training, 256 validation and 512 test images of 3 x 16 x 16 in two classes. A fully
    connected network, the default, follows the tint: its worst group stays below 20 %, while the
    average over training images is 98 %. So does a convolutional network in its first epochs;
    trained for long it finds the grating. With `conflicting = 0.5` the tint says nothing, and both
    reach about 100 %.
    """

    source: ClassVar[str] = "made by the package from sines and noise"
    licence: ClassVar[str] = "Apache-2.0, as the package"
    counts: ClassVar[Mapping[str, int]] = _SIZES
    self_made: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any]] = {"conflicting": 0.5}

    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the training and validation images whose tint is that of the other class."""

    def load(self, root: Path | str | None = None, *, seed: int = 0) -> Splits:
        """Make the three splits; the test images show each tint as often with each class."""
        return Splits(
            _part("train", 1 - self.conflicting, seed),
            _part("val", 1 - self.conflicting, seed),
            _part("test", 0.5, seed),
            bias="tint",
            aligned=torch.eye(2, dtype=torch.bool),
        )


def _part(name: str, aligned: float, seed: int) -> ImageSet:
    draw = np.random.default_rng(derive(seed, "gratings", name))
    n = _SIZES[name]
    y = draw.permutation(np.arange(n) % 2)
    tint = assign(y, aligned, 2)

    across = np.arange(_SIDE, dtype=np.float32) * np.float32(2 * np.pi / _PERIOD)
    phase = draw.uniform(0, 2 * np.pi, (n, 1)).astype(np.float32)
    wave = _CONTRAST * np.sin(across + phase)  # [n, side]
    vertical = (y == 1)[:, None, None]
    grating = np.where(vertical, wave[:, None, :], wave[:, :, None])

    image = 0.5 + _NOISE * draw.standard_normal((n, 3, _SIDE, _SIDE), dtype=np.float32)
    image += grating[:, None]
    side = np.where(tint == 0, 1, -1)[:, None].astype(np.float32)  # warm or cold
    image += (side * np.array([_TINT, 0, -_TINT], dtype=np.float32))[:, :, None, None]
    return ImageSet(
        torch.from_numpy((np.clip(image, 0, 1) * 255).astype(np.uint8)),
        torch.from_numpy(y),
        ("horizontal", "vertical"),
        {"tint": Attribute(torch.from_numpy(tint), ("warm", "cold"))},
    )
