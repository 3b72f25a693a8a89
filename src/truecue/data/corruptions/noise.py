"""Noise on every value of an image, by itself."""

from __future__ import annotations

from truecue.data.corruptions.draws import Draws
from truecue.data.corruptions.pixels import Images, to_bytes, unit

_GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)
_SHOT = (500, 250, 100, 75, 50)
_IMPULSE = (0.01, 0.02, 0.03, 0.05, 0.07)
_SPECKLE = (0.06, 0.1, 0.12, 0.16, 0.2)


def gaussian_noise(images: Images, level: int, draws: Draws) -> Images:
    """Add normal noise."""
    noise = draws.normal(0, _GAUSSIAN[level - 1], *images.shape[1:])
    return to_bytes(unit(images) + noise)


def shot_noise(images: Images, level: int, draws: Draws) -> Images:
    """Count photons: a Poisson number in place of every value; fewer photons, more noise."""
    photons = _SHOT[level - 1]
    return to_bytes(draws.poisson(unit(images) * photons) / photons)


def impulse_noise(images: Images, level: int, draws: Draws) -> Images:
    """Turn a share of the values into 0 or 255, as likely one as the other."""
    chance = draws.uniform(0, 1, *images.shape[1:])
    share = _IMPULSE[level - 1]
    noisy = images.copy()
    noisy[chance < share] = 0
    noisy[chance < share / 2] = 255
    return noisy


def speckle_noise(images: Images, level: int, draws: Draws) -> Images:
    """Add normal noise in proportion to the value."""
    x = unit(images)
    return to_bytes(x + x * draws.normal(0, _SPECKLE[level - 1], *images.shape[1:]))
