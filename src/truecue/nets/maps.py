"""Where in an image a network sees its features: the last maps before they become a vector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.errors import DataError
from truecue.nets.classifier import Classifier
from truecue.nets.small import Pair, Projected

MapKind = Literal["pooled", "tokens", "gradient"]
NOTES: dict[MapKind, str] = {
    "pooled": "maps of the last layer, whose mean is the feature",
    "tokens": "patch tokens of the last layer, whose mean is not the feature",
    "gradient": "no maps: this network's features are not means over places, so that the gradient"
    " of the feature times the input is shown in their place",
}
"""What each kind of map is, for the reader of a picture."""

GRID = 14
"""Fields a side, at most, in which gradient times input is averaged: single pixels are noise."""
_CLOSE = 1e-3
"""Largest difference between a map's mean and its feature, as a share of the largest feature."""


class FeatureMaps:
    """The last maps of a classifier's encoder.

    - "pooled": maps whose mean over all places is the feature. Our own convolutional networks say
      which they are; in others they are found, as the output of the last module of which this
      holds for two images of noise, the largest ones if there are several.
    - "tokens": patch tokens of the last layer of one of timm's transformers, whose feature is
      something else, such as its class token.
    - "gradient": all other networks, among them those without maps. Gradient times (normalised)
      input, summed over channels, without its negative part, averaged in at most 14 x 14 fields.

    The network is put into evaluation mode for the time of a call.

    Args:
        net: the classifier; it is not changed.

    Raises:
        DataError: its features are not finite.
    """

    def __init__(self, net: Classifier):
        self.net = net
        self._source: nn.Module | None = None
        self.kind: MapKind = "gradient"
        noise = _noise(net)
        with evaluating(net), torch.no_grad():
            x = net.pixels(noise)
            features = net.encoder(x)
            if not bool(features.isfinite().all()):
                raise DataError(
                    f"the features of {net.spec.get('arch', 'the network')} are not finite: its"
                    " weights are broken, as after a training run that diverged"
                )
            own = _own_maps(net.encoder, x)
            if own is not None and own[0, 0].numel() > 1 and _pools(own, features):
                self.kind = "pooled"
            else:
                self._look(x, features)

    @property
    def note(self) -> str:
        """What the maps are, in words."""
        return NOTES[self.kind]

    @torch.no_grad()
    def maps(self, x: Tensor) -> Tensor:
        """The maps of all features: float [b, f, h', w'] of images uint8 [b, c, h, w].

        Raises:
            ValueError: the network has none ("gradient").
        """
        if self.kind == "gradient":
            raise ValueError(f"{self.net.spec.get('arch', 'the network')} has {self.note}")
        with evaluating(self.net):
            pixels = self.net.pixels(x)
            if self._source is None:
                maps = _own_maps(self.net.encoder, pixels)
                assert maps is not None
                return maps
            with _heard([self._source]) as outputs:
                self.net.encoder(pixels)
            found = _as_maps(outputs[self._source], self.net.n_features, self.net.encoder)
            assert found is not None
            return found

    def of(self, x: Tensor, feature: Tensor) -> Tensor:
        """The map of one feature for each image: float [b, h', w'].

        Args:
            x: uint8 [b, c, h, w].
            feature: int64 [b].
        """
        if self.kind != "gradient":
            return self.maps(x)[torch.arange(len(x), device=x.device), feature.to(x.device)]
        with evaluating(self.net), torch.enable_grad():
            pixels = self.net.pixels(x).detach().requires_grad_()
            values = self.net.encoder(pixels).gather(1, feature.to(x.device)[:, None])
            # an image's feature depends on no other image, so that one pass is enough
            (slope,) = torch.autograd.grad(values.sum(), pixels)
        product = (slope * pixels.detach()).sum(1, keepdim=True).clamp(min=0)
        height, width = (min(GRID, side) for side in x.shape[2:])
        return F.adaptive_avg_pool2d(product, (height, width)).squeeze(1)

    def _look(self, x: Tensor, features: Tensor) -> None:
        """Find the module whose output holds the maps."""
        encoder = self.net.encoder
        inner = [module for module in encoder.modules() if module is not encoder]
        with _heard(inner) as outputs:
            encoder(x)
        places = 1  # a single place, as after pooling, says nothing about where
        for module, output in outputs.items():  # in the order in which they ran
            maps = _as_maps(output, self.net.n_features, encoder)
            if maps is None or maps[0, 0].numel() <= 1:
                continue
            if _pools(maps, features) and maps[0, 0].numel() >= places:
                self._source, self.kind, places = module, "pooled", maps[0, 0].numel()
            elif self.kind != "pooled" and output.dim() == 3:
                self._source, self.kind = module, "tokens"


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of a block; each module is then as it was."""
    before = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _heard(modules: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """The outputs of modules, by module; filled while the block runs."""
    outputs: dict[nn.Module, Tensor] = {}

    def hear(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.pop(module, None)  # a module that runs twice counts where it ran last
            outputs[module] = output

    handles = [module.register_forward_hook(hear) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _own_maps(encoder: Any, x: Tensor) -> Tensor | None:
    """The maps that an encoder of ours says it has."""
    if isinstance(encoder, Projected):
        # the layer is linear, so that it may as well come before the mean
        inner = _own_maps(encoder.encoder, x)
        if inner is None:
            return None
        project = encoder.project
        projected: Tensor = F.conv2d(inner, project.weight[:, :, None, None], project.bias)
        return projected
    if isinstance(encoder, Pair):
        both = [_own_maps(part, x) for part in (encoder.first, encoder.second)]
        known = [maps for maps in both if maps is not None]
        return torch.cat(known, 1) if len(known) == 2 else None
    own: Any = getattr(encoder, "maps", None)
    maps: Tensor | None = own(x) if callable(own) else None
    return maps


def _as_maps(output: Tensor, n_features: int, encoder: nn.Module) -> Tensor | None:
    """An output as [b, n_features, h', w'], where it has that many channels over places."""
    if output.dim() == 4:
        if output.shape[1] == n_features:
            return output
        return output.movedim(3, 1) if output.shape[3] == n_features else None
    if output.dim() != 3 or output.shape[2] != n_features:
        return None
    patches = output[:, int(getattr(encoder, "num_prefix_tokens", 0)) :]
    grid: Any = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    if grid is None or patches.shape[1] != grid[0] * grid[1]:
        return None
    return patches.movedim(2, 1).reshape(len(output), n_features, grid[0], grid[1])


def _pools(maps: Tensor, features: Tensor) -> bool:
    """Whether the maps' means are the features."""
    if maps.shape[:2] != features.shape:
        return False
    scale = float(features.abs().max())
    return scale > 0 and float((maps.mean((2, 3)) - features).abs().max()) <= _CLOSE * scale


def _noise(net: Classifier) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    side = int(net.spec["size"])
    shape = (2, net.channels, side, side)
    noise = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    return noise.to(net.head.weight.device)
