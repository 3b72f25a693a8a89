"""Encoders to the mean of a latent, for variational autoencoders whose halves also classify.

Each takes float images [b, c, h, w] to features [b, n_features]: the mean behind a ReLU, which is
what a linear head sees. The mean itself, and a head for the log-variance, are parts of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from truecue.nets.resnet import ResNet
from truecue.nets.small import Flat


class Latent(nn.Module, ABC):
    """A body, and a head on it for the mean of the latent.

    Args:
        body: images [b, c, side, side] to what the heads see.
        n_features: length of the latent.
        side: of the images that the body wants; others are resized. None: it takes them as they
            are.
    """

    def __init__(self, body: nn.Module, n_features: int, side: int | None):
        super().__init__()
        self.body, self.n_features, self.side = body, n_features, side
        self.mean = self.new_head()

    @abstractmethod
    def new_head(self) -> nn.Module:
        """A fresh head: what the body gives to [b, n_features]."""

    def seen(self, x: Tensor) -> Tensor:
        """What the heads see of images [b, c, h, w]."""
        seen: Tensor = self.body(x if self.side is None else resized(x, self.side))
        return seen

    def forward(self, x: Tensor) -> Tensor:
        """The mean, negative values cut off, [b, n_features] of images [b, c, h, w]."""
        return F.relu(self.mean(self.seen(x)))


class LatentMLP(Latent):
    """Two linear layers of 100 with ReLU, and heads to 100 numbers.

    Source: github mvandenhi/Signal-is-Harder, commit c59a844; 265,600 parameters for 3 x 28 x 28
    pixels, both heads counted.
    """

    def __init__(self, channels: int, size: int):
        linear, relu = nn.Linear, nn.ReLU
        n = channels * size * size
        body = nn.Sequential(Flat(n), linear(n, 100), relu(), linear(100, 100), relu())
        super().__init__(body, 100, None)

    def new_head(self) -> nn.Module:
        """A linear layer."""
        return nn.Linear(100, 100)


class LatentResNet(Latent):
    """ResNet-18 with a 4x4 convolution for a stem, without pooling, and heads to 512 numbers.

    Maps of 32-pixel images have sides of 16, 16, 8, 4 and 2; a head is a convolution of 2x2.
    Images of other sizes are resized to 32 pixels.

    Source: github mvandenhi/Signal-is-Harder, commit c59a844; 13,268,352 parameters for three
    channels, both heads counted, and without the 525,312 that the code declares and does not use.
    """

    def __init__(self, channels: int):
        trunk = ResNet(channels, 18)
        stem = nn.Conv2d(channels, 64, 4, stride=2, padding=1, bias=False)
        stages = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        super().__init__(nn.Sequential(stem, nn.BatchNorm2d(64), nn.ReLU(), *stages), 512, 32)

    def new_head(self) -> nn.Module:
        """A convolution of 2x2, without padding."""
        return nn.Sequential(nn.Conv2d(512, 512, 2), nn.Flatten())


class LatentConv(Latent):
    """4x4 convolutions of stride 2 down to maps of 4x4, and heads to 256 numbers.

    Images are resized to 64 pixels (four convolutions: 32, 64, 128, 256 channels), those of more
    than 96 to 128 pixels (five, the last two of 256). Batch normalisation and ReLU follow each.
    Not from the paper, which has no images of that size.
    """

    def __init__(self, channels: int, size: int):
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *conv_widths(size))):
            conv = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(nn.Sequential(*layers, nn.Flatten()), 256, conv_side(size))

    def new_head(self) -> nn.Module:
        """A linear layer."""
        return nn.Linear(256 * 4 * 4, 256)


def conv_side(size: int) -> int:
    """The side of the images that `LatentConv` works on."""
    return 64 if size <= 96 else 128


def conv_widths(size: int) -> tuple[int, ...]:
    """The channels of the maps of `LatentConv`, from the largest maps to those of 4x4."""
    return (32, 64, 128, 256) if conv_side(size) == 64 else (32, 64, 128, 256, 256)


def resized(x: Tensor, side: int) -> Tensor:
    """Images [b, c, h, w] with sides of `side` pixels (bilinear, smoothed where they shrink)."""
    if x.shape[2:] == (side, side):
        return x
    shrinks = max(x.shape[2:]) > side
    wide = x.float() if shrinks and x.element_size() < 4 else x  # a CPU smooths no narrower type
    return F.interpolate(
        wide, size=(side, side), mode="bilinear", align_corners=False, antialias=shrinks
    ).to(x.dtype)
