"""Losses against rare classes and hard samples, for methods of one's own.

Source: the forms in SubpopBench (Yang, Zhang, Katabi, Ghassemi, ICML 2023, arXiv 2302.12254).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError, DataError
from truecue.losses.classification import ce
from truecue.losses.precision import wide


def focal(logits: Tensor, y: Tensor, gamma: float = 1.0) -> Tensor:
    """Focal loss, (1 - p_y)^γ times the cross-entropy: what is easy already counts less.

    Args:
        logits: float [n, classes].
        y: int64 [n].
        gamma: at least 0; 0 is the cross-entropy.

    Returns:
        [n], at least 0.

    Raises:
        ConfigError: gamma is below 0.

    Source: Lin et al. 2017.
    """
    if not gamma >= 0:
        raise ConfigError(f"gamma of the focal loss must be at least 0; got {gamma}")
    error = ce(logits, y)
    # below 1, the power's slope is infinite where p_y rounds to 1: times an error of 0, no number
    missing = (-torch.expm1(-error)).clamp(min=torch.finfo(error.dtype).tiny)
    return missing**gamma * error


def balanced_softmax(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of the logits plus the logarithm of the classes' frequencies.

    Args:
        logits: float [n, classes]. The plain ones, without the correction, are used for predicting.
        y: int64 [n].
        counts: [classes], training samples of each; at least 1.

    Returns:
        [n], at least 0.

    Source: Ren et al. 2020.
    """
    # float16 ends at 65,504 samples: the logarithm comes before the type
    return ce(logits + counts.to(wide(logits)).log().to(logits), y)


def ldam_margins(counts: Tensor, largest: float = 0.5) -> Tensor:
    """The margin of each class, in proportion to n^(-1/4): float64 [classes], at most `largest`.

    Args:
        counts: [classes], training samples of each; at least 1.
        largest: the margin of the rarest class.

    Raises:
        DataError: a class has no sample.
    """
    if not bool((counts >= 1).all()):
        raise DataError(f"a margin needs at least 1 sample of each class; got {counts.tolist()}")
    margins = counts.double() ** -0.25
    return margins * (largest / margins.max())


def ldam(logits: Tensor, y: Tensor, margins: Tensor, scale: float = 30.0) -> Tensor:
    """Label-distribution-aware margin loss: the true logit is lowered by its class's margin.

    Args:
        logits: float [n, classes].
        y: int64 [n].
        margins: [classes], see `ldam_margins`.
        scale: what logits are multiplied by before the cross-entropy.

    Returns:
        [n], at least 0.

    Source: Cao et al. 2019, eq. 13.
    """
    lowered = F.one_hot(y, logits.shape[1]) * margins.to(logits)
    return ce(scale * (logits - lowered), y)


def cvar(losses: Tensor, alpha: float = 0.1) -> Tensor:
    """The mean of the worst share of losses (conditional value at risk), as a scalar.

    Args:
        losses: float [n].
        alpha: the share, in (0, 1]; where α n is no whole number, the next loss counts with the
            rest. 1 is the mean.

    Raises:
        ValueError: alpha is not in (0, 1].

    Source: Levy et al. 2020.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1]; got {alpha}")
    worst = losses.sort(descending=True).values
    kept = alpha * len(losses)
    places = torch.arange(len(losses), device=losses.device)
    return ((kept - places).clamp(0, 1).to(worst) * worst).sum() / kept
