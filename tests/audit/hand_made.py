"""Paired networks whose latents are known by hand, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.nets.vae import Latents


class Painter(nn.Module):
    """Colour is the bias, the band that it is in is the signal: three classes, 12 x 12 pixels.

    Args:
        mixed: share of the band that the bias latent decides, with the class after its own.
        unreachable: a class that the biased half never says.
    """

    n_classes, channels, size, side = 3, 3, 12, 12

    def __init__(self, mixed: float = 0.0, unreachable: int | None = None):
        super().__init__()
        self.mixed = mixed
        self.weight = nn.Parameter(torch.tensor(4.0))
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("alive", torch.ones(3))
        if unreachable is not None:
            self.offset[unreachable], self.alive[unreachable] = -1e4, 0

    def encode(self, x: Tensor) -> Latents:
        pixels = x.float() / 255
        colour = pixels.amax((2, 3))
        band = pixels.amax(1).unflatten(1, (3, 4)).mean((2, 3))
        nothing = torch.zeros_like(colour)
        return Latents(colour, nothing, band, nothing)

    def image(self, z_s: Tensor, z_b: Tensor) -> Tensor:
        band = (1 - self.mixed) * z_s + self.mixed * z_b.roll(1, 1)
        rows = band.repeat_interleave(4, 1)[:, None, :, None].clamp(0, 1)
        # full colour, in the band: the largest value of a channel is the colour again
        rows = rows / rows.amax(2, keepdim=True).clamp(min=1e-6)
        return z_b.clamp(0, 1)[:, :, None, None] * rows.expand(-1, -1, -1, 12)

    def logits_b(self, z_b: Tensor) -> Tensor:
        return self.alive * self.weight * z_b.relu() + self.offset

    def logits_s(self, z_s: Tensor) -> Tensor:
        return self.weight * z_s.relu()


class BlueBlind(Painter):
    """A `Painter` that has no blue: the latent's third number does not get into pictures."""

    def image(self, z_s: Tensor, z_b: Tensor) -> Tensor:
        return super().image(z_s, z_b * torch.tensor([1.0, 1.0, 0.0]))


class Halves(nn.Module):
    """Grey, two classes, 8 x 8 pixels: the upper half is the bias, the lower half the signal."""

    n_classes, channels, size, side = 2, 1, 8, 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(4.0))

    def encode(self, x: Tensor) -> Latents:
        upper, lower = (x.float() / 255).unflatten(2, (2, 4)).mean((1, 3, 4)).unbind(1)
        z_b, z_s = (torch.stack([v, 1 - v], 1) for v in (upper, lower))
        return Latents(z_b, torch.zeros_like(z_b), z_s, torch.zeros_like(z_s))

    def image(self, z_s: Tensor, z_b: Tensor) -> Tensor:
        upper, lower = ((z[:, 0] - z[:, 1] + 1) / 2 for z in (z_b, z_s))
        rows = torch.stack([upper, lower], 1).clamp(0, 1).repeat_interleave(4, 1)
        return rows[:, None, :, None].expand(-1, -1, -1, 8)

    def logits_b(self, z_b: Tensor) -> Tensor:
        return self.weight * z_b.relu()

    def logits_s(self, z_s: Tensor) -> Tensor:
        return self.weight * z_s.relu()


def painted(n: int, conflicting: float, seed: int) -> ImageSet:
    """Images for a `Painter`; a colour of strength 0.8, the others at 0.1 to 0.2."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    colour = torch.where(torch.rand(n, generator=rng) < conflicting, (y + 1) % 3, y)
    z_b = 0.1 + 0.1 * torch.rand(n, 3, generator=rng)
    z_b[torch.arange(n), colour] = 0.8
    z_s = torch.nn.functional.one_hot(y, 3).float() * 0.7 + 0.3
    images = (Painter().image(z_s, z_b) * 255).round().to(torch.uint8)
    names = ("red", "green", "blue")
    return ImageSet(images, y, ("top", "middle", "low"), {"colour": Attribute(colour, names)})


def painted_splits(n: int = 90) -> Splits:
    """Splits for a `Painter`: every tenth image conflicting, more in the test images."""
    parts = (painted(n, share, seed) for seed, share in enumerate((0.1, 0.1, 0.67)))
    return Splits(*parts, bias="colour", aligned=torch.eye(3, dtype=torch.bool))


def grey(n: int = 40) -> ImageSet:
    """Images for `Halves`: class 0 bright in both halves; some with the other upper half."""
    y = torch.arange(n) % 2
    upper = torch.where(torch.arange(n) % 8 == 7, y, 1 - y)
    values = torch.stack([upper, 1 - y], 1).repeat_interleave(4, 1)[:, None, :, None]
    images = (40 + 170 * values.expand(-1, 1, 8, 8)).to(torch.uint8)
    return ImageSet(images.contiguous(), y, ("bright", "dark"))
