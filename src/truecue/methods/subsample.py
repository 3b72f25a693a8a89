"""Subsampling: as many images of every group, or class, as the smallest one has.

Idrissi, Arjovsky, Pezeshki, Lopez-Paz, CLeaR 2022, arXiv 2110.14503.
"""

from __future__ import annotations

from typing import ClassVar

from truecue.data.sets import Splits
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.methods.base import Method, Uses
from truecue.methods.erm import CELearner
from truecue.methods.grouping import By, balanced_subset, grouped
from truecue.nets.classifier import Classifier

FEW = 10
"""Images of a group below which the report warns."""


class Subsample(Method):
    """Plain training on a balanced part of the images. By group, it needs bias labels in training.

    The part is drawn once, by the seed. Everything else is thrown away, so the epochs are shorter.
    """

    title: ClassVar[str] = "Subsampling by group or class"
    uses: ClassVar[Uses] = Uses.TRAIN_ATTRIBUTES
    instead: ClassVar[str] = "by = 'class' (classes in place of groups)"
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """How the network is trained; an epoch is a pass over the part that is kept."""
    by: By = "group"
    """What is balanced: "group" (class and bias value) or "class" (needs no bias labels)."""

    def supervision(self) -> Uses:
        """Bias labels of training images, where it goes by group."""
        return Uses.TRAIN_ATTRIBUTES if self.by == "group" else Uses.LABELS

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train one network on the part that is kept."""
        groups = grouped(data.train, data.bias, self.by)
        least = int(groups.counts.min())
        kept = data.train.select(balanced_subset(groups, run.seed, "subsample"))
        if least < FEW:
            name = groups.names[int(groups.counts.argmin())]
            run.warn(
                f"The smallest {self.by} ({name}) has {least} training images, so that only"
                f" {len(kept):,} of {len(data.train):,} images are trained on. Re-weighting keeps"
                " them all."
            )
        return run.train("fit", lambda: CELearner(run.new_net(kept)), kept, self.plan).net
