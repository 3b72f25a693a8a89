"""How a stage is trained: optimizers, schedules, stopping and choosing, as plain settings."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from truecue.config import Config
from truecue.data.augment import AugmentName

Beta = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, lt=1)]

SelectRule = Literal[
    "last", "val_loss", "val_worst_class", "val_pseudo_group", "val_worst_group", "oracle_test"
]
LABELS_FOR_CHOOSING: dict[str, str] = {
    "last": "none",
    "val_loss": "class labels of validation images",
    "val_worst_class": "class labels of validation images",
    "val_pseudo_group": "class labels of validation images",
    "val_worst_group": "class and bias labels of validation images",
    "oracle_test": "class and bias labels of the TEST images (oracle)",
}
"""What each rule for choosing weights looks at."""


class Adam(Config):
    """Adam; weight decay is added to the gradient (L2)."""

    kind: Literal["adam"] = "adam"
    """Tells this kind from the others in a settings file."""
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the first and the second moment."""


class AdamW(Config):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    """Tells this kind from the others in a settings file."""
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Share of each weight taken off in a step, times the learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the first and the second moment."""


class SGD(Config):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    """Tells this kind from the others in a settings file."""
    lr: PositiveFloat = 0.1
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty."""
    momentum: Beta = 0.9
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


Optimizer = Annotated[Adam | AdamW | SGD, Field(discriminator="kind")]


class Constant(Config):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"
    """Tells this kind from the others in a settings file."""


class Cosine(Config):
    """Linear warm-up, then half a cosine down to zero."""

    kind: Literal["cosine"] = "cosine"
    """Tells this kind from the others in a settings file."""
    warmup: NonNegativeFloat = 0.0
    """Epochs of warm-up."""


class HeldCosine(Config):
    """Constant for a share of the epochs, then a part of half a cosine, epoch by epoch.

    The cosine is stretched over all epochs, not over those that are left, so that it does not reach
    zero: after a hold of 0.4 the last of 100 epochs runs at 0.36 of the learning rate.
    """

    kind: Literal["held_cosine"] = "held_cosine"
    """Tells this kind from the others in a settings file."""
    hold: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the epochs without a change."""


class Steps(Config):
    """The learning rate times `factor` at each of the given epochs."""

    kind: Literal["steps"] = "steps"
    """Tells this kind from the others in a settings file."""
    at: tuple[PositiveInt, ...]
    """Epochs after which the rate falls."""
    factor: Factor = 0.1
    """What the rate is multiplied by."""


class Plateau(Config):
    """The learning rate times `factor` when the watched value has not improved for a while."""

    kind: Literal["plateau"] = "plateau"
    """Tells this kind from the others in a settings file."""
    factor: Factor = 0.1
    """What the rate is multiplied by."""
    patience: NonNegativeInt = 5
    """Epochs without improvement that are tolerated."""
    threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the best value by which an improvement must lower it to count here; None: what
    counts for stopping counts here, too."""


Schedule = Annotated[Constant | Cosine | HeldCosine | Steps | Plateau, Field(discriminator="kind")]


class Patience(Config):
    """Stop when the watched value has not improved for a number of epochs."""

    epochs: PositiveInt = 10
    """Epochs without improvement after which training stops."""
    least: NonNegativeFloat = 0.0
    """What the value must fall by, at least, to count as improved; 0: any fall counts."""
    last_unless_stopped: bool = False
    """Keep the last weights, not the best, where training ran through all its epochs."""


class Plan(Config):
    """How one stage is trained."""

    epochs: PositiveInt = 100
    """Passes over the training images."""
    batch_size: PositiveInt = 128
    """Images in a step, over all processes."""
    drop_last: bool = False
    """Leave out the last, incomplete batch of an epoch."""
    optimizer: Optimizer = Adam()
    """Optimizer of all groups that `optimizer_of` does not name."""
    optimizer_of: dict[str, Optimizer] = {}
    """Optimizers of single parameter groups."""
    turns: tuple[str, ...] = ()
    """Groups that are trained one step at a time, in this order; empty: all in every step."""
    schedule: Schedule = Constant()
    """Learning rate over time."""
    augment: tuple[AugmentName, ...] = ()
    """Augmentations, in this order."""
    views: Literal[1, 2] = 1
    """Independently augmented copies of each image; methods that compare none take the first."""
    stop: Patience | None = None
    """When to stop early; needs something to watch (a rule other than `last`)."""
    average: Beta = 0.0
    """Decay in a step of a running average of the weights, which is kept instead of the last
    weights, e.g. 0.998; 0: no average."""
    select: SelectRule = "last"
    """Which epoch's weights are kept. `oracle_test` looks at the test images: for parity only."""


def lr_factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """What the learning rate is multiplied by.

    Args:
        schedule: any schedule; `Plateau` depends on the watched value, so its part is 1 here.
        epoch: epochs done, with fractions.
        epochs: epochs in all.
    """
    match schedule:
        case Cosine(warmup=warmup):
            if epoch < warmup:
                return epoch / warmup
            progress = (epoch - warmup) / max(epochs - warmup, 1e-9)
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        case HeldCosine(hold=hold):
            past = max(0, math.floor(epoch) - math.floor(hold * epochs + 1e-9))
            return 0.5 * (1 + math.cos(math.pi * past / epochs))
        case Steps(at=at, factor=factor):
            return factor ** sum(epoch >= mark for mark in at)
        case _:
            return 1.0
