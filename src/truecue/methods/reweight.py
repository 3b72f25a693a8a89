"""Re-weighting: rare groups, or rare classes, are drawn more often or count more.

By sampling as in Idrissi, Arjovsky, Pezeshki, Lopez-Paz, CLeaR 2022, arXiv 2110.14503; by the loss
as in Yang, Zhang, Katabi, Ghassemi, ICML 2023, arXiv 2302.12254.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from truecue.data.loader import Batch
from truecue.data.sets import Splits
from truecue.engine.learner import Learner, Step
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce
from truecue.methods.base import Method, Uses
from truecue.methods.erm import CELearner
from truecue.methods.grouping import By, grouped
from truecue.nets.classifier import Classifier

Rule = Literal["inverse", "sqrt", "effective"]


def group_weights(counts: Tensor, rule: Rule, beta: float) -> Tensor:
    """The weight of an image of each group; over the groups they add up to the number of groups.

    Args:
        counts: int64 [groups], images in each; at least 1.
        rule: "inverse": 1/n; "sqrt": 1/√n; "effective": (1 - β) / (1 - β^n).
        beta: of "effective", in [0, 1).

    Returns:
        float64 [groups].

    Source of "effective": Cui et al. 2019, Class-balanced loss based on effective number of
    samples.
    """
    n = counts.double()
    match rule:
        case "inverse":
            weights = 1 / n
        case "sqrt":
            weights = 1 / n.sqrt()
        case "effective":
            weights = (1 - beta) / (1 - beta**n)
    return weights * (len(n) / weights.sum())


class WeightedCE(Learner):
    """A network under a weighted mean of the cross-entropy."""

    weights: Tensor

    def __init__(self, net: Classifier, weights: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, batch: Batch) -> Step:
        """`mean w * CE`, not divided by the sum of the weights."""
        return Step((self.weights[batch.ids] * ce(self.net(batch.x), batch.y)).mean(), {})


class Reweight(Method):
    """Every group (or class) counts the same. By group, it needs bias labels in training."""

    title: ClassVar[str] = "Re-weighting by group or class"
    uses: ClassVar[Uses] = Uses.TRAIN_ATTRIBUTES
    instead: ClassVar[str] = "by = 'class' (classes in place of groups)"
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """How the network is trained."""
    by: By = "group"
    """What counts the same: "group" (class and bias value) or "class" (needs no bias labels)."""
    form: Literal["sampler", "loss"] = "sampler"
    """Draw rare images more often, with replacement, or multiply their loss."""
    rule: Rule = "inverse"
    """How weights fall with the number of images n: "inverse" 1/n, "sqrt" 1/√n, "effective"
    (1 - β) / (1 - β^n)."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """β of the rule "effective"."""

    def supervision(self) -> Uses:
        """Bias labels of training images, where it goes by group."""
        return Uses.TRAIN_ATTRIBUTES if self.by == "group" else Uses.LABELS

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train one network on the training images."""
        train = data.train
        groups = grouped(train, data.bias, self.by)
        weights = group_weights(groups.counts, self.rule, self.beta)[groups.of]
        if self.form == "sampler":
            return run.train(
                "fit", lambda: CELearner(run.new_net(train)), train, self.plan, weights=weights
            ).net
        return run.train(
            "fit", lambda: WeightedCE(run.new_net(train), weights), train, self.plan
        ).net
