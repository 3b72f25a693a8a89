"""Textures and shapes as formulas, for cues that are drawn into images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Formula = Callable[[Tensor, Tensor], Tensor]
"""From coordinates (to the right, downwards) to values, all of one shape."""

_TURN = 2 * math.pi
_EDGE = 2.0  # how steeply a texture goes from dark to bright


def _wave(phase: Tensor) -> Tensor:
    """Bright and dark by turns, once per whole number, in 0..1."""
    return (0.5 + 0.5 * _EDGE * torch.sin(_TURN * phase)).clamp(0, 1)


def _lines(phase: Tensor) -> Tensor:
    """A narrow bright line at each whole number, in 0..1."""
    return (_EDGE * (torch.cos(_TURN * phase) - 0.4)).clamp(0, 1)


def _bricks(u: Tensor, v: Tensor) -> Tensor:
    row = (0.7 * v).floor()
    return torch.maximum(_lines(0.7 * v), _lines(0.35 * u + 0.5 * row.remainder(2)))


def _checks(u: Tensor, v: Tensor) -> Tensor:
    both = torch.sin(math.pi * u) * torch.sin(math.pi * v)
    return (0.5 + 2 * _EDGE * both).clamp(0, 1)


def _dots(u: Tensor, v: Tensor) -> Tensor:
    both = torch.cos(_TURN * 0.8 * u) + torch.cos(_TURN * 0.8 * v)
    return (_EDGE * (both - 0.5)).clamp(0, 1)


TEXTURES: dict[str, Formula] = {
    "level stripes": lambda u, v: _wave(v),
    "upright stripes": lambda u, v: _wave(u),
    "rising stripes": lambda u, v: _wave((u + v) * math.sqrt(0.5)),
    "falling stripes": lambda u, v: _wave((u - v) * math.sqrt(0.5)),
    "checks": _checks,
    "dots": _dots,
    "grid": lambda u, v: torch.maximum(_lines(0.6 * u), _lines(0.6 * v)),
    "lozenges": lambda u, v: torch.maximum(_lines(0.5 * (u + v)), _lines(0.5 * (u - v))),
    "waves": lambda u, v: _wave(0.8 * v + 0.4 * torch.sin(math.pi * 0.7 * u)),
    "bricks": _bricks,
}
"""Brightness in 0..1; coordinates in periods."""


def _bar(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(1 - u.abs(), 0.35 - v.abs())


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_bar(u, v), _bar(v, u))


def _turned(formula: Formula) -> Formula:
    """By an eighth of a turn."""
    half = math.sqrt(0.5)
    return lambda u, v: formula(half * (u + v), half * (u - v))


def _square(u: Tensor, v: Tensor) -> Tensor:
    return 0.85 - torch.maximum(u.abs(), v.abs())


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    slope = math.sqrt(0.75) * u.abs() - 0.5 * v
    return torch.minimum(0.6 - v, 0.55 - slope)


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points; between them the edge comes in to 0.45."""
    radius = torch.hypot(u, v)
    sector = _TURN / 5
    angle = ((torch.atan2(u, -v) + sector / 2).remainder(sector) - sector / 2).abs()
    x, y = radius * angle.cos(), radius * angle.sin()
    # the edge of half a point runs from (1, 0) to the notch
    a, b = 0.45 * math.cos(sector / 2), 0.45 * math.sin(sector / 2)
    return (b * (1 - x) - (1 - a) * y) / math.hypot(b, 1 - a)


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(1 - torch.hypot(u, v), torch.hypot(u - 0.5, v + 0.1) - 0.75)


SHAPES: dict[str, Formula] = {
    "disc": lambda u, v: 0.95 - torch.hypot(u, v),
    "cross": _cross,
    "triangle": _triangle,
    "ring": lambda u, v: 0.3 - (torch.hypot(u, v) - 0.7).abs(),
    "square": _square,
    "star": _star,
    "bar": _bar,
    "crescent": _crescent,
    "diamond": _turned(lambda u, v: 0.72 - torch.maximum(u.abs(), v.abs())),
    "saltire": _turned(_cross),
}
"""About the distance to the edge, positive inside; coordinates in radii, from the centre."""
