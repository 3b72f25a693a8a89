"""What directions want of a generator: codes to images, frozen, deterministic, of a known range."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from truecue.errors import ConfigError, DataError
from truecue.seeds import derive

Space = Literal["z", "w"]
"""Where directions live: in the latent that is drawn, or behind a mapping network."""

SAME = 1e-5
"""Two renderings of one code may differ by this much of the image range, in any pixel."""


class Generator(nn.Module, ABC):
    """A frozen network from codes [n, d] to images [n, c, h, w].

    Parameters get no gradients and the module stays in evaluation mode, whatever is called.

    Args:
        dim: length d of the codes that directions move.
        image_range: least and largest value of the images that `render` gives, e.g. (-1, 1); must
            be given.
        space: where directions live.
        n_latent: length of what is drawn; left out: `dim`.

    Raises:
        ConfigError: the range is not given or not a range.
    """

    def __init__(
        self,
        *,
        dim: int,
        image_range: tuple[float, float] | None = None,
        space: Space = "z",
        n_latent: int | None = None,
    ):
        super().__init__()
        if image_range is None:
            raise ConfigError(
                "the range of the generator's images is not known; say it: image_range=(0, 1) for"
                " a sigmoid at the end, image_range=(-1, 1) for a tanh"
            )
        try:
            low, high = map(float, image_range)
        except (TypeError, ValueError):
            raise ConfigError(f"image_range must be (least, largest); got {image_range}") from None
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"image_range must be (least, largest); got ({low:g}, {high:g})")
        if dim < 1:
            raise ConfigError(f"a generator's codes need at least one number; dim is {dim}")
        self.dim, self.n_latent = dim, n_latent or dim
        self.image_range: tuple[float, float] = (low, high)
        self.space: Space = space
        self.register_buffer("_place", torch.zeros(()), persistent=False)

    @abstractmethod
    def render(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """Images [n, c, h, w] in `image_range` of codes [n, d], moved by `shift` [n, d]."""

    def forward(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """The same images with `image_range` mapped to [-1, 1]; differentiable in both."""
        low, high = self.image_range
        images = self.render(u, shift)
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Latents [n, n_latent] from N(0, I), in main memory."""
        return torch.randn(n, self.n_latent, generator=rng)

    def to_space(self, z: Tensor) -> Tensor:
        """The codes [n, d] of latents [n, n_latent]."""
        return z

    def first_linear_maps(self) -> list[Tensor]:
        """Matrices [m, d] of the linear layers that see a code first; empty where not known."""
        return []

    @torch.no_grad()
    def codes(self, n: int, *key: int | str) -> Tensor:
        """N codes [n, d] on the generator's device; a function of the key."""
        rng = torch.Generator().manual_seed(derive("codes", *key))
        return self.to_space(self.sample(n, rng).to(self.device))

    @property
    def device(self) -> torch.device:
        """Where the generator computes."""
        return self.get_buffer("_place").device

    @property
    def title(self) -> str:
        """A few words for reports."""
        return f"{type(self).__name__}, {self.dim} numbers in {self.space}"

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def digest(self) -> str:
        """Names this generator by its settings and weights, in 16 hexadecimal digits."""
        told = hashlib.blake2b(repr((type(self).__name__, *self._about())).encode(), digest_size=8)
        for name, tensor in sorted(self.state_dict().items()):
            told.update(name.encode())
            # as bytes, since numpy does not know bfloat16
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            told.update(plain.numpy().tobytes())
        return told.hexdigest()

    def _about(self) -> tuple[Any, ...]:
        return self.dim, self.n_latent, self.image_range, self.space

    def _freeze(self) -> None:
        self.requires_grad_(False).eval()
        for held in self.parameters():  # which may be on a device already
            self.register_buffer("_place", torch.zeros((), device=held.device), persistent=False)
            break


@torch.no_grad()
def linear_map(layer: nn.Module, dim: int) -> Tensor:
    """The matrix of a linear layer on codes, with one row for each of its outputs.

    A layer of convolutions sees the code as a map of one pixel. The bias is left out.

    Args:
        layer: a linear layer, or a (transposed) convolution of any kernel and padding.
        dim: length d of the codes.

    Returns:
        [m, d], so that the layer's flattened output is the matrix times the code, plus the bias.

    Raises:
        DataError: the layer does not take such codes.
    """
    weights = [p for p in layer.parameters() if p.dim() >= 2]
    like = weights[0] if weights else torch.zeros(1, 1)
    codes = torch.eye(dim, device=like.device, dtype=like.dtype)
    codes = torch.cat([codes, torch.zeros_like(codes[:1])])
    try:
        made = layer(codes[:, :, None, None] if like.dim() == 4 else codes).flatten(1)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"the layer {layer} does not take codes of {dim} numbers ({reason}); name the layers"
            " that see the code first"
        ) from None
    matrix: Tensor = (made[:-1] - made[-1:]).T.contiguous()
    return matrix


@torch.no_grad()
def check_generator(generator: Generator, seed: int = 0) -> None:
    """Render a few codes twice, and refuse a generator that directions cannot be found in.

    Raises:
        DataError: two renderings of one code differ by more than 1e-5 of the image range, images
            are not float [n, c, h, w], not finite, far outside the range declared, or within
            a 128th of it.
    """
    u = generator.codes(4, seed, "check")
    try:
        first, second = generator.render(u), generator.render(u)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"the generator cannot render codes {list(u.shape)}: {type(error).__name__}:"
            f" {_first_line(error)}"
        ) from error
    if first.dim() != 4 or len(first) != len(u) or not first.is_floating_point():
        raise DataError(
            f"the generator must give float images [{len(u)}, c, h, w]; it gave"
            f" {str(first.dtype).removeprefix('torch.')} {list(first.shape)}"
        )
    check_finite(first, seed)
    low, high = generator.image_range
    apart = float((first - second).abs().max()) / (high - low)
    if apart > SAME:
        raise DataError(
            f"the generator is not deterministic: two renderings of the same code differ by"
            f" {apart:.2g} of the image range (at most {SAME:g} may be). Fix its noise, put it into"
            " evaluation mode, and compute the centre of truncation once"
        )
    least, largest = float(first.min()), float(first.max())
    slack = (high - low) / 2  # style generators overshoot
    flat = 0 < largest - least < (high - low) / 128  # two of 256 grey levels
    if least < low - slack or largest > high + slack or flat:
        raise DataError(
            f"images were said to lie in [{low:g}, {high:g}], and run from {least:.3g} to"
            f" {largest:.3g}; declare the right image_range"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def finite(images: Tensor) -> Tensor:
    """Whether all pixels are finite: bool [], where the images are, so that nothing waits for it.

    One pass over the images, where `isfinite` takes four.
    """
    return images.detach().sum(dtype=torch.float32).isfinite()


def check_finite(images: Tensor, seed: int | None = None) -> None:
    """Refuse images that are not finite.

    Args:
        images: as the generator gives them.
        seed: of their codes, to be named; None: not known.

    Raises:
        DataError: a pixel is not finite.
    """
    if not bool(finite(images)):
        drawn = "" if seed is None else f" for codes drawn with seed {seed}"
        raise DataError(f"the generator's images are not finite{drawn}; mend the generator")


def as_uint8(images: Tensor, seed: int | None = None) -> Tensor:
    """Images in [-1, 1] as uint8; what overshoots is cut off.

    Args:
        images: as `Generator.forward` gives them.
        seed: of their codes, to be named where an image is not finite; None: not known.

    Raises:
        DataError: a pixel is not finite.
    """
    check_finite(images, seed)
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
