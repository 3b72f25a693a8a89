"""Losses of self-supervised pretraining: two views of the same images, no labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError
from truecue.losses.precision import wide


def nt_xent(z1: Tensor, z2: Tensor, tau: float) -> Tensor:
    """SimCLR's loss: of all other rows, which one is the other view of the same image?

    Args:
        z1: float [n, d], projections of the first view, of any length above 0.
        z2: float [n, d], of the second view, row by row of the same images.
        tau: temperature, above 0.

    Returns:
        [2n], at least 0: the cross-entropy of every row among the 2n - 1 others, by cosine over
        `tau`; first those of `z1`. In float32, whatever mixed precision made of the inputs.

    Raises:
        ConfigError: tau is not above 0.

    Source: Chen et al. 2020, eq. (1).
    """
    if not tau > 0:
        raise ConfigError(f"the temperature of NT-Xent must be above 0; got {tau}")
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.cat([wide(z1), wide(z2)]), dim=1)
        alike = z @ z.T / tau
        n = len(z1)
        alike = alike.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
        other = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(alike, other, reduction="none")


def simsiam(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """SimSiam's loss: each view's prediction points where the other view's projection does.

    Args:
        q1: float [n, d], predictions of the first view.
        q2: float [n, d], of the second.
        z1: float [n, d], projections of the first view; no gradient reaches them.
        z2: float [n, d], of the second.

    Returns:
        [n], in [-1, 1]: minus the mean of the two cosines, in float32. The code of "Self-supervised
        Debiasing Using Low Rank Regularization" lacks the minus.

    Source: Chen & He 2021, eq. (2).
    """
    with torch.autocast(z1.device.type, enabled=False):
        first = F.cosine_similarity(wide(q1), wide(z2).detach(), dim=1)
        second = F.cosine_similarity(wide(q2), wide(z1).detach(), dim=1)
        return -(first + second) / 2


def vicreg(z1: Tensor, z2: Tensor) -> Tensor:
    """VICReg's loss: 25 x invariance + 25 x variance + covariance.

    Args:
        z1: float [n, d], expanded features of the first view; n at least 2.
        z2: float [n, d], of the second.

    Returns:
        A scalar, at least 0, in float32: variance and covariance are properties of the batch. The
        hinge's two branches are averaged, the covariances' two are added.

    Source: Bardes, Ponce & LeCun 2022, eq. (6).
    """
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = wide(z1), wide(z2)
        apart = F.mse_loss(z1, z2)
        narrow = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (z1, z2)) / 2
        return 25 * apart + 25 * narrow + _covariance(z1) + _covariance(z2)


def _covariance(z: Tensor) -> Tensor:
    """Squares of the covariances of different features, summed and divided by their number."""
    z = z - z.mean(0)
    n, d = z.shape
    # |Z'Z| = |ZZ'|: the smaller of the two is enough
    gram = z.T @ z if d <= n else z @ z.T
    own = z.square().sum(0)
    return (gram.square().sum() - own.square().sum()) / ((n - 1) ** 2 * d)
