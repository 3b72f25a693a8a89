"""Contrast, saturation, and what processing does to images."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt

from truecue.data.corruptions.draws import Draws, Floats
from truecue.data.corruptions.pixels import SIDE, Images, gaussian, sample, to_bytes, unit

_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
_SATURATE = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))  # factor, then addition
# strength and smoothness of the waves, jitter of the corners; pixels
_ELASTIC = ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96))
_JPEG = (80, 65, 58, 50, 40)
_PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)


def contrast(images: Images, level: int, draws: Draws) -> Images:
    """Move every value towards the mean of its image and channel."""
    del draws
    x = unit(images)
    mean = x.mean((1, 2), keepdims=True)
    return to_bytes((x - mean) * _CONTRAST[level - 1] + mean)


def saturate(images: Images, level: int, draws: Draws) -> Images:
    """Change the saturation of hue, saturation and value. Grey counts as red of saturation 0."""
    del draws
    factor, more = _SATURATE[level - 1]
    x = unit(images)
    value = x.max(-1, keepdims=True)
    below = value - x  # in proportion to the saturation
    span = below.max(-1, keepdims=True)
    saturation = np.divide(span, value, out=np.zeros_like(span), where=value > 0)
    wanted = np.clip(saturation * factor + more, 0, 1) * value
    red = np.broadcast_to([0.0, 1.0, 1.0], x.shape).copy()
    shape = np.divide(below, span, out=red, where=span > 0)
    return to_bytes(value - shape * wanted)


def elastic(images: Images, level: int, draws: Draws) -> Images:
    """Move three points of the image at random, then every pixel a little along smooth waves."""
    strength, smoothness, jitter = _ELASTIC[level - 1]
    points = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])  # column, row
    moved = points + draws.uniform(-jitter, jitter, 3, 2)
    # the affine map that leads from places of the result back to places of the image
    back = np.linalg.solve(np.concatenate([moved, np.ones((len(moved), 3, 1))], 2), points)
    rows, columns = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")

    def place(k: int) -> Floats:
        a, b, c = (back[:, i, k, None, None] for i in range(3))
        return a * columns + b * rows + c

    x = sample(unit(images), place(1), place(0), "mirror")
    chance = draws.uniform(-1, 1, 2, SIDE, SIDE)
    across, down = (
        strength * gaussian(chance[:, k], smoothness, mode="reflect", truncate=3) for k in (0, 1)
    )
    return to_bytes(sample(x, rows + down, columns + across, "reflect"))


def jpeg(images: Images, level: int, draws: Draws) -> Images:
    """Compress as a JPEG (Pillow, colours at half resolution) and decompress."""
    from PIL import Image

    del draws
    out = np.empty_like(images)
    for i, image in enumerate(images):
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=_JPEG[level - 1])
        with Image.open(file) as read:
            out[i] = np.asarray(read)
    return out


def pixelate(images: Images, level: int, draws: Draws) -> Images:
    """Reduce to fewer pixels and enlarge again, both with Pillow's box filter."""
    del draws
    few = int(SIDE * _PIXELATE[level - 1])
    return box(box(images, few), SIDE)


def box(images: Images, size: int) -> Images:
    """Images [n, h, w, c] at another size by Pillow's box filter.

    A pixel of the result is the mean of the pixels whose centres lie in its box (the nearest, when
    enlarging); columns first, then rows, each rounded half up.
    """
    for axis in (2, 1):
        low, high = _spans(images.shape[axis], size)
        # reduced by less than half, so that a box holds one or two centres
        pair = images.take(low, axis).astype(np.uint16) + images.take(high, axis)
        images = ((pair + 1) // 2).astype(np.uint8)
    return images


def _spans(before: int, after: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last pixel in the box of each pixel of the result."""
    scale = before / after
    centre = (np.arange(after) + 0.5) * scale
    half = max(scale, 1) / 2
    low = np.maximum((centre - half + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + half + 0.5).astype(np.int64), before) - 1
    return low, np.maximum(high, low)
