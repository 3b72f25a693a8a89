"""A running average of the weights, which is steadier than the weights after the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

EVERY = 8
"""Steps between two updates: cheaper by that factor, and the same average to all intents."""
WARM = 100
"""Steps after which the average forgets half as fast as it may; before, it follows sooner."""


class Average:
    """Exponential moving average of what a stage trains.

    After step t the decay of a single step is min(decay, t / (t + WARM)). Trainable parameters
    and the statistics of batch normalisation are averaged; everything else is as it is.

    Args:
        module: what is trained.
        decay: share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float):
        self._decay = decay
        named: dict[str, Tensor] = {n: p for n, p in module.named_parameters() if p.requires_grad}
        named |= {n: b for n, b in module.named_buffers() if n.endswith(("_mean", "_var"))}
        self._live = {name: tensor.detach() for name, tensor in named.items()}
        self.values: dict[str, Tensor] = {n: t.clone() for n, t in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, from the `EVERY`-th on at every `EVERY`-th only.

        The first ones are taken in one by one: a stage that is shorter than `EVERY` steps would end
        with the weights it began with.
        """
        if step % EVERY == 0 or step < EVERY:
            steps = EVERY if step >= EVERY else 1
            kept = min(self._decay, step / (step + WARM)) ** steps
            torch._foreach_lerp_(list(self.values.values()), list(self._live.values()), 1 - kept)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the module holds the average."""
        live = {name: tensor.clone() for name, tensor in self._live.items()}
        self.write()
        try:
            yield
        finally:
            for name, tensor in self._live.items():
                tensor.copy_(live[name])

    @torch.no_grad()
    def write(self) -> None:
        """Put the average in the place of the weights."""
        for name, tensor in self._live.items():
            tensor.copy_(self.values[name])
