"""A simulated world of features with known cues: the reference run of spuriosity rankings.

Two classes and four features behind a ReLU. Features 0 and 1 are cores: N(1.5, 1) in images of
their class, N(0, 1) in others. Features 2 and 3 are the classes' cues: every image carries one,
that of its class with a certain probability. N(3, 0.7) where carried, N(0, 0.7) where not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from truecue.metrics.ranking import Ranking, rank
from truecue.metrics.spurious import spuriosity

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
