"""Learning from Failure: a network that fails on an image tells another one to look at it.

Nam, Cha, Ahn, Lee, Shin, NeurIPS 2020, arXiv 2007.02561.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from truecue.data.loader import Batch
from truecue.data.sets import Splits
from truecue.engine.learner import Learner, Predict, SampleState, Step
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce, gce
from truecue.methods.base import Method
from truecue.methods.difficulty import difficulty_by_class
from truecue.nets.classifier import Classifier


class Failure(Learner):
    """A network that is trained to be biased, and one that is trained on what that one fails on."""

    y: Tensor

    def __init__(
        self,
        net: Classifier,
        biased: Classifier,
        y: Tensor,
        *,
        q: float,
        decay: float,
        scaled: bool,
    ):
        super().__init__()
        self.net, self.biased, self.q = net, biased, q
        self.factor = q if scaled else 1.0
        self.register_buffer("y", y, persistent=False)
        self.biased_loss = SampleState(len(y), decay)
        self.debiased_loss = SampleState(len(y), decay)

    def forward(self, batch: Batch) -> Step:
        """`mean GCE(biased) + mean W * CE(debiased)`; no gradient goes through the weights."""
        biased, debiased = self.biased(batch.x), self.net(batch.x)
        ce_biased, ce_debiased = ce(biased.detach(), batch.y), ce(debiased, batch.y)
        self.biased_loss.update(batch.ids, ce_biased)
        self.debiased_loss.update(batch.ids, ce_debiased)
        first = self.factor * gce(biased, batch.y, self.q).mean()
        second = (self.weights()[batch.ids] * ce_debiased).mean()
        return Step(first + second, {"biased": first.detach(), "debiased": second.detach()})

    @torch.no_grad()
    def weights(self) -> Tensor:
        """The weight of every training sample as of now: float [n]; 0 for one not yet seen."""
        losses = self.biased_loss.average, self.debiased_loss.average
        return difficulty_by_class(*losses, self.y, self.net.n_classes)

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Each network's parameters: one may have an optimizer of its own."""
        return {"debiased": self.net.parameters(), "biased": self.biased.parameters()}

    def branches(self) -> dict[str, Predict]:
        """Both networks; the debiased one is what the stage is for."""
        return {"debiased": self.net, "biased": self.biased}


class LfF(Method):
    """Two networks side by side; needs no bias labels.

    The biased one is trained by generalised cross-entropy, which follows what is easy already. The
    debiased one weights each image by how much harder the biased one finds it.
    """

    title: ClassVar[str] = "Learning from Failure (LfF)"
    plan: Plan = Plan(epochs=100, batch_size=256, optimizer=Adam(lr=1e-3))
    """How both networks are trained."""
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """How strongly the biased network follows what is easy; towards 0: plain cross-entropy."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Share of an image's average loss that is kept when a new loss comes in."""
    scaled: bool = False
    """Multiply the biased network's loss by `q`, as the released code does."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train both networks together; the debiased one is the result."""
        train = data.train

        def make() -> Failure:
            net, biased = run.new_net(train), run.new_net(train)
            return Failure(net, biased, train.y, q=self.q, decay=self.decay, scaled=self.scaled)

        trained = run.train("fit", make, train, self.plan)
        run.publish("biased", trained.biased, "biased")
        run.publish("debiased", trained.net, "debiased")
        return trained.net
