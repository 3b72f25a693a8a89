"""Small sets of unit vectors in the plane, given by their angles, whose losses are known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Toy(NamedTuple):
    z: Tensor
    y: Tensor
    b: Tensor


def unit(degrees: list[float]) -> Tensor:
    angles = [math.radians(d) for d in degrees]
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles], dtype=torch.float64)


def toy(degrees: list[float], y: list[int], b: list[int] | None = None) -> Toy:
    return Toy(unit(degrees), torch.tensor(y), torch.tensor(b or [0] * len(y)))


A = toy([0, 60, 90, 180], [0, 0, 1, 1], [0, 1, 0, 1])
B = toy([0, 20, 50, 100, 170, 250], [0, 0, 0, 1, 1, 2])
C = toy(
    [0, 10, 40, 55, 90, 100, 150, 170], [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]
)  # fmt: skip
D = toy([0, 10, 40, 90, 100, 150], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1])
E = toy([0, 10, 90, 100], [0, 0, 1, 1], [0, 0, 1, 1])


def random_toy(seed: int = 0, n: int = 24, d: int = 5, classes: int = 3, biases: int = 3) -> Toy:
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=rng, dtype=torch.float64)
    y = torch.randint(classes, (n,), generator=rng)
    return Toy(z, y, torch.randint(biases, (n,), generator=rng))
