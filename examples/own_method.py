"""A method of one's own: focal loss, by which easy samples count less. Checked, then trained."""

from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import truecue
from truecue.losses.classification import ce
from truecue.testing import check_method


class Focused(truecue.Learner):
    """Each sample's cross-entropy times (1 - p)^gamma (Lin et al., 2017)."""

    def __init__(self, net: truecue.Classifier, gamma: float):
        super().__init__()
        self.net, self.gamma = net, gamma

    def forward(self, batch: truecue.Batch) -> truecue.Step:
        """Mean over the batch."""
        loss = ce(self.net(batch.x), batch.y)
        return truecue.Step(((1 - (-loss).exp()) ** self.gamma * loss).mean(), {})


class Focal(truecue.Method):
    """Focal loss."""

    title: ClassVar[str] = "Focal loss"
    gamma: float = 2.0
    """How little easy samples count."""

    def fit(self, data: truecue.Splits, run: truecue.Run) -> truecue.Classifier:
        """Train one network."""
        train, plan = data.train, self.plan
        return run.train("fit", lambda: Focused(run.new_net(train), self.gamma), train, plan).net


check_method(Focal(), Path(mkdtemp()))
trained = truecue.train(Focal().override({"plan.epochs": 3}), truecue.Gratings().load())
print("focal, on test images:", trained.report["models"]["focal"]["test"]["conflicting"])
