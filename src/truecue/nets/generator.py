"""Generators: frozen networks from codes to images, wrapped so that directions can be found.

`Generator` is what everything else works with. The classes below it wrap a user's own network:
`PlainGenerator` (DCGAN, MLP GAN, SNGAN, ProgGAN, the decoder of a VAE), `StyleGenerator`,
`ClassGenerator` (BigGAN) and `PairedGenerator` (the decoder of SiH).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from truecue.errors import ConfigError, DataError
from truecue.nets.vae import PairedVAE
from truecue.seeds import derive

Space = Literal["z", "w"]
"""Where directions live: in the latent that is drawn, or behind a mapping network."""

SAME = 1e-5
"""Two renderings of one code may differ by this much of the image range, in any pixel."""
CENTRE = 4096
"""Codes whose mean is the centre of truncation."""

_WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Generator(nn.Module, ABC):
    """A frozen network from codes [n, d] to images [n, c, h, w].

    Parameters get no gradients and the module stays in evaluation mode, whatever is called.

    Args:
        dim: length d of the codes that directions move.
        image_range: least and largest value of the images that `render` gives, e.g. (-1, 1).
        space: where directions live.
        n_latent: length of what is drawn; left out: `dim`.

    Raises:
        ConfigError: the range is not given or not a range.
    """

    def __init__(
        self,
        *,
        dim: int,
        image_range: tuple[float, float] | None,
        space: Space = "z",
        n_latent: int | None = None,
    ):
        super().__init__()
        if image_range is None:
            raise ConfigError(
                "the range of the generator's images is not known; say it: image_range=(0, 1) for"
                " a sigmoid at the end, image_range=(-1, 1) for a tanh"
            )
        low, high = map(float, image_range)
        if not low < high:
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
            told.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return told.hexdigest()

    def _about(self) -> tuple[Any, ...]:
        return self.dim, self.n_latent, self.image_range, self.space

    def _freeze(self) -> None:
        self.requires_grad_(False).eval()
        for held in self.parameters():  # which may be on a device already
            self.register_buffer("_place", torch.zeros((), device=held.device), persistent=False)
            break


class PlainGenerator(Generator):
    """A network that takes a latent and gives an image.

    Args:
        net: the user's network.
        dim: length of its latent.
        image_range: of its images; of the sigmoid's, where `logits` is set.
        shape: (c, h, w) of images that come flat.
        as_map: codes are handed over as maps of one pixel [n, d, 1, 1].
        logits: `net` ends before its sigmoid.
        pixel_norm: codes are divided by the root of their mean square first, where `net` leaves
            that to the caller (ProgGAN): only the angle of a code matters then.
        first: names of the layers of `net` that see the code first; left out: its first layer with
            weights.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        dim: int,
        image_range: tuple[float, float] | None,
        shape: tuple[int, int, int] | None = None,
        as_map: bool = False,
        logits: bool = False,
        pixel_norm: bool = False,
        first: Sequence[str] = (),
    ):
        super().__init__(dim=dim, image_range=image_range)
        self.net, self.shape, self.as_map = net, shape, as_map
        self.logits, self.pixel_norm, self.first = logits, pixel_norm, tuple(first)
        self._freeze()

    def render(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """Images of latents [n, d]."""
        z = u if shift is None else u + shift
        if self.pixel_norm:
            z = normed(z)
        images: Tensor = self.net(z[:, :, None, None] if self.as_map else z)
        if self.shape is not None:
            images = images.view(-1, *self.shape)
        return images.sigmoid() if self.logits else images

    def first_linear_maps(self) -> list[Tensor]:
        """Of the layers named `first`, or of the first one with weights."""
        if self.first:
            layers = [_named(self.net, name) for name in self.first]
        else:
            layers = _weighted(self.net)[:1]
        return [linear_map(layer, self.dim) for layer in layers]

    def _about(self) -> tuple[Any, ...]:
        return (*super()._about(), self.shape, self.as_map, self.logits, self.pixel_norm)


class StyleGenerator(Generator):
    """A mapping network and a synthesis network (StyleGAN, StyleGAN2).

    The centre of truncation is computed once, as the mean of 4,096 mapped codes, and kept: a new
    estimate for each image would make two renderings of one code differ.

    Args:
        mapping: latents [n, n_latent] to codes w [n, d].
        synthesis: w [n, d], or [n, layers, d] where `layers` is given, to images.
        dim: d.
        image_range: of the images.
        n_latent: length of the latents; left out: d.
        space: "w" moves codes behind the mapping, "z" latents before it.
        layers: how many layers the synthesis wants w for; None: it takes one w for all.
        moved: the layers that a shift reaches; left out: all.
        truncation: w is pulled to the centre by this factor; 1 leaves it.
        truncated: how many of the first layers are truncated; left out: all.
        truncate_shift: the shift is scaled by `truncation`, too (StyleGAN2 as used for SRE).
        options: handed to each call of the synthesis. Switch random noise off here:
            `{"noise_mode": "const"}` or `{"randomize_noise": False}`.
        styles: names of the synthesis' layers from w to styles, for SeFa; left out: all whose name
            ends in `affine`, `modulation` or `style_mod.lin`.
        seed: of the codes that the centre is the mean of.
    """

    centre: Tensor

    def __init__(
        self,
        mapping: nn.Module,
        synthesis: nn.Module,
        *,
        dim: int,
        image_range: tuple[float, float] | None,
        n_latent: int | None = None,
        space: Space = "w",
        layers: int | None = None,
        moved: Sequence[int] | None = None,
        truncation: float = 1.0,
        truncated: int | None = None,
        truncate_shift: bool = True,
        options: Mapping[str, Any] | None = None,
        styles: Sequence[str] = (),
        seed: int = 0,
    ):
        latent = n_latent or dim
        size = dim if space == "w" else latent
        super().__init__(dim=size, image_range=image_range, space=space, n_latent=latent)
        if layers is None and (moved is not None or truncated is not None):
            raise ConfigError("moved and truncated name layers; say how many layers there are")
        self.mapping, self.synthesis, self.layers = mapping, synthesis, layers
        self.moved = None if moved is None else tuple(moved)
        self.truncation, self.truncated, self.truncate_shift = truncation, truncated, truncate_shift
        self.options, self.styles = dict(options or {}), tuple(styles)
        self._freeze()
        rng = torch.Generator().manual_seed(derive(seed, "centre of truncation"))
        with torch.no_grad():
            mapped = mapping(torch.randn(CENTRE, latent, generator=rng).to(self.device))
        self.register_buffer("centre", mapped.mean(0))

    def to_space(self, z: Tensor) -> Tensor:
        """W of latents, before truncation; latents themselves where directions live there."""
        return self.mapping(z) if self.space == "w" else z

    def render(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """Images of codes, after truncation."""
        if self.space == "z":
            u, shift = self.mapping(u if shift is None else u + shift), None
        pull = torch.full((self.layers or 1, 1), 1.0, device=u.device)
        pull[: self.truncated] = self.truncation
        w = self.centre + pull * (u - self.centre)[:, None]
        if shift is not None:
            reach = torch.ones_like(pull)
            if self.moved is not None:
                reach.zero_()[list(self.moved)] = 1
            w = w + (pull * reach if self.truncate_shift else reach) * shift[:, None]
        images: Tensor = self.synthesis(w if self.layers else w.squeeze(1), **self.options)
        return images

    def first_linear_maps(self) -> list[Tensor]:
        """Of the layers from w to styles; in z, of the mapping's first layer."""
        if self.space == "z":
            found = _weighted(self.mapping)[:1]
        elif self.styles:
            found = [_named(self.synthesis, name) for name in self.styles]
        else:
            ends = ("affine", "modulation", "style_mod.lin")
            found = [m for name, m in self.synthesis.named_modules() if name.endswith(ends)]
        return [linear_map(layer, self.dim) for layer in found]

    def _about(self) -> tuple[Any, ...]:
        settings = self.layers, self.moved, self.truncation, self.truncated, self.truncate_shift
        return (*super()._about(), *settings, sorted(self.options.items()))


class ClassGenerator(Generator):
    """A network that also wants a class (BigGAN); all images are of one class.

    Args:
        net: called as `net(z, label, **options)`.
        dim: length of z.
        image_range: of the images.
        label: the class.
        n_classes: the class is handed over as a one-hot vector of this length; left out: as int64.
        options: handed to each call.
        first: names of the layers of `net` that see z first.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        dim: int,
        image_range: tuple[float, float] | None,
        label: int,
        n_classes: int | None = None,
        options: Mapping[str, Any] | None = None,
        first: Sequence[str] = (),
    ):
        super().__init__(dim=dim, image_range=image_range)
        self.net, self.label, self.n_classes = net, label, n_classes
        self.options, self.first = dict(options or {}), tuple(first)
        self._freeze()

    def render(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """Images of latents [n, d], all of the class."""
        z = u if shift is None else u + shift
        label = torch.full((len(z),), self.label, device=z.device)
        if self.n_classes is not None:
            label = nn.functional.one_hot(label, self.n_classes).to(z.dtype)
        images: Tensor = self.net(z, label, **self.options)
        return images

    def first_linear_maps(self) -> list[Tensor]:
        """Of the layers named `first`."""
        return [linear_map(_named(self.net, name), self.dim) for name in self.first]

    def _about(self) -> tuple[Any, ...]:
        return (*super()._about(), self.label, self.n_classes, sorted(self.options.items()))


class PairedGenerator(Generator):
    """The decoder of SiH: a code is the signal latent followed by the bias latent.

    Args:
        vae: as `load_vae` reads it; its encoders are not kept.
    """

    def __init__(self, vae: PairedVAE):
        super().__init__(dim=2 * vae.latent, image_range=(0, 1))
        self.decoder = vae.decoder
        self._freeze()

    def render(self, u: Tensor, shift: Tensor | None = None) -> Tensor:
        """Images of both latents side by side [n, 2 latent]."""
        images: Tensor = self.decoder(u if shift is None else u + shift).sigmoid()
        return images

    def first_linear_maps(self) -> list[Tensor]:
        """Of the decoder's first layer."""
        return [linear_map(_weighted(self.decoder)[0], self.dim)]


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
            are not float [n, c, h, w], not finite, or far outside the range declared.
    """
    u = generator.codes(4, seed, "check")
    first, second = generator.render(u), generator.render(u)
    if first.dim() != 4 or len(first) != len(u) or not first.is_floating_point():
        raise DataError(
            f"the generator must give float images [{len(u)}, c, h, w]; it gave"
            f" {str(first.dtype).removeprefix('torch.')} {list(first.shape)}"
        )
    if not bool(first.isfinite().all()):
        raise DataError(f"the generator's images are not finite for codes drawn with seed {seed}")
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
    if least < low - slack or largest > high + slack:
        raise DataError(
            f"images were said to lie in [{low:g}, {high:g}], and run from {least:.3g} to"
            f" {largest:.3g}; declare the right image_range"
        )


def normed(z: Tensor) -> Tensor:
    """Codes divided by the root of their mean square, as ProgGAN and StyleGAN begin."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def as_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8; what overshoots is cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _weighted(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, _WEIGHTED)]


def _named(net: nn.Module, name: str) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError:
        known = [n for n, m in net.named_modules() if isinstance(m, _WEIGHTED)]
        raise ConfigError(
            f"the generator has no layer '{name}'; those with weights: {', '.join(known[:12])}"
        ) from None
