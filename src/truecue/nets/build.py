"""The one place where names become networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from truecue.config import parse_assignments, suggest
from truecue.errors import ConfigError, MissingExtra
from truecue.nets.classifier import Classifier
from truecue.nets.latent import Latent, LatentConv, LatentMLP, LatentResNet
from truecue.nets.resnet import ResNet
from truecue.nets.small import (
    CNN3,
    CNN4,
    MLP,
    Centred,
    CifarResNet,
    Conv,
    Conv3,
    Pair,
    Projected,
    SimpleConv,
    Unit,
)

NormName = Literal["unit", "half", "cifar", "imagenet", "clip"]
"""Of pixels in [0, 1]: "unit" leaves them, "half" is (x - 0.5) / 0.5, the others subtract a data
set's mean and divide by its deviation."""

_RGB: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
_MLP = re.compile(r"mlp-(\d+)(?:x(\d+))?(-leaky)?")


Encoder = MLP | Conv | Conv3 | CNN3 | CNN4 | SimpleConv | CifarResNet | ResNet | Projected | Latent


LEAK = 0.1
"""Slope of leaky units below zero."""


class _Arch(NamedTuple):
    about: str
    make: Callable[[int, int], Encoder]
    """Channels and image size to encoder."""
    norm: NormName
    smallest: int
    """Fewest pixels on a side."""


def _mlp(depth: int, width: int = 100, leak: float = 0.0) -> _Arch:
    def make(channels: int, size: int) -> Encoder:
        return MLP(channels * size * size, [width] * (depth - 1), leak)

    about = f"{depth - 1} linear layers of {width} with ReLU, and the head"
    return _Arch(about, make, "unit", 1)


_OURS = {
    "mlp-3": _mlp(3),
    "mlp-5": _mlp(5),
    "conv3": _Arch("3 padded convolutions of 3x3, 64 features", lambda c, _: Conv3(c), "unit", 4),
    "conv": _Arch("3 convolutions of 4x4, 256 features", lambda c, _: Conv(c), "imagenet", 8),
    "cnn3": _Arch("3 convolutions of 5x5, 64 features", lambda c, _: CNN3(c), "cifar", 32),
    "cnn4": _Arch("4 unpadded convolutions, 512 features", lambda c, _: CNN4(c), "imagenet", 42),
    "simple_conv": _Arch(
        "4 padded convolutions of 7x7, 128 features", lambda c, _: SimpleConv(c), "half", 1
    ),
    "simple_conv-tanh": _Arch(
        "simple_conv that ends with tanh", lambda c, _: SimpleConv(c, signed=True), "half", 1
    ),
    "resnet20": _Arch(
        "ResNet-20 for 32 px, 64 features", lambda c, _: CifarResNet(c, 20), "cifar", 4
    ),
    "resnet56": _Arch(
        "ResNet-56 for 32 px, 64 features", lambda c, _: CifarResNet(c, 56), "cifar", 4
    ),
    "resnet18": _Arch("ResNet-18, 512 features", lambda c, _: ResNet(c, 18), "imagenet", 1),
    "resnet50": _Arch("ResNet-50, 2048 features", lambda c, _: ResNet(c, 50), "imagenet", 1),
    "resnet18-64": _Arch(
        "ResNet-18 and a linear layer to 64 features",
        lambda c, _: Projected(ResNet(c, 18), 512, 64),
        "cifar",
        1,
    ),
    "vae-mlp": _Arch(
        "2 linear layers of 100, a latent of 100 numbers; half of SiH's VAE", LatentMLP, "unit", 1
    ),
    "vae-resnet": _Arch(
        "ResNet-18 at 32 px, a latent of 512 numbers; half of SiH's VAE",
        lambda c, _: LatentResNet(c),
        "cifar",
        1,
    ),
    "vae-conv64": _Arch(
        "4 or 5 convolutions at 64 or 128 px, a latent of 256 numbers; half of SiH's VAE",
        LatentConv,
        "half",
        1,
    ),
}


def build(
    arch: str,
    *,
    channels: int,
    size: int,
    n_classes: int,
    n_features: int | None = None,
    norm: NormName | None = None,
) -> Classifier:
    """A new network, its weights drawn from torch's random state.

    Args:
        arch: one of `names()`; `mlp-N` or `mlp-NxW` for N layers (the head counted) of width W,
            with `-leaky` behind it for units that do not die;
            or a name of timm's, with options after commas: `mobilenetv2_100,pad_type=same`.
            `timm:` before a name asks for timm's network where both have one, `pair:` for two
            encoders of that name whose features stand side by side before one head, `unit:` for
            features that are scaled to length 1, and `centred:` for features of mean 0 and
            deviation 1 each.
        channels: of the images.
        size: of the images' sides, in pixels.
        n_classes: number of logits.
        n_features: length of the features; where the encoder's differ, a linear layer without
            ReLU follows it, before `unit:` and `centred:` scale them. Left out: the encoder's own.
        norm: how pixels are normalised. Left out: as the network's paper or published weights
            want it, and "half" where that is for three channels and the images have others.

    Raises:
        ConfigError: a name is unknown, a number out of range, or the images too small.
        MissingExtra: the name is timm's, and timm cannot be imported.
    """
    for name, value in (("channels", channels), ("size", size), ("n_classes", n_classes)):
        _check_positive(name, value)
    if n_features is not None:
        _check_positive("n_features", n_features)
    encoder, own, usual = _encoder(arch, channels, size, n_features)
    if norm is None:
        norm = "half" if usual in _RGB and channels != 3 else usual
    mean, std = _statistics(norm, channels)
    spec = {
        "arch": arch,
        "channels": channels,
        "size": size,
        "n_classes": n_classes,
        "n_features": own,
        "norm": norm,
        "mean": list(mean),
        "std": list(std),
    }
    return Classifier(encoder, nn.Linear(own, n_classes), mean=mean, std=std, spec=spec)


def on_sphere(net: Classifier, *, centred: bool = False) -> Classifier:
    """The same network with features that are scaled to length 1; `unit:` before its name.

    Args:
        net: the network; it is changed.
        centred: give each feature mean 0 and deviation 1 before; `unit:centred:` before its name.
    """
    if centred:
        net.encoder = Centred(net.encoder, net.n_features)
    net.encoder = Unit(net.encoder, net.n_features)
    prefix = "unit:centred:" if centred else "unit:"
    net.spec = net.spec | {"arch": f"{prefix}{net.spec['arch']}"}
    return net


def names() -> dict[str, str]:
    """Our own networks: a line about each, by name."""
    return {name: arch.about for name, arch in _OURS.items()}


def default_arch(channels: int, size: int) -> str:
    """A network for images that come with no paper to follow.

    Args:
        channels: of the images; makes no difference so far.
        size: of the images' sides, in pixels.
    """
    return "mlp-5" if size < 32 else "resnet20" if size <= 96 else "resnet18"


def pair_for(size: int) -> tuple[str, str, str, int]:
    """The networks of DeNetDM for images of a size.

    Returns:
        Deep, shallow and target network, and the number of features that all three have. Images of
        29 to 31 pixels get the networks of smaller ones: unpadded convolutions need 32.

    Source: arXiv 2403.19863, section 4.1, and the authors' code.
    """
    if size < 32:
        return "mlp-5", "mlp-3", "mlp-5", 100
    if size <= 64:
        return "resnet20", "cnn3", "resnet18-64", 64
    return "resnet18", "cnn4", "resnet18", 512


def _encoder(
    arch: str, channels: int, size: int, n_features: int | None = None
) -> tuple[nn.Module, int, NormName]:
    """A network's encoder, the length of its features, and its usual normalisation."""
    if arch.startswith("unit:"):
        inner, length, norm = _encoder(arch.removeprefix("unit:"), channels, size, n_features)
        return Unit(inner, length), length, norm
    if arch.startswith("centred:"):
        inner, length, norm = _encoder(arch.removeprefix("centred:"), channels, size, n_features)
        return Centred(inner, length), length, norm
    encoder, own, norm = _unscaled(arch, channels, size)
    if n_features is None or n_features == own:
        return encoder, own, norm
    return Projected(encoder, own, n_features), n_features, norm


def _unscaled(arch: str, channels: int, size: int) -> tuple[nn.Module, int, NormName]:
    if arch.startswith("pair:"):
        first, length, norm = _encoder(arch.removeprefix("pair:"), channels, size)
        second, _, _ = _encoder(arch.removeprefix("pair:"), channels, size)
        return Pair(first, second, 2 * length), 2 * length, norm
    ours = _OURS.get(arch)
    if ours is None and arch.startswith("mlp"):
        ours = _any_mlp(arch)
    if ours is None:
        return _from_timm(arch, channels, size)
    if size < ours.smallest:
        raise ConfigError(
            f"'{arch}' needs images of at least {ours.smallest} pixels; these have {size}."
            f" Use '{default_arch(channels, size)}'"
        )
    encoder = ours.make(channels, size)
    return encoder, encoder.n_features, ours.norm


def _any_mlp(arch: str) -> _Arch:
    match = _MLP.fullmatch(arch)
    depth, width = (int(match[1]), int(match[2] or 100)) if match else (0, 0)
    if depth < 2 or width < 1:
        raise ConfigError(
            f"there is no network '{arch}': write mlp-N for N layers, the head counted (2 or"
            " more), or mlp-NxW for layers of width W, e.g. mlp-5 or mlp-4x256; -leaky behind it"
            " for units that do not die"
        )
    return _mlp(depth, width, LEAK if match and match[3] else 0.0)


def _from_timm(arch: str, channels: int, size: int) -> tuple[nn.Module, int, NormName]:
    asked, _, options = arch.removeprefix("timm:").partition(",")
    timm = _import_timm(arch)
    if not timm.is_model(asked):
        known = list(_OURS) if not arch.startswith("timm:") else []
        hint = suggest(asked, known) or suggest(asked, timm.list_models())
        raise ConfigError(f"neither truecue nor timm has a network '{asked}'{hint}")
    settings = parse_assignments(options.split(",")) if options else {}
    try:
        encoder = timm.create_model(
            asked, pretrained=False, num_classes=0, in_chans=channels, **settings
        )
        n_features = _count_features(encoder, channels, size)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"timm's '{arch}' cannot be used on {channels}x{size}x{size} images: {reason}"
        ) from None
    return encoder, n_features, _usual_norm(encoder.pretrained_cfg)


def _import_timm(arch: str) -> Any:
    hint = suggest(arch, list(_OURS)) or f" ({', '.join(_OURS)}, mlp-N)."
    start = f"'{arch}' is not one of truecue's own networks{hint}"
    if arch.startswith("timm:"):
        start = f"'{arch}' is a network of timm's."
    line = 'pip install "truecue[timm]"'
    try:
        import timm
    except ModuleNotFoundError:
        raise MissingExtra(f"{start} timm's networks need timm installed: {line}") from None
    except (ImportError, RuntimeError) as error:
        # torchvision, which timm imports, fails with a RuntimeError beside another build of torch
        raise MissingExtra(
            f"{start} timm's networks need timm, which cannot be imported ({error}): torch and"
            f" torchvision must be builds for the same device. In a new environment: {line}"
        ) from None
    return timm


def _count_features(encoder: nn.Module, channels: int, size: int) -> int:
    """Length of the features, from one image: timm's own figure leaves out some last layers."""
    training = encoder.training
    with torch.no_grad():
        shape = encoder.eval()(torch.zeros(1, channels, size, size)).shape
    encoder.train(training)
    if len(shape) != 2:
        raise ValueError(f"its output has shape {list(shape)}, not [b, features]")
    return int(shape[1])


def _usual_norm(published: dict[str, Any]) -> NormName:
    """The normalisation that timm's card names, "imagenet" where it is none of ours."""
    for name in get_args(NormName):
        mean, std = _RGB.get(name) or _statistics(name, 3)
        if (mean, std) == (tuple(published.get("mean", ())), tuple(published.get("std", ()))):
            found: NormName = name
            return found
    return "imagenet"


def _statistics(norm: NormName, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if norm == "unit":
        return (0.0,) * channels, (1.0,) * channels
    if norm == "half":
        return (0.5,) * channels, (0.5,) * channels
    if norm not in _RGB:
        known = list(get_args(NormName))
        raise ConfigError(
            f"there is no normalisation '{norm}'{suggest(norm, known)} ({', '.join(known)})"
        )
    if channels != 3:
        raise ConfigError(
            f"normalisation '{norm}' is for three channels and the images have {channels}; use"
            " 'unit' or 'half'"
        )
    return _RGB[norm]


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be at least 1; got {value}")
