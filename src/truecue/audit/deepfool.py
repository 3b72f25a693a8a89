"""The smallest move of a latent vector that makes a classifier say something else.

Targeted DeepFool: Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, arXiv 1511.04599; in the latent
space of the biased half as in "Signal is Harder" (arXiv 2305.19671).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_FLOOR = 1e-8
"""Added to the squared gradient, as in the released code."""
_ALIVE = 1e-6
"""A value at which a coordinate's ReLU lets the gradient through."""


class Moved(NamedTuple):
    """Where latent vectors ended."""

    z: Tensor
    """float [n, d]."""
    reached: Tensor
    """bool [n], whether the classifier says the target there."""
    steps: Tensor
    """int64 [n], steps in which the vector moved; for a rescued one those of the second try."""
    rescued: Tensor
    """bool [n], whether the target was reached in the second try only."""


def deepfool(
    head: Callable[[Tensor], Tensor],
    z: Tensor,
    target: Tensor,
    *,
    steps: int = 20,
    overshoot: float = 0.02,
    leak: float = 0.0,
) -> Moved:
    """Move latent vectors until a classifier says the target, each by about as little as it takes.

    In every step, with r the target's logit minus the largest one and g its gradient, a vector that
    is not there yet moves by `(1 + overshoot) |r| / (‖g‖² + 1e-8) g`.

    The classifiers of a paired VAE begin with a ReLU, so that a coordinate at or below zero has no
    gradient, and a vector whose useful coordinates are all there stands still. With `leak`, those
    that did not get there are tried again from where they began, and such a coordinate then has
    `leak` times the gradient that it would have above zero, if that gradient points upwards.

    Args:
        head: from latent vectors [n, d] to logits [n, k], each row by itself.
        z: float [n, d], where to begin.
        target: int64 [n], the class that the classifier shall say.
        steps: the largest number of steps of a try.
        overshoot: how much further a step goes than to the boundary, as a share.
        leak: share of the gradient below zero in a second try, in [0, 1]; 0: no second try, as
            published.

    Returns:
        Where the vectors ended; nothing is raised for those that did not reach their target. A
        vector that failed both tries is where the first one ended.

    Raises:
        ValueError: `leak` is not in [0, 1].
    """
    if not 0 <= leak <= 1:
        raise ValueError(f"leak must lie in [0, 1]; got {leak}")
    first = _try(head, z.detach(), target, steps, overshoot, 0.0)
    left = (~first.reached).nonzero().squeeze(1)
    if leak == 0 or len(left) == 0:
        return first
    second = _try(head, z.detach()[left], target[left], steps, overshoot, leak)
    ids = left[second.reached]
    ended, taken, rescued = first.z.clone(), first.steps.clone(), first.rescued.clone()
    ended[ids], taken[ids] = second.z[second.reached], second.steps[second.reached]
    rescued[ids] = True
    return Moved(ended, first.reached | rescued, taken, rescued)


def _try(
    head: Callable[[Tensor], Tensor],
    z: Tensor,
    target: Tensor,
    steps: int,
    overshoot: float,
    leak: float,
) -> Moved:
    z, taken = z.clone(), torch.zeros_like(target)
    with torch.no_grad():
        active = head(z).argmax(1) != target
    for _ in range(steps):
        if not bool(active.any()):
            break
        ids = active.nonzero().squeeze(1)
        margin, slope = _slope(head, z[ids], target[ids])
        if leak > 0:
            # beside a coordinate that is about to come alive, one that would only sink is no help
            _, open_slope = _slope(head, z[ids].clamp(min=_ALIVE), target[ids], z[ids])
            slope = slope + leak * open_slope.clamp(min=0) * (z[ids] <= 0)
        size = slope.square().sum(1)
        move = (1 + overshoot) * margin.abs() / (size + _FLOOR)
        z[ids] += move[:, None] * slope
        taken[ids] += (size > 0).long()
        with torch.no_grad():
            active[ids] = head(z[ids]).argmax(1) != target[ids]
    return Moved(z, ~active, taken, torch.zeros_like(active))


def _slope(
    head: Callable[[Tensor], Tensor], z: Tensor, target: Tensor, judged: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The target's logit minus the largest one, [n], and its gradient at `z`, [n, d].

    Which one is the largest is decided at `judged`, where that is given.
    """
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        logits = head(at)
        top = (logits if judged is None else head(judged)).argmax(1)
        margin = logits.gather(1, target[:, None]) - logits.gather(1, top[:, None])
        # of the vectors alone: the classifier's own weights collect nothing
        (slope,) = torch.autograd.grad(margin.sum(), at)
    return margin.detach().squeeze(1), slope
