"""Moving along directions: images of every step, and how much each direction changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.errors import ConfigError, DataError
from truecue.nets.generator import Generator, as_uint8, check_finite, finite

BATCH = 250
"""Images that are rendered at a time."""
HALF_GREY = 1 / 255
"""Half a grey level of 255, of images in [-1, 1]: what changes less cannot be seen."""


class Effects(NamedTuple):
    """What steps along each of k directions do to images."""

    change: Tensor
    """float [k], root of the mean squared change of a pixel of images in [0, 1] from a step back to
    a step forward, averaged over codes."""
    visible: Tensor
    """bool [k], whether some pixel changes by half a grey level, on average over codes."""


@torch.no_grad()
def traverse(
    generator: Generator, rows: Tensor, codes: Tensor, steps: Sequence[float],
    seed: int | None = None,
) -> Tensor:  # fmt: skip
    """Images of codes that are moved along each direction.

    Args:
        generator: on any device.
        rows: float [k, d], directions.
        codes: float [n, d], where to begin, in the space that directions live in.
        steps: how far to go along a direction, e.g. from -3 to 3.
        seed: of the codes, to be named where an image is not finite; None: not known.

    Returns:
        uint8 [n, k, steps, c, h, w], in main memory.

    Raises:
        ConfigError: there are no steps.
        DataError: an image is not finite.
    """
    if not steps:
        raise ConfigError("a traversal needs at least one step")
    n, k, m = len(codes), len(rows), len(steps)
    shifts = torch.tensor(steps)[None, :, None] * rows[:, None].cpu()  # [k, m, d]
    shifts = shifts.expand(n, k, m, -1).flatten(0, 2)
    starts = codes[:, None].cpu().expand(n, k * m, -1).flatten(0, 1)
    images: Tensor = as_uint8(render(generator, starts, shifts, seed)).unflatten(0, (n, k, m))
    return images


@torch.no_grad()
def effects(
    generator: Generator, rows: Tensor, codes: Tensor, step: float, seed: int | None = None
) -> Effects:
    """How much the image changes along each direction.

    Args:
        generator: on any device.
        rows: float [k, d], directions.
        codes: float [n, d].
        step: from so far back to so far forward.
        seed: of the codes, to be named where an image is not finite; None: not known.

    Raises:
        DataError: an image is not finite.
    """
    squared, most = [], []
    for row in rows.cpu():
        shift = (step * row).expand_as(codes)
        ahead, back = (render(generator, codes, way, seed) for way in (shift, -shift))
        ends = ahead - back
        squared.append((ends / 2).square().flatten(1).mean(1).sqrt().mean())
        most.append(ends.abs().flatten(1).amax(1).mean())
    return Effects(torch.stack(squared), torch.stack(most) >= HALF_GREY)


@torch.no_grad()
def render(generator: Generator, codes: Tensor, shifts: Tensor, seed: int | None = None) -> Tensor:
    """Images in [-1, 1], float [n, c, h, w] in main memory, of moved codes [n, d].

    Args:
        generator: on any device.
        codes: float [n, d].
        shifts: float [n, d].
        seed: of the codes, to be named where an image is not finite; None: not known.

    Raises:
        DataError: an image is not finite. It is the step's fault where the same codes give finite
            images without it.
    """
    made = []
    for u, shift in zip(codes.split(BATCH), shifts.split(BATCH), strict=True):
        images = generator(u.to(generator.device), shift.to(generator.device)).float().cpu()
        if not bool(finite(images)):
            check_finite(generator(u.to(generator.device)), seed)
            drawn = "" if seed is None else f" drawn with seed {seed}"
            raise DataError(
                f"the generator's images are not finite for codes{drawn} that are moved; make the"
                " steps smaller (the longest shift here has length"
                f" {float(shift.norm(dim=1).max()):.3g}), or mend the generator"
            )
        made.append(images)
    return torch.cat(made)


def symmetric(reach: float, n: int) -> list[float]:
    """N steps from -reach to reach, 0 in the middle.

    Raises:
        ConfigError: the reach is not above 0, or n is even or below 3.
    """
    if not reach > 0 or n < 3 or n % 2 == 0:
        raise ConfigError(
            "a traversal goes as far back as forward: give a step above 0 and an odd number of"
            f" columns from 3 on; got {reach:g} and {n}"
        )
    half = n // 2
    return [reach * ((i - half) / half) for i in range(n)]  # linspace may miss 0
