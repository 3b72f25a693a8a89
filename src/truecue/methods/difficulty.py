"""How hard the samples are for a biased network, and how much they count for it."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_difficulty(biased: Tensor, debiased: Tensor) -> Tensor:
    """The weight of a sample: the biased network's loss as a share of both networks' losses.

    Args:
        biased: float [n], not negative.
        debiased: float [n], not negative.

    Returns:
        [n], in [0, 1); 0 where both losses are 0.
    """
    return biased / (biased + debiased + 1e-8)


def difficulty_by_class(biased: Tensor, debiased: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """`relative_difficulty` of losses that are first divided by the largest of their class.

    Args:
        biased: float [n], not negative: the biased network's loss of every training sample.
        debiased: float [n], not negative: the debiased network's.
        y: int64 [n], their classes.
        n_classes: number of classes.

    Returns:
        [n], in [0, 1); 0 for a class of which all losses are 0.

    Source: the released code of Nam et al. 2020 and of Lee et al. 2021.
    """
    return relative_difficulty(*(_by_class(losses, y, n_classes) for losses in (biased, debiased)))


def _by_class(losses: Tensor, y: Tensor, n_classes: int) -> Tensor:
    largest = losses.new_zeros(n_classes).scatter_reduce(0, y, losses, "amax")
    tiny = torch.finfo(losses.dtype).tiny  # a class of which nothing has been seen: 0, not 0 / 0
    return losses / largest.clamp(min=tiny)[y]
