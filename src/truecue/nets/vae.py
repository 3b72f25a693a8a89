"""Two classifiers with latents of their own, and one decoder that makes an image out of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.config import suggest
from truecue.errors import ConfigError, DataError
from truecue.nets.build import build
from truecue.nets.classifier import (
    Classifier,
    built_from,
    fit_weights,
    read_card,
    read_weights,
    write_model,
)
from truecue.nets.decode import DECODERS
from truecue.nets.latent import Latent

VAEKind = Literal["mlp", "resnet", "conv64"]
"""Networks of a paired VAE; the encoders are those called `vae-KIND`."""

_KIND = "paired-vae"


class Latents(NamedTuple):
    """Means and logarithms of variances of both latents, float [b, latent] each."""

    z_b_mean: Tensor
    z_b_logvar: Tensor
    z_s_mean: Tensor
    z_s_logvar: Tensor


class Half(nn.Module):
    """A classifier whose features are the mean of a latent, and the latent's log-variance.

    Args:
        net: its encoder is a `Latent`.
        logvar_max: larger log-variances are cut off.

    Raises:
        TypeError: the encoder is another one.
    """

    def __init__(self, net: Classifier, logvar_max: float):
        super().__init__()
        if not isinstance(net.encoder, Latent):
            raise TypeError(
                f"a half needs an encoder to a latent ({', '.join(DECODERS)}); got"
                f" {net.spec.get('arch', type(net.encoder).__name__)}"
            )
        self.net, self.logvar_max = net, logvar_max
        self.logvar = net.encoder.new_head()

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [b, latent] of normalised images (`net.pixels`) [b, c, h, w]."""
        encoder = self.net.encoder
        assert isinstance(encoder, Latent)
        seen = encoder.seen(pixels)
        return encoder.mean(seen), self.logvar(seen).clamp(max=self.logvar_max)

    def logits(self, z: Tensor) -> Tensor:
        """Logits [b, k] of latents [b, latent]; negative values of a latent do not reach them."""
        logits: Tensor = self.net.head(F.relu(z))
        return logits


class PairedVAE(nn.Module):
    """A biased half, a signal half, and a decoder that both share.

    The classifiers of the halves, `signal.net` and `biased.net`, are networks in their own right:
    on the mean of the latent, they take uint8 images to logits.

    Args:
        signal: a fresh `vae-KIND` classifier.
        biased: another one of the same architecture.
        logvar_max: larger log-variances of latents are cut off.

    Raises:
        ValueError: the two are not built alike.
        TypeError: they are not `vae-KIND` classifiers.

    Source: arXiv 2305.19671 and its code, github mvandenhi/Signal-is-Harder, commit c59a844.
    """

    def __init__(self, signal: Classifier, biased: Classifier, *, logvar_max: float = 5.0):
        super().__init__()
        ours, theirs = (built_from(net.spec) for net in (signal, biased))
        if ours != theirs:
            raise ValueError(f"both halves must be built alike; got {ours} and {theirs}")
        self.signal, self.biased = Half(signal, logvar_max), Half(biased, logvar_max)
        self.spec: dict[str, Any] = {**signal.spec, "kind": _KIND, "logvar_max": logvar_max}
        self.decoder = DECODERS[self.spec["arch"]](2 * self.latent, self.channels, self.size)

    @property
    def size(self) -> int:
        """Of the images' sides, in pixels."""
        return int(self.spec["size"])

    @property
    def side(self) -> int:
        """Of what the networks work on; images of another `size` are resized, and back."""
        encoder = self.biased.net.encoder
        assert isinstance(encoder, Latent)
        return encoder.side or self.size

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.signal.net.channels

    @property
    def n_classes(self) -> int:
        """Number of logits of each half."""
        return self.signal.net.n_classes

    @property
    def latent(self) -> int:
        """Length of each half's latent."""
        return self.signal.net.n_features

    def encode(self, x: Tensor) -> Latents:
        """Both latents' means and log-variances.

        Args:
            x: uint8 [b, c, h, w].
        """
        pixels = self.signal.net.pixels(x)  # both halves are built alike
        return Latents(*self.biased.encode(pixels), *self.signal.encode(pixels))

    def decode(self, z_s: Tensor, z_b: Tensor) -> Tensor:
        """Images before the sigmoid, float [b, c, h, w], of latents [b, latent]."""
        logits: Tensor = self.decoder(torch.cat([z_s, z_b], 1))
        return logits

    def image(self, z_s: Tensor, z_b: Tensor) -> Tensor:
        """Images in [0, 1], float [b, c, h, w], of latents [b, latent]."""
        return self.decode(z_s, z_b).sigmoid()

    def logits_s(self, z_s: Tensor) -> Tensor:
        """Logits [b, k] of the signal half on its latents [b, latent]."""
        return self.signal.logits(z_s)

    def logits_b(self, z_b: Tensor) -> Tensor:
        """Logits [b, k] of the biased half on its latents [b, latent]."""
        return self.biased.logits(z_b)


def default_vae(size: int) -> VAEKind:
    """The networks for images with sides of `size` pixels; 64 to 128 is what `conv64` is for."""
    return "mlp" if size < 32 else "resnet" if size < 48 else "conv64"


def build_vae(
    kind: VAEKind, channels: int, size: int, n_classes: int, *, logvar_max: float = 5.0
) -> PairedVAE:
    """A new paired VAE, its weights drawn from torch's random state.

    Args:
        kind: "mlp" works on images of any size as they are; "resnet" resizes them to 32 pixels,
            "conv64" to 64, or from 97 pixels on to 128, and the decoded images back.
        channels: of the images.
        size: of the images' sides, in pixels.
        n_classes: number of logits.
        logvar_max: larger log-variances of latents are cut off.

    Raises:
        ConfigError: there is no such kind, or a number is out of range.
    """
    known = list(get_args(VAEKind))
    if kind not in known:
        raise ConfigError(f"there is no paired VAE '{kind}'{suggest(kind, known)} ({known})")
    signal, biased = (
        build(f"vae-{kind}", channels=channels, size=size, n_classes=n_classes) for _ in range(2)
    )
    return PairedVAE(signal, biased, logvar_max=logvar_max)


def save_vae(vae: PairedVAE, path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Keep a paired VAE as weights (safetensors) and a card (JSON); neither holds code.

    Args:
        vae: to be kept.
        path: a name ending in `.safetensors`, or a folder, which gets `vae.safetensors`; the card
            beside it has the same name and ends in `.json`.
        extra: what a reader must know besides, e.g. `{"classes": ["cat", "dog"]}`; plain values
            only. Left out: what it was loaded with.

    Raises:
        StorageError: a file could not be written.
    """
    spec = vae.spec if extra is None else {**vae.spec, "extra": dict(extra)}
    write_model(vae, spec, _weights_in(Path(path)))


def load_vae(path: Path) -> PairedVAE:
    """Build the paired VAE that `save_vae` kept, on the CPU, in evaluation mode.

    The card's entries are in `.spec`. Torch's random state is left as it was.

    Args:
        path: the folder or the `.safetensors` file given to `save_vae`.

    Raises:
        DataError: a file is absent or unreadable, holds another network, or the weights do not fit
            the card.
    """
    weights = _weights_in(Path(path))
    card = weights.with_suffix(".json")
    spec = read_card(card)
    if spec.get("kind") != _KIND or "logvar_max" not in spec or spec["arch"] not in DECODERS:
        raise DataError(f"{card} is the card of '{spec['arch']}', not of a paired VAE")
    state = read_weights(weights)
    try:
        with torch.random.fork_rng(devices=[]):
            nets = [build(**built_from(spec)) for _ in range(2)]
            vae = PairedVAE(nets[0], nets[1], logvar_max=float(spec["logvar_max"]))
    except (ConfigError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{card}: {error}") from None
    fit_weights(vae, state, f"{weights}, which {card.name} calls a paired {spec['arch']},")
    vae.spec = {name: value for name, value in spec.items() if name != "format"}
    return vae.eval()


def _weights_in(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / "vae.safetensors"
