"""DeNetDM: a deep branch takes the bias, a shallow one the rest; a target network learns from both.

Vadakkeeveetil Sreelatha, Kappiyath, Chaudhuri, Dutta, NeurIPS 2024, arXiv 2403.19863.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.evaluate import count
from truecue.engine.learner import Learner, Predict, Step, freeze
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce, distil
from truecue.methods.base import Method
from truecue.metrics.groups import class_accuracy
from truecue.nets.build import pair_for
from truecue.nets.classifier import Classifier


class Experts(Learner):
    """Stage 1: both branches' features are added before one shared head (a product of experts)."""

    def __init__(self, deep: Classifier, shallow: Classifier):
        super().__init__()
        shallow.head = deep.head  # the head is one and the same
        self.deep, self.shallow = deep, shallow

    def joint(self, x: Tensor) -> Tensor:
        """Logits of the sum of both branches' features."""
        pixels = self.deep.pixels(x)
        logits: Tensor = self.deep.head(self.deep.encoder(pixels) + self.shallow.encoder(pixels))
        return logits

    def forward(self, batch: Batch) -> Step:
        """Mean cross-entropy of the joint prediction (section 3.2 of the paper)."""
        return Step(ce(self.joint(batch.x), batch.y).mean(), {})

    def branches(self) -> dict[str, Predict]:
        """Each branch alone, with the other one's features left out, and both."""
        return {"shallow": self.shallow, "deep": self.deep, "joint": self.joint}


class Student(Learner):
    """Stage 2: the target completes the frozen deep branch and imitates the frozen shallow one."""

    def __init__(
        self,
        net: Classifier,
        deep: Classifier,
        shallow: Classifier,
        *,
        poe: float,
        dist: float,
        tau: float,
        cached: dict[str, Tensor] | None,
    ):
        super().__init__()
        freeze(deep, shallow)
        self.net, self.deep, self.shallow = net, deep, shallow
        self.poe, self.dist, self.tau = poe, dist, tau
        self._cached = cached  # no buffers: several processes would send them round every step

    def forward(self, batch: Batch) -> Step:
        """`poe * CE(target + deep) + dist * distillation`; the target runs once for both."""
        features = self.net.features(batch.x)
        deep_features, shallow_logits = self._frozen(batch)
        poe = ce(self.net.head(features + deep_features), batch.y).mean()
        dist = distil(self.net.head(features), shallow_logits, self.tau).mean()
        logs = {"poe": poe.detach(), "distillation": dist.detach()}
        return Step(self.poe * poe + self.dist * dist, logs)

    def _frozen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._cached is not None:
            self._cached = {k: v.to(batch.ids.device) for k, v in self._cached.items()}
            return self._cached["features"][batch.ids], self._cached["logits"][batch.ids]
        with torch.no_grad():
            return self.deep.features(batch.x), self.shallow(batch.x)


class DeNetDM(Method):
    """Debiasing by network depth: needs no bias labels, no augmentation, no re-weighting.

    A deep and a shallow network are trained together on the sum of their features. The deep one
    takes what is easy (the bias), which leaves the rest to the shallow one. Then a network of any
    architecture is trained to add what the deep one lacks and to agree with the shallow one.
    """

    title: ClassVar[str] = "DeNetDM (debiasing by network depth)"
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """Stage 2: the target network."""
    experts: Plan = Plan(
        epochs=100, batch_size=64, drop_last=True, optimizer=Adam(lr=1e-3, weight_decay=1e-3)
    )
    """Stage 1: the deep and the shallow branch."""
    deep: str | None = None
    """Architecture of the deep branch; None: by image size."""
    shallow: str | None = None
    """Architecture of the shallow branch; None: by image size."""
    target: str | None = None
    """Architecture of the target network; None: the run's, else by image size."""
    steady: bool = False
    """Keep the deep branch from losing classes, which some seeds do: leaky units in it (where it is
    an MLP), and in stage 1 weight decay 3e-4 and averaged weights. Not in the paper."""
    poe: NonNegativeFloat = 1.0
    """Weight of the cross-entropy of target and deep branch together."""
    dist: NonNegativeFloat = 1.0
    """Weight of the distillation from the shallow branch."""
    tau: PositiveFloat = 2.0
    """Temperature of the distillation."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train both branches, check that they have parted, train the target."""
        train = data.train
        deep, shallow, target, width = pair_for(max(train.shape[1:]))
        deep, shallow = self.deep or deep, self.shallow or shallow
        plan = self.experts
        if self.steady:
            deep = f"{deep}-leaky" if deep.startswith("mlp") else deep
            plan = plan.override({"average": 0.998, "optimizer.weight_decay": 3e-4})
        target = self.target or run.arch or target

        def experts() -> Experts:
            return Experts(
                run.new_net(train, deep, n_features=width),
                run.new_net(train, shallow, n_features=width),
            )

        first = run.train("experts", experts, train, plan)
        run.publish("deep", first.deep, "biased")
        run.publish("shallow", first.shallow, "debiased")
        warn_if_not_parted(first, train, run)
        cached = (
            None if self.plan.augment else run.once("frozen", lambda: _frozen(first, train, run))
        )

        def student() -> Student:
            net = run.new_net(train, target, n_features=width)
            net.head.load_state_dict(first.deep.head.state_dict())
            return Student(
                net, first.deep, first.shallow,
                poe=self.poe, dist=self.dist, tau=self.tau, cached=cached,
            )  # fmt: skip

        return run.train("student", student, train, self.plan).net


def _frozen(first: Experts, train: ImageSet, run: Run) -> dict[str, Tensor]:
    """What the frozen branches say of every training image: the same in every epoch."""
    return {
        "features": run.apply(first.deep.features, train),
        "logits": run.apply(first.shallow, train),
    }


def warn_if_not_parted(first: Experts, train: ImageSet, run: Run) -> None:
    """Warn when both branches learned the same, or the shallow one took the bias.

    Where a deep branch follows the bias and a shallow one does not, they disagree on many images,
    and on those the deep one is right far more often: most training images are bias-aligned. Only
    classes that neither branch has lost (of which it recognises more than half of the images)
    count: a lost class makes a branch wrong for a reason that has nothing to do with the bias.
    A deep branch that has lost classes gets a warning of its own. Needs class labels only.
    """
    deep = run.apply(first.deep, train).argmax(1)
    shallow = run.apply(first.shallow, train).argmax(1)
    differ = deep != shallow
    share = float(differ.float().mean())
    if share < 0.001:
        run.warn(
            f"The deep and the shallow branch disagree on {share:.2%} of the training images: they"
            " learned the same thing, and the target has nothing to gain. Try branches further"
            " apart in depth, or the images may hold no misleading cue."
        )
        return
    knows = [class_accuracy(count(pred, train, None)) > 0.5 for pred in (deep, shallow)]
    lost = [name for name, known in zip(train.classes, knows[0], strict=True) if not known]
    if lost:
        run.warn(
            f"The deep branch has lost {len(lost)} of {len(train.classes)} classes"
            f" ({', '.join(lost)}): it does not follow the bias there, and the shallow branch may"
            " do so instead. Try steady = true, or another seed."
        )
    differ &= (knows[0] & knows[1])[train.y]
    right = [(pred == train.y)[differ].float().mean() for pred in (deep, shallow)]
    gap = float(right[0] - right[1]) if bool(differ.any()) else 0.0
    if abs(gap) < 0.1:
        run.warn(
            "Where the branches disagree, both are right about equally often (difference"
            f" {gap:+.2f} in accuracy): no clear separation into a biased and a debiased branch."
            " Try branches further apart in depth."
        )
    elif gap < 0:
        run.warn(
            "Where the branches disagree, the shallow one is right more often: it may have taken"
            " the bias. Compare the curves, and try swapping the depths."
        )
