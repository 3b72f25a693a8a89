"""Losses that train directions of a generator: which image was moved further, and along what."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def moved_further(eps1: Tensor, eps2: Tensor) -> Tensor:
    """Labels of pairs: 1 where the first image was moved further along a direction, else 0.

    Args:
        eps1: float [b, k], steps of the first images.
        eps2: float [b, k], steps of the second images.

    Returns:
        float [b, k]. A tie, which continuous steps do not have, is 0.
    """
    return (eps1 > eps2).to(eps1.dtype)


def scale_ranking(s1: Tensor, s2: Tensor, y: Tensor) -> Tensor:
    """How wrong scores are about which image of a pair was moved further.

    The score of the image that was moved further should be larger. Only the difference of the two
    scores counts: what both share cancels.

    Args:
        s1: float [b, k], scores of the first images, one for each direction.
        s2: float [b, k], scores of the second images.
        y: float [b, k], labels by `moved_further`.

    Returns:
        [b, k], at least 0; ln 2 where the scores say nothing.

    Raises:
        ValueError: the shapes differ.

    Source: Kappiyath et al., AAAI 2022 (SRE).
    """
    if not s1.shape == s2.shape == y.shape or s1.dim() != 2:
        raise ValueError(
            "scores and labels must be [pairs, directions]; got"
            f" {list(s1.shape)}, {list(s2.shape)} and {list(y.shape)}"
        )
    return F.binary_cross_entropy_with_logits(s1 - s2, y, reduction="none")


def ranked_right(s1: Tensor, s2: Tensor, y: Tensor) -> Tensor:
    """Whether the image that was moved further has the larger score: bool [b, k].

    Equal scores are right where the first image was not moved further: half of the time by chance.
    """
    return (s1 > s2) == (y > 0.5)


def shift_prediction(
    logits: Tensor, step_hat: Tensor, k: Tensor, step: Tensor, weight: float = 0.25
) -> Tensor:
    """How wrong a reconstructor is about the direction and the step of a shift.

    Args:
        logits: float [b, directions].
        step_hat: float [b], the step that it says; not [b, 1], which would be compared with every
            other sample's.
        k: int64 [b], the direction.
        step: float [b], the step.
        weight: of the step's part.

    Returns:
        [b]: cross-entropy, plus the weight times the absolute error of the step.

    Raises:
        ValueError: the steps are not [b].

    Source: Voynov & Babenko, ICML 2020.
    """
    if step_hat.shape != step.shape or step.dim() != 1:
        raise ValueError(f"steps must be [b]; got {list(step_hat.shape)} and {list(step.shape)}")
    return F.cross_entropy(logits, k, reduction="none") + weight * (step_hat - step).abs()
