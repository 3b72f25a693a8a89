"""Snow, frost, fog and brightness."""

from __future__ import annotations

import numpy as np

from truecue.data.corruptions.blur import smear
from truecue.data.corruptions.draws import Draws, Floats
from truecue.data.corruptions.ice import PANES, panes
from truecue.data.corruptions.pixels import SIDE, Images, enlarge, grey, to_bytes, unit

# mean, deviation and size of the flakes, what is left out, smear's radius and deviation, mix
_SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
_FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # of the image, of the frost
_FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # thickness, smoothness
_BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)


def snow(images: Images, level: int, draws: Draws) -> Images:
    """Whiten, and let flakes fall, once as drawn and once turned by 180 degrees."""
    mean, deviation, size, least, radius, sigma, mix = _SNOW[level - 1]
    flakes = enlarge(draws.normal(mean, deviation, SIDE, SIDE, 1), size)
    flakes[flakes < least] = 0
    fallen = unit(smear(to_bytes(flakes), int(radius), sigma, draws.uniform(-135, -45)))
    x = unit(images)
    white = np.maximum(x, grey(x)[..., None] * 1.5 + 0.5)
    return to_bytes(mix * x + (1 - mix) * white + fallen + fallen[:, ::-1, ::-1])


def frost(images: Images, level: int, draws: Draws) -> Images:
    """Lay a random cut-out of a frosted pane over the image, see `panes`."""
    image, ice = _FROST[level - 1]
    glass = panes()
    chosen = draws.integers(0, PANES)[:, None, None]
    corner = draws.integers(0, glass.shape[1] - SIDE, 2)[:, :, None] + np.arange(SIDE)
    cut = glass[chosen, corner[:, 0, :, None], corner[:, 1, None, :]]
    return to_bytes(image * unit(images) + ice * unit(cut))


def fog(images: Images, level: int, draws: Draws) -> Images:
    """Add a cloud, and darken so that the image's largest value stays what it was at most."""
    thickness, smoothness = _FOG[level - 1]
    x = unit(images)
    most = x.max((1, 2, 3), keepdims=True)
    cloud = plasma(smoothness, draws)[..., None]
    return to_bytes((x + thickness * cloud) * most / (most + thickness))


def plasma(smoothness: float, draws: Draws) -> Floats:
    """Clouds by the diamond-square rule on a grid without borders.

    A new point is the mean of its four neighbours plus w times a uniform number in [-w, w). w is
    100 and is divided by `smoothness` at each halving of the grid.

    Returns:
        float64 [n, 32, 32], from 0 to 1 in each image.
    """
    cloud: Floats = np.zeros((len(draws), SIDE, SIDE))
    chance = draws.uniform(-1, 1, SIDE * SIDE - 1)
    wobble, step = 100.0, SIDE
    while step >= 2:
        half, along = step // 2, SIDE // step
        now, chance = chance[:, : 3 * along**2], chance[:, 3 * along**2 :]
        shift = wobble * wobble * now.reshape(-1, 3, along, along)
        corners = cloud[:, ::step, ::step]
        right, below = np.roll(corners, -1, 2), np.roll(corners, -1, 1)
        centres = (corners + right + below + np.roll(right, -1, 1)) / 4 + shift[:, 0]
        above, left = np.roll(centres, 1, 1), np.roll(centres, 1, 2)
        cloud[:, half::step, half::step] = centres
        cloud[:, ::step, half::step] = (corners + right + centres + above) / 4 + shift[:, 1]
        cloud[:, half::step, ::step] = (corners + below + centres + left) / 4 + shift[:, 2]
        step, wobble = half, wobble / smoothness
    cloud -= cloud.min((1, 2), keepdims=True)
    cloud /= cloud.max((1, 2), keepdims=True)
    return cloud


def brightness(images: Images, level: int, draws: Draws) -> Images:
    """Add to the value of hue, saturation and value: all three colours grow in proportion."""
    del draws
    x = unit(images)
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + _BRIGHTNESS[level - 1], 1)
    # black has no hue: it becomes grey
    share = np.divide(x, value, out=np.ones_like(x), where=value > 0)
    return to_bytes(share * brighter)
