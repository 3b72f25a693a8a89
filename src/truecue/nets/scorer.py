"""Networks that look at a generator's images: what was moved, how far, in which of two images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.errors import ConfigError, DataError
from truecue.nets.classifier import fit_weights, read_card, read_weights, write_model
from truecue.nets.latent import resized
from truecue.nets.resnet import ResNet

ScorerName = Literal["resnet18", "small"]
"""Network of a scorer: ResNet-18, or two convolutions for images of up to about 32 pixels."""
ReconstructorName = Literal["resnet18", "lenet"]
"""Network of a reconstructor."""

_KIND = "scorer"


class Scorer(nn.Module):
    """From images to one number for each direction: the larger, the further along it.

    Args:
        arch: its network.
        shape: (c, h, w) of the images that it is trained on.
        k: directions.

    Raises:
        ConfigError: there is no such network.

    Source: Kappiyath et al., AAAI 2022, released code: ResNet-18 with a new first convolution,
    randomly initialised, without the 1000-way layer that the code declares and does not use.
    """

    def __init__(self, arch: ScorerName, shape: tuple[int, int, int], k: int):
        super().__init__()
        _check_arch(arch, get_args(ScorerName), "scorer")
        self.arch: ScorerName = arch
        self.shape, self.k = shape, k
        channels, height, width = shape
        if arch == "resnet18":
            self.encoder: nn.Module = ResNet(channels, 18)
            n_features = 512
        else:
            down = [-(-side // 4) for side in (height, width)]
            n_features = 64
            self.encoder = nn.Sequential(
                *(nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
                *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(32 * down[0] * down[1], n_features), nn.ReLU()),
            )
        self.head = nn.Linear(n_features, k)
        self.spec: dict[str, Any] = {
            "kind": _KIND, "arch": arch, "channels": channels, "size": max(height, width),
            "n_classes": k, "n_features": n_features, "norm": "half", "shape": list(shape),
        }  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Scores [b, k] of images [b, c, h, w] in [-1, 1]."""
        scores: Tensor = self.head(self.encoder(images))
        return scores

    def score(self, x: Tensor) -> Tensor:
        """Scores [b, k] of real images, uint8 [b, c, h, w].

        They are brought to the range, size and number of channels of the generator's: 255 becomes
        1 and 0 becomes -1, sides are resized, grey images get equal channels, and the channels of
        colour images are averaged where the generator's are grey.

        Raises:
            DataError: the number of channels cannot be brought to the generator's.
        """
        images = x.to(self.head.weight.dtype) / 127.5 - 1
        channels, height, width = self.shape
        if images.shape[1] != channels:
            if images.shape[1] != 1 and channels != 1:
                raise DataError(
                    f"the scorer knows images of {channels} channels; these have {images.shape[1]}"
                )
            images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if height == width:
            images = resized(images, height)
        elif images.shape[2:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        scores: Tensor = self(images)
        return scores


def save_scorer(scorer: Scorer, path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Keep a scorer as weights (safetensors) and a card (JSON).

    Args:
        scorer: to be kept.
        path: a name that ends in `.safetensors`, or a folder, which gets `scorer.safetensors`.
        extra: what a reader must know besides; plain values.

    Raises:
        StorageError: a file could not be written.
    """
    spec = scorer.spec if extra is None else {**scorer.spec, "extra": dict(extra)}
    write_model(scorer, spec, _file(Path(path)))


def load_scorer(path: Path) -> Scorer:
    """Build the scorer that `save_scorer` kept, on the CPU, in evaluation mode.

    Raises:
        DataError: a file is absent or unreadable, or holds another network.
    """
    weights = _file(Path(path))
    card = weights.with_suffix(".json")
    if not weights.is_file() and not card.is_file():
        raise DataError(
            f"there is no scorer {weights}; 'truecue directions refine' trains one (with --set"
            " map=random the directions stay as they are)"
        )
    spec = read_card(card)
    if spec.get("kind") != _KIND or spec["arch"] not in get_args(ScorerName):
        raise DataError(f"{card} is the card of '{spec['arch']}', not of a scorer")
    state = read_weights(weights)
    try:
        with torch.random.fork_rng(devices=[]):
            scorer = Scorer(spec["arch"], tuple(spec["shape"]), int(spec["n_classes"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{card} does not describe a scorer (shape {spec.get('shape')!r}, n_classes"
            f" {spec['n_classes']!r}): {type(error).__name__}: {error}"
        ) from None
    fit_weights(scorer, state, f"{weights}, which {card.name} calls a scorer,")
    scorer.spec = {name: value for name, value in spec.items() if name != "format"}
    return scorer.eval()


class Reconstructor(nn.Module):
    """From two images to the direction between them and the step along it.

    Args:
        arch: its network, on both images' channels side by side. Images below 32 pixels get a
            margin of the least value before `lenet`, as digits of 28 had for the first one.
        channels: of one image.
        k: directions.

    Raises:
        ConfigError: there is no such network.

    Source: Voynov & Babenko, ICML 2020, arXiv 2002.03754, released code.
    """

    def __init__(self, arch: ReconstructorName, channels: int, k: int):
        super().__init__()
        _check_arch(arch, get_args(ReconstructorName), "reconstructor")
        self.arch: ReconstructorName = arch
        if arch == "resnet18":
            self.encoder: nn.Module = ResNet(2 * channels, 18)
            self.direction: nn.Module = nn.Linear(512, k)
            self.step: nn.Module = nn.Linear(512, 1)
            return
        sizes = ((2 * channels, 6), (6, 16), (16, 120))
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(sizes):
            layers += [nn.Conv2d(before, after, 5), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i < 2 else []
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.direction, self.step = _two_layers(k), _two_layers(1)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b, k] of the direction and the step [b], of images [b, c, h, w] each."""
        both = torch.cat([first, second], 1)
        if self.arch == "lenet":
            both = _at_least(both, 32)
        features = self.encoder(both)
        return self.direction(features), self.step(features).squeeze(1)


def _check_arch(arch: str, known: tuple[str, ...], what: str) -> None:
    if arch not in known:
        raise ConfigError(f"a {what}'s network is {' or '.join(known)}; got '{arch}'")


def _at_least(images: Tensor, side: int) -> Tensor:
    """Images in [-1, 1] with a margin of -1 where they are smaller."""
    height, width = (max(0, side - n) for n in images.shape[2:])
    margin = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(images, margin, value=-1.0) if any(margin) else images


def _two_layers(n: int) -> nn.Module:
    return nn.Sequential(nn.Linear(120, 84), nn.BatchNorm1d(84), nn.ReLU(), nn.Linear(84, n))


def _file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / "scorer.safetensors"
