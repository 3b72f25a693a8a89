"""Frost on a window pane, drawn by a fixed rule in place of the photographs of the papers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from truecue.data.corruptions.draws import Floats
from truecue.data.corruptions.pixels import Images

PANES = 5
_SIDE = 160  # pixels of a pane
_FINE = 4  # fine pixels drawn for one pixel
_CRYSTALS = 24
_DARK = np.array([46, 66, 96])  # red, green and blue of the bare pane ...
_BRIGHT = np.array([238, 246, 255])  # ... and of thick frost


@lru_cache(maxsize=1)
def panes() -> Images:
    """Five pictures of frost, uint8 [5, 160, 160, 3]; the same on every call."""
    return np.stack([_pane(np.random.default_rng(1000 + k)) for k in range(PANES)])


def _pane(draw: np.random.Generator) -> Images:
    """Feathers of ice that grow from random places, on a haze."""
    from scipy import ndimage

    size = _SIDE * _FINE
    ice = np.zeros((size, size))
    for _ in range(_CRYSTALS):
        rows, columns, weights = _crystal(draw, size)
        place = (rows.astype(np.int64) % size) * size + columns.astype(np.int64) % size
        ice += np.bincount(place, weights, size * size).reshape(size, size)
    sharp, soft = (ndimage.gaussian_filter(ice, sigma, mode="wrap") for sigma in (1.2, 8))
    clear = np.exp(-2.2 * sharp - 0.15 * soft)
    clear = clear.reshape(_SIDE, _FINE, _SIDE, _FINE).mean((1, 3))
    haze, grain = (
        ndimage.gaussian_filter(draw.standard_normal((_SIDE, _SIDE)), sigma, mode="wrap")
        for sigma in (10, 0.75)
    )
    veil = np.maximum(0, 0.1 + 0.25 * haze / haze.std() + 0.1 * grain / grain.std())
    cover = 1 - clear * np.exp(-veil)
    pane: Floats = _DARK + cover[..., None] * (_BRIGHT - _DARK)
    return pane.round().astype(np.uint8)


def _crystal(
    draw: np.random.Generator, size: int
) -> tuple[Floats, Floats, npt.NDArray[np.float64]]:
    """Points of one crystal: curved stems, each with side needles at 45 degrees, shorter outwards.

    Returns:
        Rows and columns in fine pixels, and how much ice lies there.
    """
    centre = draw.uniform(0, size, 2)
    first = draw.uniform(0, 2 * np.pi)
    rows, columns, weights = [], [], []
    for arm in range(int(draw.integers(3, 7))):
        length = int(draw.uniform(0.12, 0.4) * size)
        bend = draw.uniform(-3.5, 3.5) / size
        turn = first + arm * np.pi / 3 + np.cumsum(np.full(length, bend))
        y = centre[0] + np.cumsum(np.sin(turn))
        x = centre[1] + np.cumsum(np.cos(turn))
        rows.append(y)
        columns.append(x)
        weights.append(np.linspace(3, 1, length))
        roots = np.arange(8, length, 13)
        longest = 0.45 * (length - roots) * draw.uniform(0.5, 1, len(roots))
        for side in (-1, 1):
            along = np.arange(int(longest.max(initial=1)) + 1)
            inside = along < longest[:, None]
            slope = turn[roots] + side * np.pi / 4
            rows.append((y[roots, None] + along * np.sin(slope)[:, None])[inside])
            columns.append((x[roots, None] + along * np.cos(slope)[:, None])[inside])
            weights.append(
                np.broadcast_to(1.5 - 1.1 * along / (along[-1] + 1), inside.shape)[inside]
            )
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)
