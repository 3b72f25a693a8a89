"""Which image gets which colour, and how a grey digit is coloured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truecue.data.sets import Attribute
from truecue.data.suites.assignment import assign
from truecue.data.suites.splitting import Ids
from truecue.seeds import derive

NAMES = (
    "orange red",
    "yellow",
    "mauve",
    "sage",
    "sky blue",
    "light green",
    "dark blue",
    "purple",
    "dark green",
    "crimson",
)
"""What the colours of `PALETTE` look like."""

# The palette of Learning from Failure (Nam et al., 2020), also used by SiH and DeNetDM.
PALETTE = np.array(
    [
        [0.98368233, 0.31251901, 0.16857535],
        [0.99052966, 0.91560525, 0.35151219],
        [0.67296398, 0.46107048, 0.57980818],
        [0.78325194, 0.83155590, 0.60132939],
        [0.08801579, 0.77796334, 0.98180777],
        [0.32139337, 0.96105456, 0.44644988],
        [0.02461588, 0.23565048, 0.75866628],
        [0.55524695, 0.10158014, 0.76176316],
        [0.20772320, 0.39294851, 0.01870239],
        [0.83365762, 0.20240927, 0.26694310],
    ],
    dtype=np.float32,
)
"""float32 [10, 3], red, green and blue in [0, 1]. Digit d is aligned with colour d."""

BRIGHT_NAMES = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "violet",
    "magenta",
    "rose",
    "white",
)
"""What the colours of `BRIGHT` look like."""

BRIGHT = (
    np.array(
        [
            [255, 50, 50],
            [255, 145, 0],
            [255, 240, 30],
            [50, 230, 80],
            [60, 240, 255],
            [70, 110, 255],
            [160, 70, 255],
            [255, 50, 230],
            [255, 180, 200],
            [255, 255, 255],
        ],
        dtype=np.float32,
    )
    / 255
)
"""float32 [10, 3]: ten colours of full brightness that are easy to tell apart. In `PALETTE` two
are so dark that networks give up the shape of digits that they go with."""

SIGMAS = (0.05, 0.02, 0.01, 0.005, 0.002)
"""Standard deviation of the colour noise for severity 1 to 5; the papers use severity 4."""

_CHUNK = 256  # images coloured at a time: their float32 product stays in the processor's cache


class Colours(NamedTuple):
    """The colours of images: which one, and the noise on it."""

    values: Ids
    """int64 [n], rows of the palette."""
    noise: npt.NDArray[np.float32]
    """float32 [n, 3], one triple for all pixels of an image."""
    bright: bool = False
    """Whether colours are those of `BRIGHT` instead of `PALETTE`."""

    def attribute(self, ids: Ids) -> Attribute:
        """The colours of some images as the misleading attribute."""
        return Attribute(torch.from_numpy(self.values[ids]), BRIGHT_NAMES if self.bright else NAMES)

    def paint(self, grey: npt.NDArray[np.uint8], ids: Ids) -> Tensor:
        """Some of the grey images [n, h, w] in their colours: uint8 [len(ids), 3, h, w].

        A pixel is the palette's colour plus the noise, cut to [0, 1], times the grey value, and
        truncated to an integer.
        """
        palette = BRIGHT if self.bright else PALETTE
        tints = np.clip(palette[self.values[ids]] + self.noise[ids], 0, 1)
        painted = np.empty((len(ids), 3, *grey.shape[1:]), dtype=np.uint8)
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            product = grey[ids[part], None].astype(np.float32) * tints[part, :, None, None]
            painted[part] = product  # the cast truncates, as the published code does
        return torch.from_numpy(painted)


def draw_colours(
    y: Ids, aligned: float, severity: int, seed: int, *, bright: bool = False
) -> Colours:
    """Give every digit a colour.

    Args:
        y: int64 [n], digits 0..9, in the data set's order, which decides who gets which colour.
        aligned: share of the images whose colour is that of their digit, in [0, 1].
        severity: 1 to 5, see `SIGMAS`.
        seed: of the colour noise.
        bright: use `BRIGHT`, not the published `PALETTE`.
    """
    draw = np.random.default_rng(derive(seed, "colour noise"))
    noise = draw.standard_normal((len(y), 3), dtype=np.float32) * np.float32(SIGMAS[severity - 1])
    return Colours(assign(y, aligned, len(PALETTE)), noise, bright)
