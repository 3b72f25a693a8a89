"""Blur, and glass."""

from __future__ import annotations

import numpy as np

from truecue.data.corruptions.draws import Draws, Floats
from truecue.data.corruptions.pixels import (
    SIDE,
    Images,
    enlarge,
    gaussian,
    rounded,
    to_bytes,
    unit,
)

_GAUSSIAN = (0.4, 0.6, 0.7, 0.8, 1)  # standard deviation, pixels
_DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius, softening
_GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))  # standard deviation, passes
_MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, standard deviation
_ZOOM = (1.06, 1.11, 1.16, 1.21, 1.26)


def gaussian_blur(images: Images, level: int, draws: Draws) -> Images:
    """Blur each channel."""
    del draws
    return to_bytes(gaussian(unit(images), _GAUSSIAN[level - 1]))


def defocus_blur(images: Images, level: int, draws: Draws) -> Images:
    """Blur each channel with a disk whose edge is softened by a 3 x 3 Gaussian kernel."""
    from scipy import ndimage

    del draws
    kernel = disk(*_DEFOCUS[level - 1])
    return to_bytes(ndimage.correlate(unit(images), kernel[None, :, :, None], mode="mirror"))


def disk(radius: float, softening: float) -> Floats:
    """A soft disk of sum 1: float64 [7, 7], which is zero at its border for a radius below 2."""
    from scipy import ndimage

    along = np.arange(-3, 4)
    hard = (along[:, None] ** 2 + along**2 <= radius**2).astype(np.float64)
    soft = np.exp(-(np.arange(-1, 2) ** 2) / (2 * softening**2))
    soft /= soft.sum()
    kernel: Floats = ndimage.correlate(hard / hard.sum(), soft[:, None] * soft, mode="constant")
    return kernel


def glass_blur(images: Images, level: int, draws: Draws) -> Images:
    """Blur, replace every pixel by itself or a neighbour above or to the left, blur again.

    The published code means to swap neighbours, going from the lower right to the upper left; as it
    swaps views of one array, it only copies. What is copied has not been replaced before, so that a
    whole pass is one gathering of pixels.
    """
    sigma, passes = _GLASS[level - 1]
    x = (gaussian(unit(images), sigma) * 255).astype(np.uint8)
    inner = np.arange(2, SIDE)
    moves = draws.integers(-1, 1, passes, len(inner), len(inner), 2)
    each = np.arange(len(x))[:, None, None]
    for k in range(passes):
        across, along = moves[:, k, ..., 0], moves[:, k, ..., 1]
        x[:, 2:, 2:] = x[each, inner[:, None] + along, inner + across]
    return to_bytes(gaussian(unit(x), sigma))


def motion_blur(images: Images, level: int, draws: Draws) -> Images:
    """Smear along a direction within 45 degrees of the horizontal."""
    radius, sigma = _MOTION[level - 1]
    return smear(images, radius, sigma, draws.uniform(-45, 45))


def smear(images: Images, radius: int, sigma: float, angles: Floats) -> Images:
    """ImageMagick's motion blur: a one-sided Gaussian along a direction.

    Pixel p becomes the sum over i = 0..2 * radius of a weight proportional to exp(-i^2 / 2 sigma^2)
    times the pixel i steps further, at the nearest whole position; beyond the border, the border
    pixel.

    Args:
        images: uint8 [n, 32, 32, c].
        radius: half of the kernel's length less one, in pixels.
        sigma: standard deviation, in pixels.
        angles: [n], direction in degrees, clockwise from the right.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turns = np.deg2rad(angles)[:, None]
    across, down = (np.ceil(steps * f(turns) - 0.5).astype(np.int64) for f in (np.cos, np.sin))
    each, along = np.arange(len(images))[:, None, None], np.arange(SIDE)
    total = np.zeros(images.shape)
    for i, weight in enumerate(weights):
        rows = np.clip(along + down[:, i, None], 0, SIDE - 1)
        columns = np.clip(along + across[:, i, None], 0, SIDE - 1)
        total += images[each, rows[:, :, None], columns[:, None, :]] * weight
    return rounded(total)


def zoom_blur(images: Images, level: int, draws: Draws) -> Images:
    """Mean of the image and of its enlargements in steps of 0.01.

    The steps are those of `np.arange`, as in the published code: its rounding takes in the ends of
    levels 1 and 2 (1.06 and 1.11), but not those of the others.
    """
    del draws
    x = unit(images)
    total = x.copy()
    factors = np.arange(1, _ZOOM[level - 1], 0.01)
    for factor in factors:
        total += enlarge(x, float(factor))
    return to_bytes(total / (len(factors) + 1))
