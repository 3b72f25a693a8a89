"""Terms of a variational autoencoder's loss, and SiH's weights; one value for each sample."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError

ReconName = Literal["bce", "mse"]
"""How an image is compared with the decoder's: binary cross-entropy or squared difference."""


def kl_to_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of N(mean, exp(logvar)) from N(0, 1), summed over the latent.

    Args:
        mean: float [n, d].
        logvar: float [n, d].

    Returns:
        [n], at least 0: -1/2 sum (1 + logvar - mean^2 - exp(logvar)).
    """
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)


def reconstruction(logits: Tensor, images: Tensor, how: ReconName) -> Tensor:
    """How far decoded images are from the true ones, summed over channels and pixels.

    Args:
        logits: float [n, c, h, w], the decoded images before the sigmoid.
        images: float [n, c, h, w] in [0, 1].
        how: "bce", whose least value is not 0 but the images' own entropy, or "mse".

    Returns:
        [n], at least 0.

    Raises:
        ConfigError: there is no such comparison.
        ValueError: the shapes differ.
    """
    if how not in get_args(ReconName):
        raise ConfigError(f"images are compared by {' or '.join(get_args(ReconName))}; got '{how}'")
    if logits.shape != images.shape:
        raise ValueError(
            f"decoded images are {list(logits.shape)} and the true ones {list(images.shape)}"
        )
    if how == "bce":
        each = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
    else:
        each = (logits.sigmoid() - images).square()
    return each.flatten(1).sum(1)


@torch.no_grad()
def easy_and_hard(ce_biased: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """What SiH's biased and signal classifier weight a sample's cross-entropy by.

    With p the probability that the biased classifier gives to the label: p^q and (1 - p)^q. The
    first makes the gradient that of generalised cross-entropy. Both are constants: the second
    one's slope at p = 1 is infinite.

    Args:
        ce_biased: [n], the biased classifier's cross-entropy, -ln p.
        q: in (0, 1]; towards 0 both weights go to 1.

    Returns:
        Two tensors [n] in [0, 1].

    Raises:
        ConfigError: q is out of range.

    Source: github mvandenhi/Signal-is-Harder, commit c59a844.
    """
    if not 0 < q <= 1:
        raise ConfigError(f"q of the weights must lie in (0, 1]; got {q}")
    log_p = -ce_biased.clamp(min=0)
    return (q * log_p).exp(), (-log_p.expm1()) ** q


def sampled(mean: Tensor, logvar: Tensor) -> Tensor:
    """A sample [n, d] of N(mean, exp(logvar)), differentiable in both."""
    return mean + ((0.5 * logvar).exp() + 1e-8) * torch.randn_like(mean)
