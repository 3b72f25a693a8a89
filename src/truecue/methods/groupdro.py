"""Group DRO: minimise the loss of the worst group, with weights that follow the groups' losses.

Sagawa, Koh, Hashimoto, Liang, ICLR 2020, arXiv 1911.08731.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from truecue.data.loader import Batch
from truecue.data.sets import Splits
from truecue.engine.learner import Learner, Step, gather_rows
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce
from truecue.methods.base import Method, Uses
from truecue.methods.grouping import Groups, grouped
from truecue.nets.classifier import Classifier


class WorstGroups(Learner):
    """A network under the groups' mean losses, weighted by how bad each group has been so far."""

    log_q: Tensor
    cells: Tensor
    lift: Tensor

    def __init__(self, net: Classifier, groups: Groups, bias: str, *, eta: float, c: float):
        super().__init__()
        self.net, self.bias, self.eta = net, bias, eta
        n = len(groups.counts)
        # a logarithm neither overflows nor dies out, however long the weights grow
        self.register_buffer("log_q", torch.full((n,), 1 / n).log())
        self.register_buffer("cells", groups.cells, persistent=False)
        self.register_buffer("lift", c / groups.counts.float().sqrt(), persistent=False)

    @property
    def q(self) -> Tensor:
        """The weight of each group, float [groups]; they add up to 1."""
        return self.log_q.exp()

    def forward(self, batch: Batch) -> Step:
        """`sum over groups of q * mean cross-entropy`; no gradient goes through q."""
        group = self.cells[batch.y, batch.attributes[self.bias]]
        losses = ce(self.net(batch.x), batch.y).float()
        sums = losses.new_zeros(len(self.log_q)).index_add(0, group, losses)
        counts = torch.bincount(group, minlength=len(self.log_q)).float()
        own = torch.stack([sums.detach(), counts])
        parts = gather_rows(own[None])  # every process's share of the global batch
        everywhere = parts.sum(0)
        counts = everywhere[1].clamp(min=1)  # 0 is the loss of a group that is not in the batch
        self.update(everywhere[0] / counts)
        # gradients are averaged over processes, hence the factor
        loss = len(parts) * (self.q * sums / counts).sum()
        return Step(loss, {"largest_q": self.q.max(), "worst": (everywhere[0] / counts).max()})

    @torch.no_grad()
    def update(self, losses: Tensor) -> None:
        """Let q follow the groups' mean losses [groups] of one batch."""
        self.log_q += self.eta * (losses + self.lift)
        self.log_q -= self.log_q.logsumexp(0)


class GroupDRO(Method):
    """The worst group counts most. Needs the bias label of every training image."""

    title: ClassVar[str] = "Group DRO (distributionally robust optimisation over groups)"
    uses: ClassVar[Uses] = Uses.TRAIN_ATTRIBUTES
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """How the network is trained. The paper adds strong weight decay."""
    eta: NonNegativeFloat = 0.01
    """How fast the groups' weights follow their losses; 0: all groups count the same."""
    c: NonNegativeFloat = 0.0
    """Lifts the loss that small groups are judged by, by c / √(images in the group)."""
    balanced: bool = True
    """Draw every group equally often; else images as they come."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train one network on the training images and their groups."""
        train, bias = data.train, data.bias
        assert bias is not None
        groups = grouped(train, bias)
        weights = (1 / groups.counts.double())[groups.of] if self.balanced else None

        def make() -> WorstGroups:
            return WorstGroups(run.new_net(train), groups, bias, eta=self.eta, c=self.c)

        return run.train("fit", make, train, self.plan, weights=weights).net
