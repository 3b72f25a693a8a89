"""What DeFund optimises, and how it goes from a biased classifier to what is drawn more often."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from truecue.data.loader import Batch
from truecue.engine.learner import Learner, Predict, Step, freeze, processes, with_others
from truecue.losses.classification import ce
from truecue.losses.rank import rank_penalty
from truecue.losses.selfsup import nt_xent, simsiam, vicreg
from truecue.nets.classifier import Classifier
from truecue.nets.heads import (
    simclr_projector,
    simsiam_predictor,
    simsiam_projector,
    vicreg_expander,
)

LossName = Literal["simclr", "simsiam", "vicreg"]


class SelfSupervised(Learner):
    """An encoder under a self-supervised loss, from which the rank penalty is subtracted.

    Args:
        net: its encoder is trained; its last layer is left alone.
        loss: which self-supervised loss.
        strength: of the rank penalty of the encoder's features; 0: none.
        tau: SimCLR's temperature.
        expander: width of VICReg's expander.
    """

    def __init__(
        self, net: Classifier, loss: LossName, *, strength: float, tau: float, expander: int
    ):
        super().__init__()
        d = net.n_features
        self.net, self.loss, self.strength, self.tau = net, loss, strength, tau
        net.head.requires_grad_(False)
        self.predictor: nn.Module = nn.Identity()
        if loss == "simclr":
            self.projector = simclr_projector(d)
        elif loss == "simsiam":
            self.projector, self.predictor = simsiam_projector(d), simsiam_predictor(d)
        else:
            self.projector = vicreg_expander(d, expander)

    def forward(self, batch: Batch) -> Step:
        """`loss - strength * penalty`; both views go through the encoder in one pass.

        Loss and penalty are of the images of all processes.
        """
        features = self.net.features(torch.cat(batch.views))
        projected = self.projector(features)
        z1, z2 = map(with_others, projected.chunk(2))
        if self.loss == "simclr":
            loss = nt_xent(z1, z2, self.tau).mean()
        elif self.loss == "simsiam":
            q1, q2 = map(with_others, self.predictor(projected).chunk(2))
            loss = simsiam(q1, q2, z1, z2).mean()
        else:
            loss = vicreg(z1, z2)
        return _regularised(processes() * loss, loss, features, self.strength)

    def branches(self) -> dict[str, Predict]:
        """None: there is no classifier yet."""
        return {}


class LowRank(Learner):
    """A classifier under cross-entropy, from which its features' rank penalty is subtracted."""

    def __init__(self, net: Classifier, strength: float):
        super().__init__()
        self.net, self.strength = net, strength

    def forward(self, batch: Batch) -> Step:
        """`mean cross-entropy - strength * penalty`."""
        features = self.net.features(batch.x)
        loss = ce(self.net.head(features), batch.y).mean()
        return _regularised(loss, loss, features, self.strength)


def _regularised(loss: Tensor, task: Tensor, features: Tensor, strength: float) -> Step:
    """`loss` less the penalty of the rows of all processes; `task` is what the log calls it."""
    with torch.set_grad_enabled(strength > 0 and torch.is_grad_enabled()):
        penalty = rank_penalty(with_others(features))
    logs = {"task": task.detach(), "rank_penalty": penalty.detach()}
    return Step(loss - processes() * strength * penalty, logs)


class Probe(Learner):
    """A last layer on features of a frozen encoder that were computed once.

    Args:
        net: its encoder is frozen, in evaluation mode; its last layer is trained.
        watched: whether the whole network's accuracy is worth watching.
    """

    def __init__(self, net: Classifier, *, watched: bool = False):
        super().__init__()
        freeze(net.encoder)
        self.net, self.watched = net, watched

    def forward(self, batch: Batch) -> Step:
        """Mean cross-entropy of a batch of features [b, d, 1, 1]."""
        return Step(ce(self.net.head(batch.x.flatten(1)), batch.y).mean(), {})

    def branches(self) -> dict[str, Predict]:
        """The whole network, where it is what the run delivers."""
        return {"net": self.net} if self.watched else {}


def bias_scores(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How little a biased classifier believes in the labels.

    Args:
        logits: float [n, classes].
        y: int64 [n].

    Returns:
        One minus the label's probability, float64 [n] in [0, 1], and whether another class has a
        larger one, bool [n].
    """
    p = logits.double().softmax(1)
    return 1 - p.gather(1, y[:, None])[:, 0], logits.argmax(1) != y


def error_set(scores: Tensor, wrong: Tensor, cutoff: float) -> Tensor:
    """The samples that probably contradict the cue.

    Args:
        scores: float [models, n].
        wrong: bool [models, n].
        cutoff: of the mean score of several models.

    Returns:
        bool [n]: what a single model gets wrong; of several, whose mean score is above the cutoff.
    """
    return wrong[0] if len(scores) == 1 else scores.mean(0) > cutoff


def upweights(errors: Tensor, factor: float) -> Tensor:
    """The relative chance of each sample to be drawn: `factor` for an error, 1 for the others.

    Args:
        errors: bool [n].
        factor: at least 1.

    Returns:
        float64 [n].
    """
    return 1 + (factor - 1) * errors.double()
