"""Encoders for small images, and the plain networks of the methods' papers.

Each takes float images [b, c, h, w] to features [b, n_features].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.nets.fourier import wide


class Flat(nn.Module):
    """Images [b, c, h, w] as rows [b, n_inputs].

    Args:
        n_inputs: channels x height x width.
    """

    def __init__(self, n_inputs: int):
        super().__init__()
        self.n_inputs = n_inputs

    def forward(self, x: Tensor) -> Tensor:
        """The rows.

        Raises:
            ValueError: the images have another number of values.
        """
        flat = x.flatten(1)
        if flat.shape[1] != self.n_inputs:
            raise ValueError(
                f"the network takes images of {self.n_inputs} values; got {list(x.shape[1:])}"
            )
        return flat


class MLP(nn.Module):
    """Linear layers, each followed by ReLU, on the flattened image.

    Args:
        n_inputs: channels x height x width.
        widths: of the layers, at least one. A paper's depth counts the head as well: its "five
            layers" are four widths here.
        leak: slope of the units below zero; 0 is ReLU.
    """

    def __init__(self, n_inputs: int, widths: Sequence[int], leak: float = 0.0):
        super().__init__()
        sizes = [n_inputs, *widths]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU(leak) if leak else nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.flat, self.n_features = Flat(n_inputs), sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, n_features] of images [b, c, h, w].

        Raises:
            ValueError: the images have another number of values.
        """
        features: Tensor = self.layers(self.flat(x))
        return features


class Conv3(nn.Module):
    """Three 3x3 convolutions (16, 32, 64 channels) with batch normalisation, pooled to a vector.

    The default for small images without a paper to follow; 23,696 parameters for three channels.
    Maps are pooled before they are normalised, on a quarter of the pixels: with the narrow layers
    a step takes a third of the time of the common order with 32, 64 and 128 channels.
    """

    n_features = 64

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, 16, 3, padding=1, bias=False)
        self.conv2, self.bn2 = _conv(16, 32, 3, padding=1, bias=False)
        self.conv3, self.bn3 = _conv(32, 64, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 64] of images [b, c, h, w] of at least 4 x 4 pixels."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last maps [b, 64, h / 4, w / 4], whose means are the features."""
        if x.device.type == "cpu":  # a step takes three fifths of the time, a prediction half
            x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        x = F.relu(self.bn2(F.max_pool2d(self.conv2(x), 2)))
        return F.relu(self.bn3(self.conv3(x)))


class CNN3(nn.Module):
    """The shallow network of DeNetDM for 32-pixel images: three 5x5 convolutions without padding.

    At 32 pixels the last map is one pixel, and flattening it gives the 64 features of the authors'
    code. Larger maps are averaged, which leaves that case and the parameters as they are.

    Source: github kadarsh22/DeNetDM, commit 790e363; 156,480 parameters for three channels.
    """

    n_features = 64

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, 32, 5)
        self.conv2, self.bn2 = _conv(32, 64, 5)
        self.conv3, self.bn3 = _conv(64, 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 64] of images [b, c, h, w] of at least 32 x 32 pixels."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last maps [b, 64, h', w'], whose means are the features."""
        x = _relu_of_max(self.bn1(self.conv1(x)))
        x = _relu_of_max(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)))


class CNN4(nn.Module):
    """The shallow network of DeNetDM for 224-pixel images: four convolutions without padding.

    Few layers, not few operations: more than twice those of a ResNet-18.

    Source: github kadarsh22/DeNetDM, commit 790e363; 3,035,904 parameters for three channels.
    """

    n_features = 512

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, 64, 7)
        self.conv2, self.bn2 = _conv(64, 128, 3)
        self.conv3, self.bn3 = _conv(128, 512, 3)
        self.conv4, self.bn4 = _conv(512, 512, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 512] of images [b, c, h, w] of at least 42 x 42 pixels."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last maps [b, 512, h', w'], whose means are the features."""
        x = _relu_of_max(self.bn1(self.conv1(x)))
        x = _relu_of_max(self.bn2(self.conv2(x)))
        # Here, and only here, the authors pool before the batch normalisation.
        x = F.relu(self.bn3(F.max_pool2d(self.conv3(x), 2)))
        return F.relu(self.bn4(self.conv4(x)))


class SimpleConv(nn.Module):
    """The network of FairKL for Biased MNIST: four padded 7x7 convolutions, averaged to a vector.

    Maps keep the size of the image, so that it is slow for its size; on a CPU all layers but the
    first are computed by Fourier transforms. 529,920 parameters for three channels.

    Args:
        channels: of the images.
        signed: end with tanh instead of ReLU, so that features can point away from each other.

    Source: github EIDOSLAB/unbiased-contrastive-learning, commit 25b3981.
    """

    n_features = 128

    def __init__(self, channels: int, *, signed: bool = False):
        super().__init__()
        self.signed = signed
        self.conv1, self.bn1 = _conv(channels, 16, 7, padding=3)
        self.conv2, self.bn2 = _conv(16, 32, 7, padding=3)
        self.conv3, self.bn3 = _conv(32, 64, 7, padding=3)
        self.conv4, self.bn4 = _conv(64, 128, 7, padding=3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 128] of images [b, c, h, w]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(wide(self.conv2, x)))
        x = F.relu(self.bn3(wide(self.conv3, x)))
        x = self.bn4(wide(self.conv4, x))
        return (x.tanh() if self.signed else F.relu(x)).mean((2, 3))


class Conv(nn.Module):
    """Three 4x4 convolutions of stride 2 (64, 128, 256 channels), pooled to a vector.

    Source: github geonyeong-park/Low-rank-regularization, commit 5a5c458; 659,328 parameters for
    three channels.
    """

    n_features = 256

    def __init__(self, channels: int):
        super().__init__()
        halving: dict[str, Any] = {"stride": 2, "padding": 1, "bias": False}
        self.conv1, self.bn1 = _conv(channels, 64, 4, **halving)
        self.conv2, self.bn2 = _conv(64, 128, 4, **halving)
        self.conv3, self.bn3 = _conv(128, 256, 4, **halving)

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 256] of images [b, c, h, w] of at least 8 x 8 pixels."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x))).mean((2, 3))


class CifarResNet(nn.Module):
    """ResNet for 32-pixel images (He et al. 2016, section 4.2), shortcuts without parameters.

    Its parameters are named as in github akamaster/pytorch_resnet_cifar10, whose files' `linear`
    is the head of a `Classifier`; `truecue.nets.resnet.load_cifar_resnet` reads them. 269,072
    parameters at depth 20.

    Args:
        channels: of the images.
        depth: 6 n + 2 for n blocks in each of three stages: 20, 56.
    """

    n_features = 64

    def __init__(self, channels: int, depth: int):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1, self.bn1 = _conv(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _cifar_stage(16, 16, n)
        self.layer2 = _cifar_stage(16, 32, n)
        self.layer3 = _cifar_stage(32, 64, n)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 64] of images [b, c, h, w]."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last maps [b, 64, h / 4, w / 4], whose means are the features."""
        x = F.relu(self.bn1(self.conv1(x)))
        maps: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return maps


class Projected(nn.Module):
    """An encoder followed by a linear layer without ReLU, for features of a wanted length."""

    def __init__(self, encoder: nn.Module, n_inputs: int, n_features: int):
        super().__init__()
        self.encoder, self.project = encoder, nn.Linear(n_inputs, n_features)
        self.n_features = n_features

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, n_features] of images [b, c, h, w]."""
        features: Tensor = self.project(self.encoder(x))
        return features


class Pair(nn.Module):
    """Two encoders that see the same image; their features stand side by side."""

    def __init__(self, first: nn.Module, second: nn.Module, n_features: int):
        super().__init__()
        self.first, self.second, self.n_features = first, second, n_features

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, n_features] of images [b, c, h, w], those of the first encoder in front."""
        return torch.cat([self.first(x), self.second(x)], 1)


class Centred(nn.Module):
    """An encoder whose features have mean 0 and deviation 1 each, over a batch in training.

    Features behind ReLU all point one way, and more so the deeper an untrained network is.
    """

    def __init__(self, encoder: nn.Module, n_features: int):
        super().__init__()
        self.encoder, self.n_features = encoder, n_features
        self.norm = nn.BatchNorm1d(n_features, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, n_features] of images [b, c, h, w]."""
        features: Tensor = self.norm(self.encoder(x))
        return features


class Unit(nn.Module):
    """An encoder whose features are scaled to length 1: places on a sphere."""

    def __init__(self, encoder: nn.Module, n_features: int):
        super().__init__()
        self.encoder, self.n_features = encoder, n_features

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, n_features] of length 1, of images [b, c, h, w]."""
        features: Tensor = self.encoder(x)
        kind = features.dtype
        # mixed precision would leave lengths that differ in the third digit
        with torch.autocast(x.device.type, enabled=False):
            wide = features if kind == torch.float64 else features.float()
            unit = F.normalize(wide, dim=1, eps=1e-12)
        # a network that is narrow as a whole wants its own type back
        return unit if torch.is_autocast_enabled(x.device.type) else unit.to(kind)


class _CifarBlock(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.stride = 1 if before == after else 2
        self.conv1, self.bn1 = _conv(before, after, 3, stride=self.stride, padding=1, bias=False)
        self.conv2, self.bn2 = _conv(after, after, 3, padding=1, bias=False)
        self.pad = (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:  # option A: every second pixel, and zeros for the new channels
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


def _cifar_stage(before: int, after: int, n: int) -> nn.Sequential:
    return nn.Sequential(
        _CifarBlock(before, after), *(_CifarBlock(after, after) for _ in range(n - 1))
    )


def _conv(
    before: int, after: int, kernel: int, **settings: Any
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(before, after, kernel, **settings), nn.BatchNorm2d(after)


def _relu_of_max(x: Tensor) -> Tensor:
    """ReLU, then a 2x2 maximum: the same numbers in the other order, on a quarter of the pixels."""
    return F.relu(F.max_pool2d(x, 2))
