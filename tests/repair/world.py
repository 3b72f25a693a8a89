"""A simulated world of features with known cues: the reference run of spuriosity rankings.

Two classes and four features behind a ReLU. Features 0 and 1 are cores: N(1.5, 1) in images of
their class, N(0, 1) in others. Features 2 and 3 are the classes' cues: every image carries one,
that of its class with a certain probability. N(3, 0.7) where carried, N(0, 0.7) where not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from truecue.audit.head import fit_head
from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.metrics.ranking import Ranking, rank
from truecue.metrics.spurious import spuriosity
from truecue.nets.build import build
from truecue.nets.classifier import Classifier

SPURIOUS = {0: {2}, 1: {3}}


class World(NamedTuple):
    """Features, labels, the cue of each image, and its ranking."""

    phi: Tensor
    y: Tensor
    cue: Tensor
    ranking: Ranking

    def worst_group(self, head: nn.Module) -> float:
        right = (head(self.phi).argmax(1) == self.y).double()
        cells = [right[(self.y == c) & (self.cue == d)] for c in (0, 1) for d in (0, 1)]
        return min(float(cell.mean()) for cell in cells)


def world(per_class: int, seed: int, aligned: float = 0.95) -> World:
    rng = torch.Generator().manual_seed(seed)
    n = 2 * per_class
    y = torch.arange(n) % 2
    broken = torch.zeros(n, dtype=torch.bool)
    for c in (0, 1):  # the same number of exceptions in every draw
        mine = (y == c).nonzero().squeeze(1)
        few = round((1 - aligned) * per_class)
        broken[mine[torch.randperm(per_class, generator=rng)[:few]]] = True
    cue = torch.where(broken, 1 - y, y)
    normal = torch.randn(n, 4, generator=rng)
    core = normal[:, :2] + 1.5 * nn.functional.one_hot(y, 2)
    carried = 0.7 * normal[:, 2:] + 3.0 * nn.functional.one_hot(cue, 2)
    phi = torch.cat([core, carried], 1).relu()
    ranking = rank(spuriosity(phi, y, SPURIOUS, 2), y, 2)
    return World(phi, y, cue, ranking)


SCALE = 8.0


def as_images(part: World) -> ImageSet:
    """Four pixels whose values are the features, in steps of 8 / 255."""
    pixels = (part.phi / SCALE * 255).round().clamp(0, 255).to(torch.uint8)
    cue = {"cue": Attribute(part.cue, ("first", "second"))}
    return ImageSet(pixels.view(-1, 1, 2, 2), part.y, ("one", "two"), cue)


def splits(sizes: tuple[int, int, int] = (2000, 1000, 500)) -> Splits:
    """The world as images; `sizes` are of each class."""
    parts = (as_images(world(n, seed)) for seed, n in enumerate(sizes))
    return Splits(*parts, bias="cue", aligned=torch.eye(2, dtype=torch.bool))


def network(data: Splits) -> Classifier:
    """A classifier whose features are those of the world, its last layer fitted to them."""
    net = build("mlp-2x4", channels=1, size=2, n_classes=2)
    (layer,) = (m for m in net.encoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(SCALE * torch.eye(4))
        layer.bias.zero_()
        phi = net.features(data.train.images[:])
    weight, bias = fit_head(phi, data.train.y, 2, seed=0)
    with torch.no_grad():
        net.head.weight.copy_(weight)
        net.head.bias.copy_(bias)
    return net.eval()
