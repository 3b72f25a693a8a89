"""Logistic regression with few features: an exact solver for a convex problem."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError


def l1(weight: Tensor) -> Tensor:
    """The sum of the absolute values, a scalar."""
    return weight.abs().sum()


@torch.no_grad()
def sparse_logistic(
    x: Tensor, y: Tensor, classes: int, c: float, *, tol: float = 1e-4, steps: int = 5000
) -> tuple[Tensor, Tensor]:
    """The minimum of `c * sum of cross-entropies + l1(weights)`; offsets are not penalised.

    With two classes this is binary L1 logistic regression on the difference of the two rows: the
    penalty makes the rows mirror each other or leaves one of them 0.

    Args:
        x: float [n, d]; of one scale, e.g. standardised.
        y: int64 [n].
        classes: number of classes.
        c: weight of the data against the penalty, above 0.
        tol: largest violation of the conditions of the minimum, relative to the penalty's slope.
        steps: most steps; what has been reached by then is returned.

    Returns:
        Weights [classes, d] and offsets [classes], of x's type.

    Raises:
        ConfigError: c is not above 0.

    Source: accelerated proximal gradients (Beck & Teboulle 2009) with restarts (O'Donoghue & Candès
    2015).
    """
    if not c > 0:
        raise ConfigError(f"the weight of the data must be above 0; got {c}")
    n, d = x.shape
    ones = torch.cat([x, x.new_ones(n, 1)], 1)  # the last column makes the offsets
    target = F.one_hot(y, classes).to(x.dtype)
    # softmax has a curvature of at most 1/2
    rate = 1 / (0.5 * c * float(torch.linalg.matrix_norm(ones, 2)) ** 2)
    w = x.new_zeros(classes, d + 1)
    ahead, t = w.clone(), 1.0
    for step in range(steps):
        gradient = c * ((ones @ ahead.T).softmax(1) - target).T @ ones
        new = ahead - rate * gradient
        new[:, :d] = F.softshrink(new[:, :d], rate)
        if float(((ahead - new) * (new - w)).sum()) > 0:  # it runs uphill: lose the momentum
            t = 1.0
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        w, ahead, t = new, new + (t - 1) / t_new * (new - w), t_new
        if step % 20 == 0 and violation(ones, target, w, c) < tol:
            break
    return w[:, :d].contiguous(), w[:, d].contiguous()


def violation(ones: Tensor, target: Tensor, w: Tensor, c: float) -> float:
    """How far weights and offsets are from the conditions of the minimum; 0 at the minimum."""
    slope = c * ((ones @ w.T).softmax(1) - target).T @ ones
    inner, own = slope[:, :-1], w[:, :-1]
    moving = (inner + own.sign()).abs()
    resting = (inner.abs() - 1).clamp(min=0)
    worst = torch.where(own != 0, moving, resting).amax() if own.numel() else inner.new_zeros(())
    return float(torch.maximum(worst, slope[:, -1].abs().amax()))
