"""How many directions features really use."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values.

    Between 1 and the rank; equal to the rank where all singular values other than 0 are equal. The
    features are taken as they are: subtract their mean first if it should not count as a
    direction.

    Args:
        features: float [n, d]; any precision, computed in float64.

    Returns:
        The effective rank; 0 for a matrix of zeros, nan where the matrix is empty or holds a
        number that is not finite.

    Source: Roy & Vetterli 2007.
    """
    if features.numel() == 0 or not bool(features.isfinite().all()):
        return float("nan")
    sizes = torch.linalg.svdvals(features.detach().double())
    if float(sizes.max()) == 0:
        return 0.0
    return float(torch.special.entr(sizes / sizes.sum()).sum().exp())
