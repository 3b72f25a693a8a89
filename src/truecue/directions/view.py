"""A generator's images as a classifier takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from truecue.errors import DataError
from truecue.nets.classifier import Classifier
from truecue.nets.latent import resized


class ClassifierView:
    """How a classifier sees a generator's images.

    Args:
        net: on its device, in evaluation mode.
        shape: (c, h, w) of the generator's images.

    Raises:
        DataError: the channels cannot be brought to the classifier's, or the images are not square
            and would have to be resized.
    """

    def __init__(self, net: Classifier, shape: Sequence[int]):
        channels, height, width = shape
        self.net, self.channels = net, channels
        self.side = int(net.spec.get("size", max(height, width)))
        self.resizes = max(height, width) != self.side
        if channels != net.channels and 1 not in (channels, net.channels):
            raise DataError(
                f"the generator's images have {channels} channels and the classifier takes"
                f" {net.channels}"
            )
        if self.resizes and height != width:
            raise DataError(
                f"the generator's images are {height} x {width} pixels, and the classifier was"
                f" trained on {self.side}; only square images can be resized"
            )
        self.said = [
            "images are rounded to bytes before the classifier sees them, as real ones are"
        ]
        """What is done to images, a sentence (without a full stop) each."""
        if channels < net.channels:
            self.said.append(f"grey images are given {net.channels} equal channels")
        elif channels > net.channels:
            self.said.append(f"the {channels} channels are averaged to one grey one")
        if self.resizes:
            self.said.append(
                f"images of {height} pixels are resized to the classifier's {self.side}"
            )

    def adapt(self, images: Tensor) -> Tensor:
        """Images uint8 [b, c, h, w] of the generator as the classifier takes them, uint8."""
        if self.channels != self.net.channels:
            images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
            images = images.expand(-1, self.net.channels, -1, -1)
        if self.resizes:
            images = resized(images.float(), self.side).round().clamp(0, 255).to(torch.uint8)
        return images

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [b, classes], in main memory."""
        device = next(self.net.parameters()).device
        parts = self.adapt(images).split(1000)
        return torch.cat([self.net(part.to(device)).float().cpu() for part in parts])
