"""What corruptions do to pixels in common."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from truecue.data.corruptions.draws import Floats

Images = npt.NDArray[np.uint8]
"""uint8 [n, 32, 32, 3]."""
Indices = npt.NDArray[np.int64]

SIDE = 32
"""Height and width: the corruptions' parameters are those for CIFAR-10."""


def unit(images: Images) -> Floats:
    """Bytes as float64 in [0, 1]."""
    return images / np.float64(255)


def to_bytes(x: Floats) -> Images:
    """Values cut to [0, 1] as bytes, truncated as in the published code."""
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def rounded(x: Floats) -> Images:
    """Values on the scale of bytes, rounded half up and cut to 0..255."""
    return np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)


def gaussian(
    x: npt.NDArray[Any],
    sigma: float,
    *,
    mode: Literal["nearest", "reflect"] = "nearest",
    truncate: float = 4,
) -> Floats:
    """Gaussian blur of images [n, h, w] or [n, h, w, c] along h and w.

    Args:
        x: the images.
        sigma: standard deviation in pixels; 0 changes nothing.
        mode: what lies beyond the border: the border pixel, or the image mirrored (edge included).
        truncate: the kernel ends at this many standard deviations.
    """
    from scipy import ndimage

    sigmas = (0, sigma, sigma, 0)[: x.ndim]
    blurred: Floats = ndimage.gaussian_filter(
        x.astype(np.float64, copy=False), sigmas, mode=mode, truncate=truncate
    )
    return blurred


def grey(x: Floats) -> Floats:
    """Luma (ITU-R BT.601) of images [..., 3]."""
    return x[..., 0] * 0.299 + x[..., 1] * 0.587 + x[..., 2] * 0.114


def enlarge(x: Floats, factor: float) -> Floats:
    """The middle of images [n, 32, 32, ...], enlarged to the whole image.

    The middle `ceil(32 / factor)` pixels are enlarged by `factor` with linear interpolation,
    corners on corners, and what is beyond 32 pixels is cut off on both sides.
    """
    taken = int(np.ceil(SIDE / factor))
    made = round(taken * factor)
    first, cut = (SIDE - taken) // 2, (made - SIDE) // 2
    place = np.arange(cut, cut + SIDE) * ((taken - 1) / (made - 1))
    low = np.minimum(place.astype(np.int64), taken - 1)
    high = np.minimum(low + 1, taken - 1)
    for axis in (1, 2):
        part = (place - low).reshape(-1, *[1] * (x.ndim - axis - 1))
        below, above = (x.take(first + i, axis) for i in (low, high))
        x = below + (above - below) * part
    return x


def sample(
    x: Floats, rows: Floats, columns: Floats, border: Literal["reflect", "mirror"]
) -> Floats:
    """Values of images [n, h, w, c] at fractional places, by linear interpolation.

    Args:
        x: the images.
        rows: [n, h', w'].
        columns: [n, h', w'].
        border: what lies beyond the border: the image mirrored with its edge repeated (reflect) or
            not (mirror).

    Returns:
        float64 [n, h', w', c].
    """
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    each = np.arange(len(x))[:, None, None]

    def at(row: Floats, column: Floats) -> Floats:
        i = fold(row.astype(np.int64), x.shape[1], border)
        j = fold(column.astype(np.int64), x.shape[2], border)
        picked: Floats = x[each, i, j]
        return picked

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def fold(index: Indices, size: int, border: Literal["reflect", "mirror"]) -> Indices:
    """Positions beyond 0..size-1 moved to where a mirrored image repeats them."""
    if border == "mirror":
        period = 2 * size - 2
        index = index % period
        return np.minimum(index, period - index)
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)
