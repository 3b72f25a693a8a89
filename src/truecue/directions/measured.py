"""Directions that change what a function of one's own measures in images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from truecue.directions.directions import Directions, unit
from truecue.directions.find import BATCH
from truecue.errors import ConfigError, DataError
from truecue.nets.generator import Generator, as_uint8

Measure = Callable[[Tensor], Mapping[str, Tensor]]
"""From images, uint8 [b, c, h, w], to one number for each, float [b], under one or more names."""


@torch.no_grad()
def measured_directions(
    generator: Generator, measure: Measure, *, n: int = 2000, seed: int = 0
) -> Directions:
    """Directions along which measured values rise fastest.

    They are the slopes of straight lines from codes to values, by least squares over generated
    images.

    Args:
        generator: on any device.
        measure: see `Measure`.
        n: generated images that are measured; more than a code has numbers.
        seed: of the codes.

    Returns:
        A direction of length 1 for each value, with its name; as strengths the R^2 of the lines:
        how much of the value depends on the code in a straight line.

    Raises:
        ConfigError: n is too small.
        DataError: what is measured is not one finite number for each image, or is the same for all
            images; or an image is not finite.

    Source: none; proposed here.
    """
    if n <= generator.dim + 1:
        raise ConfigError(
            f"a straight line from {generator.dim} numbers needs more images than {n}"
        )
    z = generator.codes(n, seed, "measured")
    parts = [values_of(measure, as_uint8(generator(part), seed)) for part in z.split(BATCH)]
    names, values = parts[0][0], torch.cat([part for _, part in parts]).double()
    spread = values.std(0)
    for name, one in zip(names, spread.tolist(), strict=True):
        if not one > 0:
            raise DataError(f"'{name}' is the same for all generated images; nothing changes it")
    wanted = (values - values.mean(0)) / spread
    x = z.cpu().double()
    x = x - x.mean(0)
    w = torch.linalg.lstsq(x, wanted).solution
    explained = 1 - (wanted - x @ w).square().sum(0) / wanted.square().sum(0)
    return Directions(
        unit(w.T),
        f"measured in {n:,} generated images",
        names,
        tuple(explained.tolist()),
        generator.space,
        generator.digest(),
    )


def values_of(measure: Measure, images: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """What is measured in images, uint8 [b, c, h, w]: names, and float [b, values].

    Raises:
        DataError: it is not one finite number for each image under each name.
    """
    found = measure(images)
    if not isinstance(found, Mapping) or not found:
        raise DataError("a measure must give values by name, {'name': tensor [b], ...}")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.shape != images.shape[:1]:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(
                f"'{name}' must be one number for each of {len(images)} images; got {shape}"
            )
        if not bool(value.isfinite().all()):
            raise DataError(f"'{name}' is not finite for some images")
    return tuple(map(str, found)), torch.stack([v.float().cpu() for v in found.values()], 1)
