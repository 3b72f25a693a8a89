"""What a step along each direction does to attributes that other models see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truecue.directions.traverse import render
from truecue.errors import DataError
from truecue.nets.generator import Generator, as_uint8

Attributes = Callable[[Tensor], Tensor]
"""From images, uint8 [b, c, h, w], to the probabilities of attributes, float [b, a]."""


class Rescoring(NamedTuple):
    """Change of attribute probabilities by a step along each direction."""

    shift: Tensor
    """float [k, a], absolute value of the mean change; a good direction has one large entry."""
    change: Tensor
    """float [k, a], mean of the absolute change: large also where changes cancel."""
    reached: Tensor
    """float [k, a], share of images that have the attribute (p > 0.5) after the step."""
    step: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: v.tolist() if isinstance(v, Tensor) else v for name, v in
                self._asdict().items()}  # fmt: skip


@torch.no_grad()
def rescore(
    generator: Generator, rows: Tensor, step: float, attributes: Attributes, *, n: int = 512,
    seed: int = 0, batch: int = 250,
) -> Rescoring:  # fmt: skip
    """How much attributes change by a step along each direction.

    Args:
        generator: on any device.
        rows: float [k, d], directions.
        step: along a direction.
        attributes: gives probabilities of images as bytes.
        n: codes.
        seed: of the codes.
        batch: images that `attributes` sees at a time.

    Raises:
        DataError: probabilities are not [b, a] in [0, 1], or an image is not finite.
    """
    codes = generator.codes(n, seed, "rescore")

    def seen(shift: Tensor) -> Tensor:
        pictures = as_uint8(render(generator, codes, shift.cpu().expand(n, -1), seed))
        p = torch.cat([attributes(part).float().cpu() for part in pictures.split(batch)])
        if p.dim() != 2 or len(p) != n or not bool(((p >= 0) & (p <= 1)).all()):
            raise DataError(
                f"attributes must be probabilities [{n}, a] in [0, 1]; got {list(p.shape)}"
            )
        return p

    before = seen(torch.zeros(generator.dim))
    after = torch.stack([seen(step * row) for row in rows])
    return compare(before, after, step)


def compare(before: Tensor, after: Tensor, step: float) -> Rescoring:
    """The table of probabilities [n, a] before, and [k, n, a] after a step along each direction."""
    moved = after - before
    reached = (after > 0.5).float().mean(1)
    return Rescoring(moved.mean(1).abs(), moved.abs().mean(1), reached, step)
