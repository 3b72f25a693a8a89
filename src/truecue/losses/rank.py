"""How correlated the features of a batch are: rewarded, it makes a representation low-rank."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5
"""Added to variances, as batch normalisation does."""


def standardised(features: Tensor, eps: float = EPS) -> Tensor:
    """Features with mean 0 and variance 1 over the batch.

    Args:
        features: float [n, d].
        eps: added to the variance, which is the biased one.

    Returns:
        float [n, d] of at least float32, as `BatchNorm1d(d, affine=False)` gives in training; 0
        where a feature is the same for all rows.
    """
    x = features if features.dtype == torch.float64 else features.float()
    x = x - x.mean(0)
    return x * (x.square().mean(0) + eps).rsqrt()


def correlations(features: Tensor, eps: float = EPS) -> Tensor:
    """The sample correlation matrix of features.

    Args:
        features: float [n, d].
        eps: see `standardised`.

    Returns:
        [d, d], in [-1, 1]; the row of a feature that never changes is 0.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = standardised(features, eps)
        return x.T @ x / max(len(x), 1)


def rank_penalty(features: Tensor, eps: float = EPS) -> Tensor:
    """The mean square of the correlations between different features, L_reg.

    Subtracted from a loss, it lowers the features' rank: with C the correlations of d features and
    PR = (tr C)^2 / |C|^2 the participation ratio of its eigenvalues, it is 1/PR - 1/d where no
    feature is constant. Where there are fewer rows than features, C itself is not formed.

    Args:
        features: float [n, d], all rows of a step; the gradient goes through mean and variance.
        eps: see `standardised`.

    Returns:
        A scalar in [0, (d - 1) / d], in float32 or more; 0 for a single row.

    Source: Park et al. 2024. Their code divides the products of two views of b images by b, not
    by 2b, so that its value in self-supervised training is four times this one.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = standardised(features, eps)
        n, d = x.shape
        gram = x @ x.T if n < d else x.T @ x
        own = x.square().mean(0)
        return (gram.square().sum() / n**2 - own.square().sum()).clamp(min=0) / d**2
