"""How many directions features really use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectrum(features: Tensor, *, center: bool = False) -> Tensor:
    """The singular values of features, largest first.

    Args:
        features: float [n, d]; any precision, computed in float64.
        center: subtract the features' mean first, so that it does not count as a direction.

    Returns:
        float64 [min(n, d)], without gradient.
    """
    z = features.detach().double()
    sizes: Tensor = torch.linalg.svdvals(z - z.mean(0) if center else z)
    return sizes


def rank_entropy(sizes: Tensor) -> float:
    """The entropy of singular values over their sum, in nats; values of 0 count for nothing.

    Args:
        sizes: float [q], singular values.

    Returns:
        In [0, ln q]; 0 where all are 0, nan where there are none or one is not finite.

    Source: Roy & Vetterli 2007; the figure in the code of Park et al. 2024.
    """
    if sizes.numel() == 0 or not bool(sizes.isfinite().all()):
        return math.nan
    total = float(sizes.sum())
    return float(torch.special.entr(sizes.double() / total).sum()) if total else 0.0


def effective_rank(features: Tensor, *, center: bool = False) -> float:
    """The exponential of the entropy of the normalised singular values.

    Between 1 and the rank; equal to the rank where all singular values other than 0 are equal.

    Args:
        features: float [n, d]; any precision, computed in float64.
        center: subtract the features' mean first, so that it does not count as a direction.

    Returns:
        The effective rank; 1 for a matrix of zeros, nan where the matrix is empty or holds a
        number that is not finite.

    Source: Roy & Vetterli 2007.
    """
    if features.numel() == 0 or not bool(features.isfinite().all()):
        return math.nan
    return math.exp(rank_entropy(spectrum(features, center=center)))
