"""Small learners, images and stages that the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from truecue.data.loader import Batch, Loader
from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.engine import loop
from truecue.engine.device import Device
from truecue.engine.learner import Learner, Predict, SampleState, Step
from truecue.engine.log import Log
from truecue.engine.plan import Plan
from truecue.losses.classification import ce


@cache
def cpu() -> Device:
    return Device("cpu")


def images(n: int = 48, seed: int = 0, side: int = 4) -> ImageSet:
    """Noise whose brightness gives the class away; the attribute `place` is drawn by itself."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randint(0, 150, (n, 3, side, side), generator=rng) + 100 * y[:, None, None, None]
    place = torch.randint(0, 2, (n,), generator=rng)
    return ImageSet(
        x.to(torch.uint8), y, ("dark", "bright"), {"place": Attribute(place, ("land", "water"))}
    )


def splits(n: int = 48) -> Splits:
    return Splits(images(n, 0), images(24, 1), images(24, 2), bias="place")


class Net(nn.Module):
    """Uint8 images to two logits, with what makes exact continuation hard."""

    def __init__(self, side: int = 4, *, dropout: float = 0.0, norm: bool = False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(3 * side * side, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(self.norm(x / 255)).flatten(1))
        return logits


class Toy(Learner):
    """A net under cross-entropy weighted by running losses; `spoil` changes the loss of a call."""

    def __init__(
        self,
        n: int = 48,
        *,
        dropout: float = 0.0,
        norm: bool = False,
        spoil: Callable[[int, Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.net = Net(dropout=dropout, norm=norm)
        self.losses = SampleState(n, 0.7)
        self._spoil, self.calls = spoil, 0

    def forward(self, batch: Batch) -> Step:
        error = ce(self.net(batch.x), batch.y)
        weights = 1 + self.losses.update(batch.ids, error)
        loss = (weights * error).mean()
        if self._spoil is not None:
            loss = self._spoil(self.calls, loss)
        self.calls += 1
        return Step(loss, {"error": error.detach().mean()})


class Two(Learner):
    """Two separate nets, each in a group of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Net(norm=True), Net()

    def groups(self) -> dict[str, Any]:
        return {"left": self.left.parameters(), "right": self.right.parameters()}

    def branches(self) -> dict[str, Predict]:
        return {"left": self.left, "right": self.right}

    def forward(self, batch: Batch) -> Step:
        left = ce(self.left(batch.x), batch.y).mean()
        right = ce(self.right(batch.x), batch.y).square().mean()
        return Step(left + right, {"left": left.detach()})


def stage(
    plan: Plan,
    data: ImageSet | None = None,
    folder: Path | None = None,
    *,
    name: str = "fit",
    seconds: float = 1e9,
    **more: Any,
) -> loop.Stage:
    loader = Loader(
        data or images(),
        batch_size=plan.batch_size,
        key=(0, name),
        augment=plan.augment,
        drop_last=plan.drop_last,
    )
    values: dict[str, Any] = {
        "name": name,
        "source": loader,
        "plan": plan,
        "device": cpu(),
        "log": Log(folder / "log.jsonl" if folder else None),
        "checkpoint": folder / f"{name}.ckpt" if folder else None,
        "checkpoint_seconds": seconds,
        "watch": None,
        "monitor": None,
        "quiet": True,
    }
    return loop.Stage(**(values | more))


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), f"{name} differs"
