"""Plain training: minimise the average cross-entropy (empirical risk minimisation)."""

from __future__ import annotations

from typing import ClassVar

from truecue.data.loader import Batch
from truecue.data.sets import Splits
from truecue.engine.learner import Learner, Step
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce
from truecue.methods.base import Method
from truecue.nets.classifier import Classifier


class CELearner(Learner):
    """A network under the mean cross-entropy."""

    def __init__(self, net: Classifier):
        super().__init__()
        self.net = net

    def forward(self, batch: Batch) -> Step:
        """Mean cross-entropy of the batch."""
        return Step(ce(self.net(batch.x), batch.y).mean(), {})


class ERM(Method):
    """Plain training: whatever predicts the label gets used, misleading or not."""

    title: ClassVar[str] = "Plain training (empirical risk minimisation)"
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """How the network is trained."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train one network on the training images."""
        train = data.train
        return run.train("fit", lambda: CELearner(run.new_net(train)), train, self.plan).net
