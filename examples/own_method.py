"""A method of one's own: cross-entropy that trusts confident samples less, checked and trained."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from pydantic import PositiveFloat

import truecue
from truecue.losses.classification import ce
from truecue.testing import check_method


class FocalLearner(truecue.Learner):
    """Each sample's cross-entropy times (1 - p)^gamma (Lin et al., 2017)."""

    def __init__(self, net: truecue.Classifier, gamma: float):
        super().__init__()
        self.net, self.gamma = net, gamma

    def forward(self, batch: truecue.Batch) -> truecue.Step:
        """Focal loss of a batch."""
        loss = ce(self.net(batch.x), batch.y)
        return truecue.Step(((1 - (-loss).exp()) ** self.gamma * loss).mean(), {})


class Focal(truecue.Method):
    """Focal loss."""

    title: ClassVar[str] = "Focal loss"
    gamma: PositiveFloat = 2.0
    """How little easy samples count."""

    def fit(self, data: truecue.Splits, run: truecue.Run) -> truecue.Classifier:
        """Train one network."""
        net, plan = (lambda: FocalLearner(run.new_net(data.train), self.gamma)), self.plan
        return run.train("fit", net, data.train, plan).net


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        check_method(Focal(), Path(folder))
    method = Focal().override({"plan.epochs": 3})
    trained = truecue.train(method, truecue.Gratings().load(), arch="mlp-3")
    for name, model in trained.report["models"].items():
        print(f"{name}: {model['test']['conflicting']['value']:.0%} of conflicting images right")
