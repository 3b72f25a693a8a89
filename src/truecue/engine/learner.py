"""What one stage optimises, as one module; and running values kept for each training sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

Predict = Callable[[Tensor], Tensor]
"""From images, uint8 [b, c, h, w], to logits, float [b, k]."""


class Step(NamedTuple):
    """The outcome of one step."""

    loss: Tensor
    """Scalar, differentiable."""
    logs: dict[str, Tensor]
    """Scalars to be logged, detached, left on the device."""


class Learner(nn.Module, ABC):
    """Everything that one stage optimises: networks, frozen teachers, values kept per sample.

    All learnable work happens in `forward`: what is called beside it escapes mixed precision and
    the averaging of gradients over processes.
    """

    turn: str | None = None
    """The group that is trained in this step, when the plan has turns; set by the loop."""

    @abstractmethod
    def forward(self, batch: Any) -> Step:
        """The loss of a batch and what is to be logged."""

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Trainable parameters by group; each may have an optimizer of its own."""
        return {"all": [p for p in self.parameters() if p.requires_grad]}

    def branches(self) -> dict[str, Predict]:
        """Classifiers inside this learner whose accuracy is worth watching, by name.

        The first one is what the stage is for: rules that choose weights look at it.
        """
        net = getattr(self, "net", None)
        return {"net": net} if isinstance(net, nn.Module) else {}

    def train(self, mode: bool = True) -> Self:
        """Set training mode; networks without a trainable parameter stay in evaluation mode.

        That holds for parts of networks, too: an encoder whose head alone is trained.
        """
        super().train(mode)
        _rest(self)
        return self


def _rest(module: nn.Module) -> None:
    """Put what has parameters, but none to train, into evaluation mode."""
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            child.eval()
        else:
            _rest(child)


def freeze(*nets: nn.Module) -> None:
    """Stop training networks: no gradients, evaluation mode."""
    for net in nets:
        net.requires_grad_(False).eval()


class SampleState(nn.Module):
    """A running average for each training sample.

    A sample's first value is taken as it is; before that its average is 0. With several processes
    every process holds the same table. A sample that occurs twice in a global batch counts once,
    with the mean of its values.

    Args:
        n: number of training samples.
        decay: share of the old average that is kept, in [0, 1).
    """

    average: Tensor
    seen: Tensor

    def __init__(self, n: int, decay: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1); got {decay}")
        self.decay = decay
        self.register_buffer("average", torch.zeros(n))
        self.register_buffer("seen", torch.zeros(n, dtype=torch.bool))

    @torch.no_grad()
    def update(self, ids: Tensor, value: Tensor) -> Tensor:
        """Take in new values and return the averages of these samples.

        Args:
            ids: int64 [b], this process's samples.
            value: float [b].

        Returns:
            float [b], the averages of `ids` after the update.
        """
        all_ids, all_values = gather_rows(ids), gather_rows(value.detach().float())
        unique, place = all_ids.unique(return_inverse=True)
        total = torch.zeros(len(unique), device=value.device).index_add_(0, place, all_values)
        count = torch.zeros_like(total).index_add_(0, place, torch.ones_like(all_values))
        new = total / count
        kept = self.decay * self.average[unique] + (1 - self.decay) * new
        self.average[unique] = torch.where(self.seen[unique], kept, new)
        self.seen[unique] = True
        return self.average[ids]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes; `rows` itself where there is one.

    Processes may hold different numbers of rows.
    """
    if processes() == 1:
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts).to(rows.device)


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def with_others(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes; gradients reach one's own alone.

    A loss of all rows is the same in every process, and each has its share of the gradient. The
    mean of these, which is what training takes, is too small by the number of `processes`.
    """
    everyone = gather_rows(rows.detach())
    if len(everyone) == len(rows):
        return rows
    counts = gather_rows(torch.tensor([len(rows)], device=rows.device)).tolist()
    start = sum(counts[: dist.get_rank()])
    return torch.cat([everyone[:start], rows, everyone[start + len(rows) :]])
