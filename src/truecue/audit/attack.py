"""What a feature looks for: images changed so that the feature rises.

The feature attack of "Salient ImageNet" (arXiv 2110.04301) and "Spuriosity Rankings"
(arXiv 2212.02648). On a network that was trained against adversarial images the change shows the
cue itself, larger or more often. On others it is noise that people cannot read.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from truecue.audit.halves import as_bytes
from truecue.errors import DataError
from truecue.nets.classifier import Classifier
from truecue.nets.maps import evaluating

STEPS = 100
ETA = 10.0
"""Length of a step for 3 x 224 x 224 values."""
WARNING = (
    "amplified images are left out: they show a cue only for an encoder that was trained to be"
    " adversarially robust, and noise for others"
)
"""What is said where the encoder is not robust."""
_TINY = 1e-10


def length_for(channels: int, height: int, width: int) -> float:
    """A step of the same share of the unit cube's diagonal as 10 is for 3 x 224 x 224 values."""
    return ETA * math.sqrt(channels * height * width / (3 * 224 * 224))


def feature_attack(
    features: Callable[[Tensor], Tensor],
    images: Tensor,
    feature: Tensor,
    *,
    eta: float | None = None,
    steps: int = STEPS,
) -> Tensor:
    """Raise one feature of each image by gradient ascent inside the unit cube.

    x <- clip(x + eta g / (|g| + 1e-10), 0, 1), with g the gradient of the image's feature and |g|
    its L2 norm over all values of the image. An image without a gradient stays as it is.

    Args:
        features: from images [b, c, h, w] to features [b, f]; each row must depend on its own
            image alone, as it does in evaluation mode.
        images: float [b, c, h, w] in [0, 1].
        feature: int64 [b], the feature to raise in each image.
        eta: length of a step. Left out: 10 for 3 x 224 x 224 values, and by `length_for` for
            images of other sizes, as 10 would cross a small image in a few steps.
        steps: number of steps.

    Returns:
        [b, c, h, w] in [0, 1].

    Raises:
        DataError: a gradient is not finite.
    """
    length = length_for(*images.shape[1:]) if eta is None else eta
    x, rows = images.detach().clone(), feature.to(images.device)[:, None]
    for _ in range(steps):
        with torch.enable_grad():
            at = x.requires_grad_()
            (slope,) = torch.autograd.grad(features(at).gather(1, rows).sum(), at)
        size = torch.linalg.vector_norm(slope, dim=(1, 2, 3), keepdim=True)
        x = (at.detach() + length * slope / (size + _TINY)).clamp(0, 1)
    if not bool(x.isfinite().all()):
        raise DataError("the gradient of a feature is not finite: the encoder's weights are broken")
    return x


def amplified(
    net: Classifier,
    images: Tensor,
    feature: Tensor,
    *,
    eta: float | None = None,
    steps: int = STEPS,
) -> Tensor:
    """`feature_attack` on a classifier's features, from and to images of whole values.

    The network is in evaluation mode for the time of the call, and collects no gradients.

    Args:
        net: on the images' device.
        images: uint8 [b, c, h, w].
        feature: int64 [b].
        eta: see `feature_attack`.
        steps: see `feature_attack`.

    Returns:
        uint8 [b, c, h, w].
    """

    def features(x: Tensor) -> Tensor:
        found: Tensor = net.encoder(net.normalised(x))
        return found

    with evaluating(net):
        return as_bytes(feature_attack(features, images.float() / 255, feature, eta=eta,
                                       steps=steps))  # fmt: skip
