"""Logit correction: a network learns what the bias does not explain, its logits set right by it.

Liu, Zhang, Sekhar, Wu, Singhal, Fernandez-Granda, ICLR 2023, arXiv 2212.01433.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from truecue.data.loader import Batch
from truecue.data.sets import Splits
from truecue.engine.learner import Learner, Predict, Step, gather_rows
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce, gce
from truecue.methods.base import Method
from truecue.nets.classifier import Classifier

FLOOR = 1e-6
"""The smallest prior of a group that is believed; its logarithm stays finite."""


def corrected_ce(logits: Tensor, prior: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits to which the logarithm of the groups' priors has been added.

    Args:
        logits: float [n, classes].
        prior: float [n, classes], above 0: how frequent each class is together with the bias that
            the sample has. The same number for all classes makes this the plain cross-entropy.
        y: int64 [n].

    Returns:
        [n], at least 0.

    Source: equation (7) of the paper.
    """
    return ce(logits + prior.log(), y)


def majority_partners(y: Tensor, minority: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """A random majority sample of the same class for each sample of a batch.

    Args:
        y: int64 [b], classes.
        minority: bool [b]; the others are the majority.
        n_classes: number of classes.

    Returns:
        Positions int64 [b], drawn from torch's random state, and bool [b]: whether the sample's
        class has a majority sample at all. Where it has none the position means nothing.
    """
    counts = y.new_zeros(n_classes).index_add(0, y, (~minority).long())
    by_class = (y + n_classes * minority).argsort(
        stable=True
    )  # majority samples first, class by class
    first = counts.cumsum(0) - counts
    nth = (torch.rand(len(y), device=y.device) * counts[y]).long()
    return by_class[(first[y] + nth).clamp(max=len(y) - 1)], counts[y] > 0


class Corrected(Learner):
    """A biased network, which tells the bias of an image, and one trained on corrected logits."""

    prior: Tensor

    def __init__(self, net: Classifier, biased: Classifier, *, q: float, decay: float, mixup: bool):
        super().__init__()
        self.net, self.biased = net, biased
        self.q, self.decay, self.mixup = q, decay, mixup
        k = net.n_classes
        self.register_buffer("prior", torch.full((k, k), 1 / k**2))

    def forward(self, batch: Batch) -> Step:
        """`mean GCE(biased) + mean CE(net + ln prior)`; no gradient goes through the prior."""
        biased = self.biased(batch.x)
        probability = biased.detach().float().softmax(1)
        self.update(probability, batch.y)
        bias = probability.argmax(1)
        prior = self.prior.clamp(min=FLOOR).t()[bias]  # of each class with the image's bias: [b, k]
        pixels, minority = self.net.pixels(batch.x), bias != batch.y
        if self.mixup:
            pixels, prior = self._mixed(pixels, prior, batch.y, minority)
        logits = self.net.head(self.net.encoder(pixels))
        first = gce(biased, batch.y, self.q).mean()
        second = corrected_ce(logits, prior, batch.y).mean()
        logs = {"biased": first, "debiased": second, "minority": minority.float().mean()}
        return Step(first + second, {name: term.detach() for name, term in logs.items()})

    @torch.no_grad()
    def update(self, probability: Tensor, y: Tensor) -> None:
        """Let the prior of class and bias follow a batch (equations 9 to 11).

        Args:
            probability: float [b, classes], of each bias, as the biased network sees it.
            y: int64 [b].
        """
        sums = torch.zeros_like(self.prior).index_add(0, y, probability)
        batch = gather_rows(sums[None]).sum(0)  # every process's share of the global batch
        self.prior.lerp_(batch / batch.sum(), 1 - self.decay)

    def _mixed(
        self, pixels: Tensor, prior: Tensor, y: Tensor, minority: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Group MixUp (equation 13): each minority image mixed with a majority image of its class.

        The image itself keeps a share between a half and all, drawn for each image.
        """
        partner, there = majority_partners(y, minority, self.net.n_classes)
        share = torch.rand(len(y), 1, device=y.device).mul_(0.5).add_(0.5)
        share = torch.where((minority & there)[:, None], share, 1.0)
        mixed = torch.lerp(pixels[partner], pixels, share[:, :, None, None].to(pixels.dtype))
        return mixed, torch.lerp(prior[partner], prior, share)

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Each network's parameters: one may have an optimizer of its own."""
        return {"debiased": self.net.parameters(), "biased": self.biased.parameters()}

    def branches(self) -> dict[str, Predict]:
        """Both networks; the debiased one is what the stage is for."""
        return {"debiased": self.net, "biased": self.biased}


class LC(Method):
    """Logit correction with group MixUp; needs no bias labels.

    A biased network says which bias an image has. How frequent each class is together with that
    bias is added to the other network's logits in training, so that what the bias predicts already
    need not be learned. Images that contradict the bias are mixed with others of their class.
    """

    title: ClassVar[str] = "Logit correction (LC) with group MixUp"
    plan: Plan = Plan(epochs=100, batch_size=256, optimizer=Adam(lr=1e-3))
    """How both networks are trained."""
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """How strongly the biased network follows what is easy; towards 0: plain cross-entropy."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the groups' frequencies that a step keeps; 0: those of the batch alone."""
    mixup: bool = True
    """Mix images that contradict the bias with others of their class."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train both networks together; the debiased one is the result."""
        train = data.train

        def make() -> Corrected:
            net, biased = run.new_net(train), run.new_net(train)
            return Corrected(net, biased, q=self.q, decay=self.decay, mixup=self.mixup)

        trained = run.train("fit", make, train, self.plan)
        run.publish("biased", trained.biased, "biased")
        run.publish("debiased", trained.net, "debiased")
        return trained.net
