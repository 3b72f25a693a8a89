"""Weights to start from: as the beginning of training, or as an encoder that stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from truecue.config import Config
from truecue.errors import ConfigError, DataError
from truecue.nets.build import NormName, build
from truecue.nets.classifier import Classifier, fit_weights, read_card, read_weights

_HEADS = frozenset({"classifier", "fc", "head", "linear", "last_linear", "output"})
"""What last layers are called: their weights are left out."""


class Pretrained(Config):
    """Which weights, for which network, and whether they are trained further."""

    weights: str
    """A `.safetensors` file, a file by `torch.save` that holds only tensors, or the folder or
    `model.safetensors` of a run. Last layers in it are left out."""
    arch: str = ""
    """The network that the weights are for; may be left out for a run's model, whose card says."""
    norm: NormName | None = None
    """How pixels are normalised, where that is not what the network usually wants."""
    frozen: bool = False
    """Leave the encoder as it is and train the last layer only, on features computed once."""

    def path(self, root: Path | None = None) -> Path:
        """Where the weights are: as given, or below `root`.

        Raises:
            DataError: there is no such file.
        """
        given = Path(self.weights).expanduser()
        places = [given] if root is None or given.is_absolute() else [given, root / given]
        for place in places:
            file = place / "model.safetensors" if place.is_dir() else place
            if file.is_file():
                return file
        raise DataError(f"there is no weights file {' or '.join(map(str, places))}")

    def digest(self, root: Path | None = None) -> str:
        """A short text that tells these weights from others."""
        file = self.path(root)
        found = file.stat()
        return _digest(file.absolute(), found.st_size, found.st_mtime_ns)

    def load(self, channels: int, size: int, root: Path | None = None) -> Classifier:
        """The network with these weights in its encoder; its last layer is new.

        Args:
            channels: of the images.
            size: of the images' sides, in pixels.
            root: where relative names are looked for, beside the working directory.

        Raises:
            DataError: the file is absent or unreadable, or does not fit the network.
            ConfigError: no network is named, or there is none of that name.
            MissingExtra: the network is timm's and timm is not installed.
        """
        file = self.path(root)
        card: dict[str, Any] = {}
        if not self.arch:
            if not file.with_suffix(".json").is_file():
                raise ConfigError(
                    f"which network are the weights {file.name} for? Give its arch; only models"
                    " saved by truecue have a card beside them that says"
                )
            card = read_card(file.with_suffix(".json"))
        arch = self.arch or str(card["arch"])
        norm: NormName | None = self.norm or card.get("norm")
        with torch.random.fork_rng(devices=[]):
            net = build(
                arch,
                channels=channels,
                size=size,
                n_classes=2,
                n_features=card.get("n_features"),
                norm=norm,
            )
        state = _of_encoder(read_weights(file), net.encoder.state_dict().keys())
        fit_weights(net.encoder, state, f"{file}, given as weights of {arch},")
        return net.eval()


@lru_cache
def _digest(file: Path, size: int, changed: int) -> str:
    """A file's digest, computed once: a bench asks for it with every cell."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _of_encoder(state: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """The encoder's part of a file's weights, under the encoder's own names.

    Some encoders have a layer in what is called their head, such as ConvNeXt's normalisation: names
    that the encoder knows are kept.
    """
    if any(name.startswith("encoder.") for name in state):
        return {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    return {k: v for k, v in state.items() if k in known or k.split(".")[0] not in _HEADS}


class LastLayer(Classifier):
    """A linear layer on features that were computed beforehand.

    Args:
        n_features: length of the features.
        n_classes: number of logits.
    """

    def __init__(self, n_features: int, n_classes: int):
        spec = {"arch": "linear", "channels": n_features, "size": 1, "n_classes": n_classes}
        layer = nn.Linear(n_features, n_classes)
        super().__init__(nn.Flatten(), layer, mean=(0.0,), std=(1.0,), spec=spec)
        self.channels = n_features

    def pixels(self, x: Tensor) -> Tensor:
        """The features as they are: float [b, n_features, 1, 1]."""
        if not x.is_floating_point() or x.shape[1:] != (self.channels, 1, 1):
            raise ValueError(f"expected float features [b, {self.channels}, 1, 1]; got {x.shape}")
        return x


def joined(encoder: Classifier, last: Classifier) -> Classifier:
    """The frozen encoder of one network and the last layer of another, from images to logits."""
    of_head = ("extra", "corrections")
    spec = {name: value for name, value in encoder.spec.items() if name not in of_head}
    spec |= {"n_classes": last.n_classes}
    net = Classifier(encoder.encoder, last.head, mean=spec["mean"], std=spec["std"], spec=spec)
    return net.eval()
