"""Just Train Twice: train briefly, collect the errors, train again with those drawn more often.

Liu, Haghgoo, Chen, Raghunathan, Koh, Sagawa, Liang, Finn, ICML 2021, arXiv 2107.09044.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.learner import Learner, Step, gather_rows
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce
from truecue.methods.base import Method
from truecue.methods.erm import CELearner
from truecue.nets.classifier import Classifier


class Identifier(Learner):
    """A network under the mean cross-entropy that notes which images it got wrong in training."""

    wrong: Tensor

    def __init__(self, net: Classifier, n: int):
        super().__init__()
        self.net = net
        self.register_buffer("wrong", torch.zeros(n, dtype=torch.bool))

    def forward(self, batch: Batch) -> Step:
        """Mean cross-entropy; an image's note is that of the last time it was seen."""
        logits = self.net(batch.x)
        wrong = logits.detach().argmax(1) != batch.y
        self.wrong[gather_rows(batch.ids)] = gather_rows(wrong)
        return Step(ce(logits, batch.y).mean(), {})


class JTT(Method):
    """Two trainings in a row; needs no bias labels.

    The first, short one learns the cue. What it gets wrong mostly contradicts the cue, and is drawn
    more often in the second one, by a new network.
    """

    title: ClassVar[str] = "Just Train Twice (JTT)"
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """The second training, whose network is delivered."""
    identify: Plan = Plan(epochs=5, batch_size=64, optimizer=Adam(lr=1e-3))
    """The first training. Its number of epochs decides what is found: the cue must be learned, the
    images that contradict it not yet."""
    copies: NonNegativeFloat = 50.0
    """How many copies of each error are added, so that it counts copies + 1 times; 0: plain
    training."""
    errors: Literal["after", "during"] = "after"
    """Which errors count: those of the first network when it is trained, or, as in the released
    code, those it made in its last epoch while it was being trained."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train, find the errors, train anew."""
        train = data.train
        first = run.train(
            "identify", lambda: Identifier(run.new_net(train), len(train)), train, self.identify
        )
        run.publish("first", first.net, "biased")
        wrong = run.once("errors", lambda: self._wrong(first, train, run))
        share = float(wrong.float().mean())
        if not 0 < share < 0.5:
            run.warn(
                f"The first network was wrong on {share:.1%} of the training images, so that the"
                " errors say nothing of which images contradict a cue. Set identify.epochs"
                f" {'lower' if share == 0 else 'higher'}."
            )
        return run.train(
            "retrain",
            lambda: CELearner(run.new_net(train)),
            train,
            self.plan,
            weights=1 + self.copies * wrong.double(),
        ).net

    def _wrong(self, first: Identifier, train: ImageSet, run: Run) -> Tensor:
        if self.errors == "during":
            return first.wrong
        return run.apply(first.net, train).argmax(1) != train.y
