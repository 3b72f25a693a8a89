"""Random numbers for a batch of images, each image's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Draws:
    """One generator for each image of a batch.

    What an image gets depends on its own seed only: not on the batch that it is part of, and not on
    the process or thread that draws.
    """

    def __init__(self, seeds: Iterable[int]):
        self._generators = [np.random.default_rng(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, mean: float, deviation: float, *shape: int) -> Floats:
        """Normal numbers, float64 [n, *shape]."""
        out = np.empty((len(self), *shape))
        for i, draw in enumerate(self._generators):
            draw.standard_normal(out=out[i])
        return out * deviation + mean

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        """Numbers from [low, high), float64 [n, *shape]."""
        out = np.empty((len(self), *shape))
        for i, draw in enumerate(self._generators):
            draw.random(out=out[i : i + 1] if not shape else out[i])
        return out * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> npt.NDArray[np.int64]:
        """Integers from low to high - 1, int64 [n, *shape]."""
        return self._stack([draw.integers(low, high, shape) for draw in self._generators])

    def poisson(self, rate: Floats) -> npt.NDArray[np.int64]:
        """Poisson counts for rates [n, ...], int64 of the same shape."""
        pairs = zip(self._generators, rate, strict=True)
        return self._stack([draw.poisson(rates) for draw, rates in pairs])

    @staticmethod
    def _stack(parts: list[Any]) -> npt.NDArray[np.int64]:
        return np.stack(parts).astype(np.int64, copy=False)
