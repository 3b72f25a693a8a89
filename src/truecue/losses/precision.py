"""Numbers wide enough for sums and logarithms, whatever mixed precision made of them."""

from __future__ import annotations

from torch import Tensor, float64


def wide(x: Tensor) -> Tensor:
    """float32 for what mixed precision made narrower."""
    return x if x.dtype == float64 else x.float()
