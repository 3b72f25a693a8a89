"""Squared maximum mean discrepancy of two weighted lists of numbers, with a Gaussian kernel."""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH = 0.25
"""Deviation of the kernel: an eighth of the range of cosine similarities."""
MOST = 512
"""Numbers of a list that are looked at; of longer lists, evenly spaced ones."""


def mmd(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor, *, width: float = WIDTH) -> Tensor:
    """How differently two lists are distributed, in [0, 2].

    The mean of k(x, x') + k(y, y') - 2 k(x, y) over all pairs of entries, an entry with itself
    among them, with k(a, b) = exp(-(a - b)^2 / (2 width^2)). 0 for permutations of one list. Where
    each list is one place it is 2 - 2 exp(-gap^2 / (2 width^2)): about (gap / width)^2 for small
    gaps, and without a slope for large ones.

    Args:
        x: float [n].
        y: float [m].
        of_x: float [n], weights, with a positive sum.
        of_y: float [m], likewise.
        width: of the kernel.
    """
    (x, of_x), (y, of_y) = (_thinned(*pair) for pair in ((x, of_x), (y, of_y)))
    both, signed = torch.cat([x, y]), torch.cat([of_x / of_x.sum(), -of_y / of_y.sum()])
    with torch.autocast(x.device.type, enabled=False):
        kernel = torch.exp((both[:, None] - both).square() / (-2 * width**2))
        return signed @ kernel @ signed


def _thinned(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Evenly spaced entries, so that no random number is drawn: batches are in random order."""
    n = len(values)
    if n <= MOST:
        return values, weights
    ids = torch.arange(MOST, device=values.device) * n // MOST
    return values[ids], weights[ids]
