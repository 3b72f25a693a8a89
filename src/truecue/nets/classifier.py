"""A classifier from uint8 images to logits, and the two files that it is kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from truecue.atomic import atomic
from truecue.errors import ConfigError, DataError
from truecue.nets.corrected import CorrectedHead

_FORMAT = 1
BUILT_FROM = ("arch", "channels", "size", "n_classes", "n_features", "norm")
"""Entries of a spec that a network is built from again."""


class Classifier(nn.Module):
    """Normalisation, an encoder and a linear head, as one module that takes images as they are.

    Args:
        encoder: float images [b, c, h, w] to features [b, f].
        head: features to logits.
        mean: one number per channel, subtracted from pixels in [0, 1].
        std: one number per channel, by which the difference is divided.
        spec: what the network was built from, as plain values; kept in the model's card. `build`
            fills it; a network with another spec can be used but not loaded back.

    Raises:
        ValueError: `mean` and `std` differ in length.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Linear,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        spec: dict[str, Any],
    ):
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels and std has {len(std)}")
        self.encoder, self.head, self.spec = encoder, head, spec
        self.channels = len(mean)
        self._unit = all(m == 0 for m in mean) and all(s == 1 for s in std)
        m, s = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
        scale = torch.tensor(1 / 255) if self._unit else (1 / (255 * s)).float()
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", (-m / s).float(), persistent=False)

    @property
    def n_features(self) -> int:
        """Length of the vectors that the head sees."""
        return self.head.in_features

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.head.out_features

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised images.

        Args:
            x: uint8 [b, c, h, w].

        Returns:
            (x / 255 - mean) / std, of the type of the weights' buffers, [b, c, h, w].

        Raises:
            ValueError: not uint8, not four-dimensional, or another number of channels.
        """
        if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"the network takes uint8 images [b, {self.channels}, h, w]; got"
                f" {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
            )
        # In place on the fresh copy: half the time of `x / 255`, a third of `torch.addcmul`.
        floats = x.to(self._scale.dtype).mul_(self._scale)
        return floats if self._unit else floats.add_(self._shift)

    def normalised(self, x: Tensor) -> Tensor:
        """`pixels` of images that are being changed: float [b, c, h, w] in [0, 1]."""
        return x * (255 * self._scale) + (0 if self._unit else self._shift)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features [b, f] of images uint8 [b, c, h, w]."""
        features: Tensor = self.encoder(self.pixels(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits [b, k] of images uint8 [b, c, h, w]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def save_classifier(net: Classifier, path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Keep a network as weights (safetensors) and a card (JSON); neither holds code.

    Both files are written in full under temporary names before either takes its place, so that an
    interrupted save leaves the earlier model.

    Args:
        net: a network made by `build`.
        path: a folder, which gets `model.safetensors` and `model.json`, or a name ending in
            `.safetensors`, which gets a card of the same name ending in `.json`.
        extra: what a reader must know besides, e.g. `{"classes": ["cat", "dog"]}`; plain values
            only. Left out: what the network was loaded with.

    Raises:
        StorageError: a file could not be written.
    """
    weights, _ = _places(Path(path))
    spec = net.spec if extra is None else {**net.spec, "extra": dict(extra)}
    write_model(net, spec, weights)


def write_model(module: nn.Module, spec: Mapping[str, Any], weights: Path) -> None:
    """Write a module's weights and, beside them, its card.

    Args:
        module: its parameters and buffers are written.
        spec: the card's entries, plain values.
        weights: name of the `.safetensors` file; the card's ends in `.json`.

    Raises:
        StorageError: a file could not be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    text = json.dumps({"format": _FORMAT, **spec}, indent=2) + "\n"
    with atomic(weights) as new_weights, atomic(weights.with_suffix(".json")) as new_card:
        new_weights.write_bytes(to_safetensors(state))
        new_card.write_text(text, encoding="utf-8")


def load_classifier(path: Path) -> Classifier:
    """Build the network that `save_classifier` kept, on the CPU, in evaluation mode.

    The card's entries are in `.spec`. Torch's random state is left as it was.

    Args:
        path: the folder or the `.safetensors` file given to `save_classifier`.

    Raises:
        DataError: a file is absent or unreadable, holds another kind of network, or the weights do
            not fit the card.
        MissingExtra: the network is timm's and timm is not installed.
    """
    from truecue.nets.build import build

    weights, card = _places(Path(path))
    spec = read_card(card)
    if "kind" in spec:
        raise DataError(
            f"{weights} holds a {spec['kind']} and no classifier. Give the folder of a run, or one"
            " of its classifiers: model.safetensors, or sih-biased.safetensors of a run of SiH"
        )
    state = read_weights(weights)
    try:
        with torch.random.fork_rng(devices=[]):
            net = build(**built_from(spec))
    except (ConfigError, TypeError, RuntimeError) as error:  # the last for lack of memory
        raise DataError(f"{card}: {error}") from None
    if "corrections" in spec:
        n = spec["corrections"]
        if not isinstance(n, int) or n < 1:
            raise DataError(f"{card}: the number of corrections must be 1 or more; it says {n!r}")
        net.head = CorrectedHead(net.n_features, net.n_classes, n)
    fit_weights(net, state, f"{weights}, which {card.name} calls {spec['arch']},")
    net.spec = {name: value for name, value in spec.items() if name != "format"}
    return net.eval()


def built_from(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a card that `build` takes, by the names of its arguments."""
    return {name: spec[name] for name in BUILT_FROM}


def read_card(card: Path) -> dict[str, Any]:
    """The entries of a model's card.

    Raises:
        DataError: the card is absent or incomplete, is not JSON, or was written by a later version.
    """
    try:
        spec = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"there is no card {card} that says which network the weights belong to; models are"
            " kept as two files, .safetensors and .json: move both"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{card} cannot be read as a model's card: {error}") from None
    if not isinstance(spec, dict):
        raise DataError(f"{card} cannot be read as a model's card: it is not a JSON object")
    if spec.get("format") != _FORMAT:
        raise DataError(
            f"{card} has format {spec.get('format')!r}, and this version reads {_FORMAT}"
        )
    absent = [name for name in BUILT_FROM if name not in spec]
    if absent:
        raise DataError(f"{card} does not say {', '.join(absent)}; save the model again")
    for name in BUILT_FROM:
        kind, said = (str, "a name") if name in ("arch", "norm") else (int, "a whole number")
        if not isinstance(spec[name], kind):
            raise DataError(f"{card}: {name} must be {said}; it says {spec[name]!r}")
    return spec


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a file by `torch.save` that holds only tensors.

    Raises:
        DataError: the file is absent or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as weights: {error}") from None
    except Exception as error:  # torch.load lets pickle's many errors through
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as plain tensors: {reason}") from None
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{path} must hold a dictionary of tensors by name")
    return dict(state)


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights strictly, with one sentence where they do not fit.

    Args:
        module: receives the weights.
        state: all its parameters and buffers by name. The counters `num_batches_tracked`, which
            files from before torch 0.4.1 do not have, may be left out.
        what: the weights' name in the sentence.

    Raises:
        DataError: a name is absent or unknown, or a shape differs.
    """
    own = module.state_dict()
    problems = [
        f"'{name}' is {list(state[name].shape)}, not {list(tensor.shape)}"
        if name in state
        else f"'{name}' is absent"
        for name, tensor in own.items()
        if (name in state and state[name].shape != tensor.shape)
        or (name not in state and not name.endswith("num_batches_tracked"))
    ]
    problems += [f"'{name}' is unknown" for name in state if name not in own]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DataError(f"{what} does not fit the network: {'; '.join(problems[:3])}{more}")
    module.load_state_dict(state, strict=False)


def _places(path: Path) -> tuple[Path, Path]:
    weights = path if path.suffix == ".safetensors" else path / "model.safetensors"
    return weights, weights.with_suffix(".json")
