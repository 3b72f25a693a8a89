"""A generator whose factors are known: one coloured shape, painted by formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from truecue.errors import ConfigError
from truecue.nets.generator import Generator
from truecue.seeds import derive

FACTORS = ("x", "y", "scale", "rotation", "hue", "shape", "background")
"""What an image is made of."""
SIZES = (5, 5, 4, 4, 6, 4, 3)
"""Values of each factor on the grid that metrics are computed on: 28,800 images."""


class ShapesGenerator(Generator):
    """A shape on a plain background, of which seven factors are known; differentiable throughout.

    Each factor depends on one direction of the latent, and these seven directions are orthonormal
    and drawn by the seed: no coordinate of the latent means one thing. The effect is curved: a
    factor goes by the normal distribution function of its coordinate, so that it is uniform on
    [0, 1] over the prior. The first linear map has equal singular values, which leaves SeFa
    nothing to go by. Latents have `dim` - 7 directions without any effect.

    Args:
        dim: length of the latent, at least 7.
        size: of the images' sides, in pixels.
        seed: of the directions.

    Raises:
        ConfigError: the latent is too short.
    """

    axes: Tensor

    def __init__(self, dim: int = 10, size: int = 32, seed: int = 0):
        super().__init__(dim=dim, image_range=(0, 1))
        if dim < len(FACTORS):
            raise ConfigError(f"{len(FACTORS)} factors need as many numbers; dim is {dim}")
        self.size = size
        rng = torch.Generator().manual_seed(derive(seed, "axes of shapes"))
        axes, _ = torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64))
        self.register_buffer("axes", axes[:, : len(FACTORS)].T.float().contiguous())
        place = (torch.arange(size) + 0.5) * (2 / size) - 1
        self.register_buffer("_grid", torch.stack(torch.meshgrid(place, place, indexing="xy")))

    def factors(self, u: Tensor) -> Tensor:
        """The factors [n, 7], each in [0, 1], of latents [n, d]."""
        factors: Tensor = torch.special.ndtr(u @ self.axes.T)
        return factors

    def render(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """Images [n, 3, size, size] of latents [n, d]."""
        return self.paint(self.factors(u if shift is None else u + shift))

    def paint(self, factors: Tensor) -> Tensor:
        """Images [n, 3, size, size] in [0, 1] of factors [n, 7] in [0, 1]."""
        x, y, scale, turn, hue, shape, back = factors[..., None, None].unbind(1)
        across, down = self.get_buffer("_grid")
        across, down = across - (x - 0.5), down - (y - 0.5)
        angle = (turn - 0.5) * (2 * math.pi / 3)  # half a turn would look like none
        one = across * angle.cos() + down * angle.sin()
        other = down * angle.cos() - across * angle.sin()
        long = 0.25 + 0.3 * scale
        power = 2 + 6 * shape  # from an ellipse to all but a rectangle
        parts = [(side.abs() / length).clamp(min=1e-3) ** power
                 for side, length in ((one, long), (other, long / 2))]  # fmt: skip
        inside = ((1 - (parts[0] + parts[1]) ** (1 / power)) * long * self.size / 4).sigmoid()
        phases = torch.arange(3, device=factors.device).view(3, 1, 1) / 3
        wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (0.8 * hue[:, None] + phases))
        ground = (0.1 + 0.5 * back)[:, None]
        images: Tensor = ground + inside[:, None] * (wheel - ground)
        return images

    def first_linear_maps(self) -> list[Tensor]:
        """The seven directions."""
        return [self.axes]

    @torch.no_grad()
    def grid_images(self, ids: Tensor, sizes: tuple[int, ...] = SIZES) -> Tensor:
        """Images of places on the grid of all factors, in [-1, 1].

        Args:
            ids: int64 [n]; a place is the sum of factor index times the product of later sizes.
            sizes: values of each factor, spread evenly over [0, 1].
        """
        count = torch.tensor(sizes, device=ids.device)
        later = count.flip(0).cumprod(0).flip(0) // count
        index = ids[:, None] // later % count
        return self.paint((index + 0.5).to(self.axes.dtype) / count) * 2 - 1

    def _about(self) -> tuple[object, ...]:
        return (*super()._about(), self.size)
