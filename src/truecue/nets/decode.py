"""Decoders from two latents, side by side [b, n], to images [b, c, h, w] before the sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from truecue.nets.latent import conv_side, conv_widths, resized


class DecoderMLP(nn.Module):
    """Linear layers of 512 and 1024 with ReLU, and one to the pixels.

    Source: github mvandenhi/Signal-is-Harder, commit c59a844; 3,039,024 parameters for two latents
    of 100 and 3 x 28 x 28 pixels.
    """

    def __init__(self, n_latent: int, channels: int, size: int):
        super().__init__()
        self.shape = channels, size, size
        linear, relu = nn.Linear, nn.ReLU
        out = linear(1024, channels * size * size)
        self.layers = nn.Sequential(linear(n_latent, 512), relu(), linear(512, 1024), relu(), out)

    def forward(self, z: Tensor) -> Tensor:
        """Images before the sigmoid."""
        flat: Tensor = self.layers(z)
        return flat.view(-1, *self.shape)


class DecoderResNet(nn.Module):
    """A mirrored ResNet-18, from one pixel to maps of 16x16, and a convolution at 32x32.

    Images of other sizes are resized from 32 pixels.

    Source: github mvandenhi/Signal-is-Harder, commit c59a844; 50,154,051 parameters for two latents
    of 512 and three channels, without the 1,049,600 that the code declares and does not use.
    """

    def __init__(self, n_latent: int, channels: int, size: int):
        super().__init__()
        self.size, blocks, width = size, list[nn.Module](), n_latent
        for _ in range(4):
            blocks += [_Block(width, grows=False), _Block(width, grows=True)]
            width //= 2
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Images before the sigmoid."""
        maps = self.blocks(z[:, :, None, None])
        return resized(self.out(_doubled(maps)), self.size)


class DecoderConv(nn.Module):
    """A linear layer to maps of 4x4; then each time twice the side, and a 3x3 convolution.

    Channels are those of `LatentConv` in reverse; the last convolution, at 64 or 128 pixels, gives
    the image, which is resized where it has another size.
    """

    def __init__(self, n_latent: int, channels: int, size: int):
        super().__init__()
        self.size, side = size, conv_side(size)
        widths = conv_widths(size)[::-1]
        self.first = nn.Linear(n_latent, widths[0] * 4 * 4)
        layers: list[nn.Module] = [nn.Unflatten(1, (widths[0], 4, 4)), nn.ReLU()]
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers += [nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Upsample(scale_factor=2))
        self.out = nn.Conv2d(widths[-1], channels, 3, padding=1)
        assert 4 * 2 ** len(widths) == side

    def forward(self, z: Tensor) -> Tensor:
        """Images before the sigmoid."""
        return resized(self.out(self.layers(self.first(z))), self.size)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; one that grows halves channels and doubles sides."""

    def __init__(self, width: int, *, grows: bool):
        super().__init__()
        after = width // 2 if grows else width
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, after, 3, padding=1, bias=grows)
        self.bn2 = nn.BatchNorm2d(after)
        self.short = (
            nn.Sequential(nn.Conv2d(width, after, 3, padding=1), nn.BatchNorm2d(after))
            if grows
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        if self.short is None:
            return F.relu(self.bn2(self.conv2(h)) + x)
        return F.relu(self.bn2(self.conv2(_doubled(h))) + self.short(_doubled(x)))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


DECODERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "vae-mlp": DecoderMLP,
    "vae-resnet": DecoderResNet,
    "vae-conv64": DecoderConv,
}
"""By the name of the encoder that they belong to; each takes latent length, channels and size."""
