"""DisEnt: one encoder for the bias, one for the rest, and bias features swapped between images.

Lee, Kim, Lee, Lee, Choo, NeurIPS 2021, arXiv 2107.01372 (LDD, DFA).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from truecue.data.loader import Batch, steps_per_epoch
from truecue.data.sets import Splits
from truecue.engine.learner import Learner, Predict, SampleState, Step
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce, gce
from truecue.methods.base import Method
from truecue.methods.difficulty import difficulty_by_class
from truecue.nets.build import default_arch
from truecue.nets.classifier import Classifier
from truecue.nets.small import Pair


class Swap(Learner):
    """Two encoders whose features stand side by side, before a debiased head and a biased one.

    Args:
        net: the pair of encoders, and the debiased head.
        biased: the biased head; its encoder is replaced by that of `net`.
        y: int64 [n], the class of every training image.
        swap_at: steps before features are swapped.
    """

    y: Tensor
    steps: Tensor

    def __init__(
        self,
        net: Classifier,
        biased: Classifier,
        y: Tensor,
        *,
        swap_at: int,
        lambda_dis: float,
        lambda_swap_b: float,
        lambda_swap: float,
        q: float,
        decay: float,
        scaled: bool,
    ):
        super().__init__()
        biased.encoder = net.encoder  # one and the same
        self.net, self.biased, self.q, self.swap_at = net, biased, q, swap_at
        factor = q if scaled else 1.0
        self.lambda_dis, self.lambda_swap_b = factor * lambda_dis, factor * lambda_swap_b
        self.lambda_swap = lambda_swap
        self.register_buffer("y", y, persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.biased_loss = SampleState(len(y), decay)
        self.debiased_loss = SampleState(len(y), decay)

    @property
    def pair(self) -> Pair:
        """The two encoders: first that of what matters, second that of the bias."""
        assert isinstance(self.net.encoder, Pair)
        return self.net.encoder

    def forward(self, batch: Batch) -> Step:
        """Equations (2) to (4) of the paper; each head's gradient reaches its own encoder alone."""
        pixels = self.net.pixels(batch.x)
        own, bias = self.pair.first(pixels), self.pair.second(pixels)
        order = torch.randperm(len(batch.y), device=batch.y.device)

        debiased, biased = self._logits(own, bias)
        ce_debiased, ce_biased = ce(debiased, batch.y), ce(biased.detach(), batch.y)
        self.debiased_loss.update(batch.ids, ce_debiased)
        self.biased_loss.update(batch.ids, ce_biased)
        weights = self.weights()[batch.ids]
        dis = (weights * ce_debiased).mean()
        dis_b = self.lambda_dis * gce(biased, batch.y, self.q).mean()

        debiased, biased = self._logits(own, bias[order])
        swap = (weights * ce(debiased, batch.y)).mean()
        swap_b = self.lambda_swap_b * gce(biased, batch.y[order], self.q).mean()

        # on the device: whether swapping has begun is not worth waiting for it in every step
        share = self.lambda_swap * (self.steps >= self.swap_at)
        self.steps += 1
        logs = {"debiased": dis, "biased": dis_b, "swap_debiased": swap, "swap_biased": swap_b}
        loss = dis + dis_b + share * (swap + swap_b)
        return Step(loss, {name: term.detach() for name, term in logs.items()})

    def _logits(self, own: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Of both heads, on features [n, h] each; no gradient to the other one's encoder."""
        debiased: Tensor = self.net.head(torch.cat([own, bias.detach()], 1))
        biased: Tensor = self.biased.head(torch.cat([own.detach(), bias], 1))
        return debiased, biased

    @torch.no_grad()
    def weights(self) -> Tensor:
        """The weight of every training sample as of now: float [n]; 0 for one not yet seen."""
        losses = self.biased_loss.average, self.debiased_loss.average
        return difficulty_by_class(*losses, self.y, self.net.n_classes)

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Each half, encoder and head: one may have an optimizer of its own."""
        return {
            "debiased": [*self.pair.first.parameters(), *self.net.head.parameters()],
            "biased": [*self.pair.second.parameters(), *self.biased.head.parameters()],
        }

    def branches(self) -> dict[str, Predict]:
        """Both heads, on both encoders' features; the debiased one is what the stage is for."""
        return {"debiased": self.net, "biased": self.biased}


class DisEnt(Method):
    """Features taken apart, and swapped; needs no bias labels.

    One encoder is trained to be biased, the other one on the images that the biased one fails on,
    as in LfF. Later the bias features of the images in a batch are exchanged, which makes images
    with all kinds of bias out of those that are there.
    """

    title: ClassVar[str] = "DisEnt (disentangled feature augmentation; LDD, DFA)"
    plan: Plan = Plan(epochs=100, batch_size=256, drop_last=True, optimizer=Adam(lr=1e-3))
    """How both encoders and heads are trained."""
    swap_from: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the planned steps after which features are swapped; 1: never."""
    lambda_dis: NonNegativeFloat = 1.0
    """Weight of the biased head's loss on an image's own features."""
    lambda_swap_b: NonNegativeFloat = 1.0
    """Weight of the biased head's loss on swapped features."""
    lambda_swap: NonNegativeFloat = 1.0
    """Weight of both heads' losses on swapped features."""
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """How strongly the biased half follows what is easy; towards 0: plain cross-entropy."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Share of an image's average loss that is kept when a new loss comes in."""
    scaled: bool = False
    """Multiply the biased head's losses by `q`, as the released code does."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train both halves together; both encoders and the debiased head are the result."""
        train, plan = data.train, self.plan
        arch = f"pair:{run.arch or default_arch(train.shape[0], max(train.shape[1:]))}"
        per_epoch = steps_per_epoch(
            len(train), plan.batch_size, drop_last=plan.drop_last, world=run.device.world
        )

        def make() -> Swap:
            return Swap(
                run.new_net(train, arch), run.new_net(train, arch), train.y,
                swap_at=round(self.swap_from * plan.epochs * per_epoch),
                lambda_dis=self.lambda_dis, lambda_swap_b=self.lambda_swap_b,
                lambda_swap=self.lambda_swap, q=self.q, decay=self.decay, scaled=self.scaled,
            )  # fmt: skip

        trained = run.train("fit", make, train, plan)
        run.publish("biased", trained.biased, "biased")
        run.publish("debiased", trained.net, "debiased")
        return trained.net
