"""Generators around a user's own network.

`PlainGenerator` is for DCGAN, MLP GAN, SNGAN, ProgGAN and decoders of VAEs, `StyleGenerator` for
StyleGAN, `ClassGenerator` for BigGAN, and `PairedGenerator` for the decoder of SiH.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from truecue.errors import ConfigError
from truecue.nets.generator import Generator, Space, linear_map
from truecue.nets.vae import PairedVAE
from truecue.seeds import derive

CENTRE = 4096
"""Codes whose mean is the centre of truncation."""

_WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


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
        image_range: tuple[float, float] | None = None,
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

    Raises:
        ConfigError: layers are named that are not there, or the mapping gives other codes.
    """

    centre: Tensor

    def __init__(
        self,
        mapping: nn.Module,
        synthesis: nn.Module,
        *,
        dim: int,
        image_range: tuple[float, float] | None = None,
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
        self.options, self.styles, self.seed = dict(options or {}), tuple(styles), seed
        wrong = [i for i in self.moved or () if not -(layers or 0) <= i < (layers or 0)]
        if wrong:
            raise ConfigError(f"moved names layer {wrong[0]}, and there are {layers}")
        self._freeze()
        rng = torch.Generator().manual_seed(derive(seed, "centre of truncation"))
        with torch.no_grad():
            mapped = mapping(torch.randn(CENTRE, latent, generator=rng).to(self.device))
        if mapped.dim() != 2 or (space == "w" and mapped.shape[1] != dim):
            wanted = dim if space == "w" else "d"
            raise ConfigError(
                f"the mapping must give codes [n, {wanted}], one for all layers; it gave"
                f" {['n', *mapped.shape[1:]]}"
            )
        # no part of the digest: it follows from weights and seed, but for its last bits
        self.register_buffer("centre", mapped.mean(0), persistent=False)

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
        return (*super()._about(), *settings, self.seed, sorted(self.options.items()))


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
        image_range: tuple[float, float] | None = None,
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


def normed(z: Tensor) -> Tensor:
    """Codes divided by the root of their mean square, as ProgGAN and StyleGAN begin."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


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
