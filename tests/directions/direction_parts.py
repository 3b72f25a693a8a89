"""Small generators that the tests of directions share."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from truecue.directions.directions import Directions
from truecue.engine.device import Device
from truecue.nets.adapters import PlainGenerator
from truecue.nets.generator import Generator


@cache
def cpu() -> Device:
    return Device("cpu")


class Blob(nn.Module):
    """Two numbers to a 12x12 picture: where a spot is (curved), and how bright it is."""

    def forward(self, z: Tensor) -> Tensor:
        place = torch.linspace(-1, 1, 12)
        x = 0.8 * z[:, 0].tanh()[:, None, None]
        spot = torch.exp(-((place[None, None] - x) ** 2 + place[None, :, None] ** 2) / 0.08)
        return (torch.sigmoid(1.5 * z[:, 1])[:, None, None] * spot)[:, None]


class Isometric(nn.Module):
    """Two numbers to a 12x12 picture, linearly and without stretching either."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(5)
        self.register_buffer("q", torch.linalg.qr(torch.randn(144, 2, generator=rng)).Q)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.q.T).view(-1, 1, 12, 12)


class Tensors(nn.Module):
    """Codes to pictures by any function."""

    def __init__(self, fn) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, z: Tensor) -> Tensor:
        return self.fn(z)


def wrapped(net: nn.Module, dim: int = 2, image_range=(0, 1), **more) -> Generator:
    return PlainGenerator(net, dim=dim, image_range=image_range, **more)


def made_by(fn, dim: int = 2, image_range=(0, 1)) -> Generator:
    return wrapped(Tensors(fn), dim, image_range)


def broken_far_out(reach: float = 2.0) -> Generator:
    """Grey pictures, not finite where the first number is further from 0 than `reach`."""

    def paint(z: Tensor) -> Tensor:
        images = z.mean(1).sigmoid()[:, None, None, None].expand(-1, 1, 12, 12)
        return torch.where((z[:, 0].abs() > reach)[:, None, None, None], torch.nan, images)

    return made_by(paint)


class Conv(nn.Module):
    """A small convolutional generator with batch statistics: 6 numbers to 3 x 8 x 8."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(dim, 8, 4, 1, 0, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.relu(self.norm(self.first(z[:, :, None, None])))))


def conv(dim: int = 6, seed: int = 0) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return wrapped(Conv(dim), dim, (-1, 1))


def rotation(degrees: float) -> Directions:
    """The two axes, turned by so much."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Directions(torch.tensor([[c, s], [-s, c]]), "a rotation")


def angle(d: Directions) -> float:
    """By how much directions in the plane are turned from the axes, whatever signs and order."""
    a = math.degrees(math.atan2(float(d.matrix[0, 1]), float(d.matrix[0, 0]))) % 90
    return a if a <= 45 else a - 90
