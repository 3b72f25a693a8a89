"""Drops of water and mud on the lens, with the image operations that drawing them takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from truecue.data.corruptions.draws import Draws, Floats
from truecue.data.corruptions.pixels import SIDE, Images, gaussian, rounded, to_bytes, unit

# mean and deviation of the liquid, its smoothness, what is left out, strength or softness
_SPATTER = (
    (0.62, 0.1, 0.7, 0.7, 0.5),
    (0.65, 0.1, 0.8, 0.7, 0.5),
    (0.65, 0.3, 1, 0.69, 0.5),
    (0.65, 0.1, 0.7, 0.69, 0.6),
    (0.65, 0.1, 0.5, 0.68, 0.6),
)
_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
_FAR = 20.0  # distances beyond count as this one
# steps of the distance and their lengths: along a side, a diagonal, and a knight's move
_STEPS = [
    (dy, dx, {1: 1.0, 2: 1.4, 3: 2.1969}[abs(dy) + abs(dx)])
    for dy in range(-2, 3)
    for dx in range(-2, 3)
    if (abs(dy), abs(dx)) in {(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)}
]


def spatter(images: Images, level: int, draws: Draws) -> Images:
    """Spatter the lens: levels 1 to 3 with water, 4 and 5 with mud."""
    mean, deviation, smoothness, least, last = _SPATTER[level - 1]
    liquid = gaussian(draws.normal(mean, deviation, SIDE, SIDE), smoothness)
    liquid[liquid < least] = 0
    if level > 3:
        mud = gaussian((liquid > least).astype(np.float64), last)
        mud[mud < 0.8] = 0
        return to_bytes(unit(images) * (1 - mud[..., None]) + mud[..., None] * _MUD)
    drops = to_bytes(liquid)
    water = drops * shine(drops).astype(np.float64)
    most = water.max((1, 2), keepdims=True)
    water = np.divide(water, most, out=np.zeros_like(water), where=most > 0) * last
    return to_bytes(unit(images) + water[..., None] * _WATER)


def shine(drops: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """How light plays on drops [n, h, w]: by the distance to their edges, embossed."""
    distance = box3(np.minimum(distances(edges(drops)), _FAR)).astype(np.uint8)
    return rounded(box3(_emboss(equalise(distance))))


def _emboss(x: npt.NDArray[np.uint8]) -> Floats:
    from scipy import ndimage

    embossed: Floats = ndimage.correlate(x.astype(np.float64), _EMBOSS[None], mode="mirror")
    return np.clip(embossed, 0, 255)


def box3(x: npt.NDArray[Any]) -> Floats:
    """Mean over 3 x 3 pixels; beyond the border, the image mirrored without its edge."""
    from scipy import ndimage

    # divided last, so that the mean of nine equal whole numbers is that number
    total: Floats = ndimage.correlate(x.astype(np.float64), np.ones((1, 3, 3)), mode="mirror")
    return total / 9


def edges(x: npt.NDArray[np.uint8], low: int = 50, high: int = 150) -> npt.NDArray[np.bool_]:
    """Canny's edges of grey images [n, h, w].

    Sobel gradients of 3 x 3 with the border repeated, their absolute sum as strength, pixels that
    are the strongest along the gradient's direction (one of four), and of those above `low` the
    ones that are above `high` or hang together with such.

    Returns:
        bool [n, h, w].
    """
    from scipy import ndimage

    wide = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth_down = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    smooth_across = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    gx = smooth_down[:, :, 2:] - smooth_down[:, :, :-2]
    gy = smooth_across[:, 2:] - smooth_across[:, :-2]
    strength = np.abs(gx) + np.abs(gy)
    around = np.pad(strength, ((0, 0), (1, 1), (1, 1)))

    def at(dy: int, dx: int) -> npt.NDArray[np.int64]:
        return around[:, 1 + dy : 1 + dy + x.shape[1], 1 + dx : 1 + dx + x.shape[2]]

    steep = np.abs(gy)
    flat = np.tan(np.pi / 8) * np.abs(gx)
    along_row = (strength > at(0, -1)) & (strength >= at(0, 1))
    along_column = (strength > at(-1, 0)) & (strength >= at(1, 0))
    falling = (strength > at(-1, -1)) & (strength > at(1, 1))
    rising = (strength > at(-1, 1)) & (strength > at(1, -1))
    diagonal = np.where((gx < 0) != (gy < 0), rising, falling)
    peak = np.where(
        steep < flat,
        along_row,
        np.where(steep > flat + 2 * np.abs(gx), along_column, diagonal),
    )
    weak = peak & (strength > low)
    linked = np.zeros((3, 3, 3), dtype=bool)
    linked[1] = True  # within an image, with eight neighbours; never across images
    parts, count = ndimage.label(weak, linked)
    keep: npt.NDArray[np.bool_] = np.zeros(count + 1, dtype=bool)
    keep[parts[weak & (strength > high)]] = True
    found: npt.NDArray[np.bool_] = keep[parts] & weak
    return found


def distances(edge: npt.NDArray[np.bool_]) -> Floats:
    """Distance of every pixel [n, h, w] to the nearest edge, by steps over 5 x 5 pixels.

    The usual approximation of the straight distance (Borgefors, 1986): the shortest way by steps
    of length 1 along a side, 1.4 along a diagonal and 2.1969 by a knight's move. Distances above
    20 are not worked out: they may be too large.
    """
    found = np.where(edge, 0.0, np.inf)
    _, h, w = edge.shape
    while True:
        wide = np.pad(found, ((0, 0), (2, 2), (2, 2)), constant_values=np.inf)
        better = found
        for dy, dx, length in _STEPS:
            better = np.minimum(better, wide[:, 2 + dy : 2 + dy + h, 2 + dx : 2 + dx + w] + length)
        if np.array_equal(better, found):
            return found
        found = better


def equalise(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Spread the values of each image [n, h, w] over 0..255 so that they are evenly frequent."""
    n, size = len(x), x[0].size
    flat = x.reshape(n, -1).astype(np.int64)
    counts = np.bincount((np.arange(n)[:, None] * 256 + flat).ravel(), minlength=n * 256)
    counts = counts.reshape(n, 256)
    least = counts[np.arange(n), flat.min(1)][:, None]  # the smallest value becomes 0
    spread = np.maximum(np.cumsum(counts, 1) - least, 0) * 255 / np.maximum(size - least, 1)
    table = np.where(least == size, np.arange(256), np.rint(spread)).astype(np.uint8)
    return np.take_along_axis(table, flat, 1).reshape(x.shape)
