"""Deep Feature Reweighting: keep a network's features, fit its last layer anew on balanced images.

Kirichenko, Izmailov, Wilson, ICLR 2023, arXiv 2204.02937.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from truecue.data.sets import ImageSet, Splits
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError
from truecue.losses.sparse import sparse_logistic
from truecue.methods.base import Method, Uses
from truecue.methods.erm import CELearner
from truecue.methods.grouping import By, Groups, balanced_subset, grouped
from truecue.nets.classifier import Classifier
from truecue.seeds import derive

FEW = 10
"""Images of a group below which the report warns."""
TOLERANCE = 1e-3
"""How exactly each last layer is fitted; the weights' last digits do not outlive the average."""
Scale = tuple[Tensor, Tensor]
"""Mean and standard deviation of each feature."""


class DFR(Method):
    """Plain training, then a new last layer. Needs bias labels, of validation images alone.

    A plainly trained network has learned the class beside the cue; its last layer weighs the two
    badly. A last layer that is fitted to group-balanced images weighs them better.
    """

    title: ClassVar[str] = "DFR (deep feature reweighting, last-layer retraining)"
    uses: ClassVar[Uses] = Uses.VAL_ATTRIBUTES
    instead: ClassVar[str] = (
        "by = 'class' (balances classes), or fit_on = 'train' with a single value of `strengths`"
        " (needs bias labels of training images alone)"
    )
    plan: Plan = Plan(epochs=100, batch_size=64, optimizer=Adam(lr=1e-3))
    """How the network is trained whose features are kept."""
    fit_on: Literal["val", "train"] = "val"
    """Which images the last layer is fitted to. "train" needs their bias labels, and those of the
    validation images only to choose among several `strengths`."""
    by: By = "group"
    """What is balanced, and by what C is chosen: groups, or classes, which needs no bias labels."""
    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (
        1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01,
    )  # fmt: skip
    """Values of C to choose from, by the worst group; a small one leaves few features."""
    fits: PositiveInt = 20
    """Balanced subsets whose last layers are averaged."""
    scaling: Literal["train", "released"] = "train"
    """What features are standardised by: the training images throughout, or, as in the released
    code, the subset itself while C is chosen and the training images afterwards."""

    def supervision(self) -> Uses:
        """Bias labels of the images that the layer is fitted to, and that C is chosen by."""
        if self.by == "class":
            return Uses.LABELS
        if self.fit_on == "val":
            return Uses.VAL_ATTRIBUTES
        choosing = Uses.VAL_ATTRIBUTES if len(self.strengths) > 1 else Uses.LABELS
        return Uses.TRAIN_ATTRIBUTES | choosing

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train plainly, then replace the last layer."""
        train = data.train
        part = data.val if self.fit_on == "val" else train
        if part is None:
            raise _no_validation_images()
        groups = grouped(part, data.bias, self.by)
        self._check(data, groups)
        net = run.train("fit", lambda: CELearner(run.new_net(train)), train, self.plan).net
        run.publish("plain", net, "biased")
        least, name = int(groups.counts.min()), groups.names[int(groups.counts.argmin())]
        if least < FEW:
            run.warn(
                f"The smallest group ({name}) has {least} images to fit the last layer to, so that"
                f" each fit sees only {least * len(groups.counts):,} images."
            )
        head = run.once("head", lambda: self._head(net, data, part, groups, run))
        debiased = deepcopy(net)
        with torch.no_grad():
            debiased.head.weight.copy_(head["weight"])
            debiased.head.bias.copy_(head["bias"])
        run.publish("retrained", debiased, "debiased")
        return debiased

    def _check(self, data: Splits, groups: Groups) -> None:
        """Refuse what C cannot be chosen by, before anything is trained."""
        if len(self.strengths) == 1:
            return
        if self.fit_on == "train":
            if data.val is None:
                raise _no_validation_images()
            grouped(data.val, data.bias, self.by)
        elif int(groups.counts.max()) < 2:
            raise DataError(
                f"no {self.by} has two validation images, and choosing C needs one to fit to and"
                " one to judge by; give `strengths` a single value, or more validation images"
            )

    def _head(
        self, net: Classifier, data: Splits, part: ImageSet, groups: Groups, run: Run
    ) -> dict[str, Tensor]:
        """Weights and offsets for raw features: the average of the fits, and the C they used."""
        z_train = run.apply(net.features, data.train).double()
        z = z_train if self.fit_on == "train" else run.apply(net.features, part).double()
        scale = _scale(z_train)
        strength = self.strengths[0]
        if len(self.strengths) > 1:
            strength = self._choose(net, data, part, groups, z, scale, run)
        heads = []
        for k in range(self.fits):
            ids = balanced_subset(groups, run.seed, "dfr", "fit", k)
            heads.append(_layer(z[ids], part.y[ids], net.n_classes, strength, scale))
        weight, bias = (torch.stack(parts).mean(0) for parts in zip(*heads, strict=True))
        return {"weight": weight.float(), "bias": bias.float(), "strength": torch.tensor(strength)}

    def _choose(
        self, net: Classifier, data: Splits, part: ImageSet, groups: Groups, z: Tensor,
        scale: Scale, run: Run,
    ) -> float:  # fmt: skip
        """The first C with the best worst group on half of the validation images, or on all."""
        if self.fit_on == "train":
            assert data.val is not None  # by `_check`
            judged = grouped(data.val, data.bias, self.by)
            z_judged, y_judged = run.apply(net.features, data.val).double(), data.val.y
            rest, its_groups = torch.arange(len(part)), groups
        else:
            held, rest = _halves(groups, derive(run.seed, "dfr", "halves"))
            z_judged, y_judged = z[held], part.y[held]
            judged, its_groups = _of(groups, held), _of(groups, rest)
        ids = rest[balanced_subset(its_groups, run.seed, "dfr", "choose")]
        scale = scale if self.scaling == "train" else _scale(z[ids])
        best, chosen = -1.0, self.strengths[0]
        for strength in self.strengths:
            weight, bias = _layer(z[ids], part.y[ids], net.n_classes, strength, scale)
            right = ((z_judged @ weight.T + bias).argmax(1) == y_judged).double()
            hits = torch.zeros(len(judged.counts)).double().index_add_(0, judged.of, right)
            worst = float((hits / judged.counts).min())
            if worst > best:
                best, chosen = worst, strength
        return chosen


def _no_validation_images() -> ConfigError:
    return ConfigError(
        "DFR needs validation images to fit the last layer to, or to choose C by, and this data has"
        " none; set a val_share above 0, or fit_on = 'train' and `strengths` to a single value"
    )


def _scale(z: Tensor) -> Scale:
    """Mean and deviation of features; 1 for a feature that never changes."""
    std = z.std(0, correction=0)
    return z.mean(0), torch.where(std > 0, std, torch.ones_like(std))


def _layer(z: Tensor, y: Tensor, classes: int, strength: float, scale: Scale) -> Scale:
    """A layer fitted to standardised features, as weights and offsets for raw ones."""
    mean, std = scale
    weight, bias = sparse_logistic((z - mean) / std, y, classes, strength, tol=TOLERANCE)
    weight = weight / std
    return weight, bias - weight @ mean


def _halves(groups: Groups, seed: int) -> tuple[Tensor, Tensor]:
    """Positions to judge by and to fit to: half of every group each; a single one is fitted to."""
    order = torch.randperm(len(groups.of), generator=torch.Generator().manual_seed(seed))
    members = [order[groups.of[order] == g] for g in range(len(groups.counts))]
    held = torch.cat([ids[: len(ids) // 2] for ids in members])
    return held, torch.cat([ids[len(ids) // 2 :] for ids in members])


def _of(groups: Groups, ids: Tensor) -> Groups:
    """The groups of some of the images; those that are left without one are dropped."""
    _, of, counts = groups.of[ids].unique(return_inverse=True, return_counts=True)
    return groups._replace(of=of, counts=counts)
