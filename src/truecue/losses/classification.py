"""Losses of a classifier's logits, one value for each sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, -ln p_y.

    Args:
        logits: float [n, classes].
        y: int64 [n].

    Returns:
        [n], at least 0.
    """
    return F.cross_entropy(logits, y, reduction="none")


def gce(logits: Tensor, y: Tensor, q: float) -> Tensor:
    """Generalised cross-entropy, (1 - p_y^q) / q.

    Its gradient is p_y^q times that of cross-entropy, so samples that are easy already count most.
    q → 0 gives cross-entropy, q = 1 gives 1 - p_y.

    Args:
        logits: float [n, classes].
        y: int64 [n].
        q: in (0, 1].

    Returns:
        [n], in [0, 1/q].

    Raises:
        ConfigError: q is out of range.

    Source: Zhang & Sabuncu 2018, eq. (6).
    """
    if not 0 < q <= 1:
        raise ConfigError(f"q of generalised cross-entropy must lie in (0, 1]; got {q}")
    power = -q * ce(logits, y)  # ln p^q
    # 1 - exp cancels for p → 1 and q → 0; the gradient of expm1, which autograd takes as
    # result + 1, cancels for p → 0. Each is exact on its side, and finite on the other.
    return torch.where(power > -math.log(2), -power.expm1(), 1 - power.exp()) / q


def distil(student_logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    """Distillation in its cross-entropy form, -τ² Σ_c p_T,c ln p_S,c.

    p_T and p_S are the softmax of the logits divided by τ. The minimum is τ² times the teacher's
    entropy, not 0; the gradients are those of the Kullback-Leibler form. None reaches the teacher.

    Args:
        student_logits: float [n, classes].
        teacher_logits: float [n, classes].
        tau: temperature, above 0.

    Returns:
        [n], at least 0.

    Raises:
        ConfigError: tau is not above 0.

    Source: Hinton et al. 2015; DeNetDM's release takes τ² and this form.
    """
    if not tau > 0:
        raise ConfigError(f"the temperature of distillation must be above 0; got {tau}")
    target = (teacher_logits.detach() / tau).softmax(1)
    return tau**2 * F.cross_entropy(student_logits / tau, target, reduction="none")
