"""A run without the training: for what a method hands to it."""

from __future__ import annotations

from typing import Any, NamedTuple

from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run


class Asked(NamedTuple):
    """What a stage was to be trained with."""

    learner: Any
    data: ImageSet
    plan: Plan
    more: dict[str, Any]


class Unfitted(Run):
    """A run that builds the learner of each stage, keeps what was asked, and trains nothing."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(None, seed, Device("cpu"), arch="mlp-3")
        self.asked: dict[str, Asked] = {}

    def train(self, stage, make, data, plan, **more):
        self.asked[stage] = Asked(make().eval(), data, plan, more)
        return self.asked[stage].learner
