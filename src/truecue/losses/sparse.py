"""Logistic regression with few features: an exact solver for a convex problem."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError, DataError


def l1(weight: Tensor) -> Tensor:
    """The sum of the absolute values, a scalar."""
    return weight.abs().sum()


@torch.no_grad()
def sparse_logistic(
    x: Tensor, y: Tensor, classes: int, c: float, *, tol: float = 1e-4, steps: int = 20_000
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
        steps: most steps in all; what has been reached by then is returned.

    Returns:
        Weights [classes, d] and offsets [classes], of x's type.

    Raises:
        ConfigError: c is not above 0, or not finite.
        DataError: there is no sample, or a number in x is not finite.

    Source: accelerated proximal gradients (Beck & Teboulle 2009) with restarts (O'Donoghue & Candès
    2015), on a working set of features that grows until the conditions hold for all of them.
    """
    if not 0 < c < math.inf:
        raise ConfigError(f"the weight of the data must be above 0 and finite; got {c}")
    n, d = x.shape
    if n == 0 or not bool(x.isfinite().all()):
        what = "there is no sample" if n == 0 else "some of their numbers are not finite"
        raise DataError(f"no regression can be fitted to the features: {what}")
    ones = torch.cat([x, x.new_ones(n, 1)], 1)  # the last column makes the offsets
    target = F.one_hot(y, classes).to(x.dtype)
    w = x.new_zeros(classes, d + 1)
    offset = torch.tensor([d])
    # few features matter in the end, so only those that do, or might, take part in the steps
    working = torch.empty(0, dtype=torch.int64)
    while steps > 0:
        slope = (c * ((ones @ w.T).softmax(1) - target).T @ ones)[:, :d].abs().amax(0)
        slope[working] = 0
        missing = (slope > 1 + tol / 2).nonzero()[:, 0]
        worst = slope[missing].argsort(descending=True)[: max(FEW, len(working))]
        working = torch.cat([working, missing[worst]]).sort().values
        columns = torch.cat([working, offset])
        part, taken = _descend(ones[:, columns], target, w[:, columns], c, tol / 2, steps)
        w[:, columns] = part
        steps -= taken
        if violation(ones, target, w, c) < tol:
            break
        working = working[(w[:, working] != 0).any(0)]
    return w[:, :d].contiguous(), w[:, d].contiguous()


FEW = 64
"""Features that join the working set at a time, at least."""


def _descend(
    ones: Tensor, target: Tensor, w: Tensor, c: float, tol: float, steps: int
) -> tuple[Tensor, int]:
    """Accelerated proximal steps from `w` to the minimum; the result and the steps taken."""
    # softmax has a curvature of at most 1/2
    rate = 1 / (0.5 * c * float(torch.linalg.matrix_norm(ones, 2)) ** 2)
    ahead, t = w.clone(), 1.0
    for step in range(steps):
        gradient = c * ((ones @ ahead.T).softmax(1) - target).T @ ones
        new = ahead - rate * gradient
        new[:, :-1] = F.softshrink(new[:, :-1], rate)
        if float(((ahead - new) * (new - w)).sum()) > 0:  # it runs uphill: lose the momentum
            t = 1.0
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        w, ahead, t = new, new + (t - 1) / t_new * (new - w), t_new
        if step % 20 == 0 and violation(ones, target, w, c) < tol:
            return w, step + 1
    return w, steps


def violation(ones: Tensor, target: Tensor, w: Tensor, c: float) -> float:
    """How far weights and offsets are from the conditions of the minimum; 0 at the minimum."""
    slope = c * ((ones @ w.T).softmax(1) - target).T @ ones
    inner, own = slope[:, :-1], w[:, :-1]
    moving = (inner + own.sign()).abs()
    resting = (inner.abs() - 1).clamp(min=0)
    worst = torch.where(own != 0, moving, resting).amax() if own.numel() else inner.new_zeros(())
    return float(torch.maximum(worst, slope[:, -1].abs().amax()))
