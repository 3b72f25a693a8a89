"""DeFund: a low-rank encoder errs on what contradicts the cue, and its errors are drawn more often.

Park, Jung, Lee, Ye, Lee, CVPR 2024, arXiv 2210.05248.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from truecue.data.sets import ImageSet, Splits, class_counts
from truecue.engine.plan import Adam, Constant, HeldCosine, Plan, Plateau
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError
from truecue.methods.base import Method
from truecue.methods.erm import CELearner
from truecue.methods.lowrank import (
    LossName,
    LowRank,
    Probe,
    SelfSupervised,
    bias_scores,
    error_set,
    upweights,
)
from truecue.nets.classifier import Classifier
from truecue.seeds import derive

STRENGTHS: dict[str, float] = {
    "simclr": 1.2, "simsiam": 0.004, "vicreg": 0.8, "supervised": 10.0,
}  # fmt: skip
"""Strength of the regulariser where none is given: four times the value that the authors' scripts
use on UTKFace (gender), whose products of two views are divided by half their number; with labels,
where the two agree, theirs on chest X-rays."""
MEASURED = 512
"""Training images, at most, of whose features the report shows ranks and correlations."""


class Biased(NamedTuple):
    """A classifier that is meant to go by the cue, and what it makes of the labelled images."""

    net: Classifier
    features: Tensor
    """float [n, d], of all training images, where the strength is 0; else [0, d]."""
    measured: Tensor
    """float [k, d], features of some training images, the same for each strength."""
    scores: Tensor
    """float64 [m], one minus the label's probability."""
    wrong: Tensor
    """bool [m]."""


class DeFund(Method):
    """Self-supervised debiasing with low-rank regularisation; needs no bias labels.

    One encoder is trained without labels, another one with a reward for correlated features, which
    leaves it only what is easy and common. What a last layer on the latter gets wrong is drawn more
    often when the classifier on the former is trained.
    """

    title: ClassVar[str] = "DeFund (debiasing by low-rank regularisation)"
    variant: Literal["linear", "semi", "supervised"] = "linear"
    """What labels are used for: a last layer on the frozen encoder; the whole network, with labels
    of a share of the images only; or the whole network without self-supervised training."""
    plan: Plan = Plan(
        epochs=100, batch_size=256, optimizer=Adam(lr=3e-4, weight_decay=1e-4)
    )  # fmt: skip
    """How the classifier that is delivered is trained: its last layer alone in the variant
    `linear`, the whole network in the others."""
    pretrain: Plan = Plan(
        epochs=50,
        batch_size=256,
        drop_last=True,
        optimizer=Adam(lr=3e-4, weight_decay=1e-4),
        schedule=HeldCosine(),
        augment=("large_crop", "flip", "jitter", "grey"),
        views=2,
    )
    """How both encoders are trained without labels; not used by the variant `supervised`."""
    probe: Plan = Plan(
        epochs=100, batch_size=256, optimizer=Adam(lr=3e-4, weight_decay=1e-4)
    )  # fmt: skip
    """How last layers on biased encoders are trained; in the variant `supervised` the whole biased
    network."""
    loss: LossName = "simclr"
    """The self-supervised loss."""
    temperature: PositiveFloat = 0.07
    """Of SimCLR's loss."""
    expander: PositiveInt = 8192
    """Width of VICReg's expander; 4096 for small networks."""
    strengths: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] | None = None
    """Strength of the rank regulariser for the biased encoder, or for several, whose scores are
    averaged. None: 1.2 for simclr, 0.004 for simsiam, 0.8 for vicreg, 10 for supervised."""
    cutoff: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Mean score of several biased encoders above which an image counts as an error."""
    upweight: Annotated[float, Field(ge=1)] = 10.0
    """How much more often an error is drawn than another image; 1: plain training."""
    labelled: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the training images whose labels the variant `semi` uses."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.variant != "supervised" and self.pretrain.views != 2:
            raise ValueError("pretrain.views must be 2: the losses compare two views of an image")
        for name in ("pretrain", "probe"):
            if getattr(self, name).select != "last":
                raise ValueError(f"{name}.select must be 'last'; only plan.select can be another")
        if len({f"{k:g}" for k in self.strengths or ()}) < len(self.strengths or ()):
            raise ValueError("strengths must differ from each other, in six digits")
        return self

    def labels_used(self) -> dict[str, str]:
        """For reports: in the variant `semi` a share of the class labels."""
        used = super().labels_used()
        if self.variant == "semi":
            used["training"] = f"class labels of {100 * self.labelled:g} % of the training images"
        return used

    def lambdas(self) -> tuple[float, ...]:
        """The strengths in use."""
        which = "supervised" if self.variant == "supervised" else self.loss
        return self.strengths or (STRENGTHS[which],)

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train biased classifiers, find their errors, train the one that is delivered."""
        train = data.train
        if train.encoded:
            raise ConfigError(
                "DeFund trains encoders, and there is nothing left to train in a frozen one; use it"
                " without frozen"
            )
        least, n = self.pretrain.batch_size, len(train)
        if self.variant != "supervised" and self.pretrain.drop_last and n < least:
            raise ConfigError(
                f"pretrain.batch_size is {least} and there are {n} training images; set it to {n}"
                " or less: the loss compares the images of full batches"
            )
        ids = run.once("labelled", lambda: self._labelled(train, run.seed))
        if self.variant == "supervised":
            found = {k: self._fitted(k, train, run) for k in self.lambdas()}
        else:
            # the encoder without a penalty is the one that is delivered
            strengths = dict.fromkeys((0.0, *self.lambdas()))
            found = {k: self._probed(k, train, ids, run) for k in strengths}
        labels = train.select(ids)
        errors = self._errors(found, ids, run)
        for strength, made in found.items():
            made.net.spec["rank_strength"] = strength  # `truecue rank` draws ranks against it
            if strength in self.lambdas():
                run.publish(f"biased-{strength:g}", made.net, "biased")
            else:
                run.publish("plain", made.net)
        main = found.get(0.0)
        if self.variant == "linear":
            assert main is not None
            if 0.0 not in self.lambdas():
                again = self.last_layer("fit-0", main.net, main.features, train, main.wrong, run)
                again.net.spec["rank_strength"] = 0.0
                run.publish("errors-0", again.net)
            net = self.last_layer(
                "fit", main.net, main.features, train, errors, run, watched=True
            ).net  # fmt: skip
        else:

            def make() -> CELearner:
                start = main.net if main is not None and self.variant == "semi" else None
                return CELearner(_fresh(start, train, run))

            weights = upweights(errors, self.upweight)
            net = run.train("fit", make, labels, self.plan, weights=weights).net
        net.spec["rank_strength"] = 0.0  # of its encoder
        run.publish("debiased", net, "debiased")
        self._tell(found, net, train, run)
        return net

    def last_layer(
        self, stage: str, net: Classifier, features: Tensor, train: ImageSet, errors: Tensor,
        run: Run, *, watched: bool = False,
    ) -> Probe:  # fmt: skip
        """A new last layer for a network, by `plan`, with these errors drawn more often.

        Args:
            stage: its name in the run.
            net: gives the encoder.
            features: float [n, d], the encoder's, of the training images.
            train: n images with labels.
            errors: bool [n].
            run: trains.
            watched: whether accuracy is noted after every epoch, and may be chosen by.
        """
        plan = self.plan
        if not watched:
            plan = plan.model_copy(update={"select": "last", "stop": None})
            if isinstance(plan.schedule, Plateau):
                plan = plan.model_copy(update={"schedule": Constant()})
        return run.train(
            stage,
            lambda: Probe(_fresh(net, train, run), watched=watched),
            _of_features(train, features),
            plan.model_copy(update={"augment": ()}),
            weights=upweights(errors, self.upweight),
        )

    def _probed(self, strength: float, train: ImageSet, ids: Tensor, run: Run) -> Biased:
        """An encoder trained without labels, and a last layer on it."""
        encoder = run.train(
            f"pretrain-{strength:g}",
            lambda: SelfSupervised(
                run.new_net(train), self.loss,
                strength=strength, tau=self.temperature, expander=self.expander,
            ),
            train,
            self.pretrain,
        ).net  # fmt: skip
        features = run.apply(encoder.features, train)
        seen = _of_features(train, features).select(ids)
        plan = self.probe.model_copy(update={"augment": ()})
        net = run.train(
            f"probe-{strength:g}", lambda: Probe(_fresh(encoder, train, run)), seen, plan
        ).net  # fmt: skip
        logits = run.apply(lambda z: net.head(z.flatten(1)), seen)
        kept = features if strength == 0 else features[:0].clone()  # a view would hold them all
        measured = features[_measured(train, run)]
        return Biased(net, kept, measured, *bias_scores(logits, seen.y))

    def _fitted(self, strength: float, train: ImageSet, run: Run) -> Biased:
        """A whole network trained with labels and the penalty."""
        net = run.train(
            f"biased-{strength:g}", lambda: LowRank(run.new_net(train), strength), train, self.probe
        ).net  # fmt: skip
        scores = bias_scores(run.apply(net, train), train.y)
        z = run.apply(net.features, train.select(_measured(train, run)))
        return Biased(net, z[:0].clone(), z, *scores)

    def _labelled(self, train: ImageSet, seed: int) -> Tensor:
        """Positions of the images whose labels are used, in order."""
        n = len(train)
        if self.variant != "semi":
            return torch.arange(n)
        rng = torch.Generator().manual_seed(derive(seed, "defund", "labelled"))
        ids = torch.randperm(n, generator=rng)[: round(self.labelled * n)].sort().values
        counts = torch.bincount(train.y[ids], minlength=len(train.classes)).tolist()
        absent = [f"'{c}'" for c, k in zip(train.classes, counts, strict=True) if not k]
        if absent:
            enough = min(1.0, 7 / min(class_counts(train)))  # lacks a class in one of 1,000 draws
            share = f"{enough:.2g} or more" if enough < 0.995 else "1 (all labels)"
            raise DataError(
                f"labelled = {self.labelled:g} leaves {len(ids):,} of {n:,} training images with a"
                f" label, and none of them shows class {', '.join(absent)}. Set labelled to"
                f" {share}, or variant = 'linear', which uses all labels"
            )
        return ids

    def _errors(self, found: dict[float, Biased], ids: Tensor, run: Run) -> Tensor:
        """The labelled images that are drawn more often: bool [m]."""

        def make() -> dict[str, Tensor]:
            scores = torch.stack([made.scores for made in found.values()])
            wrong = torch.stack([made.wrong for made in found.values()])
            chosen = [k in self.lambdas() for k in found]
            return {
                "ids": ids,
                "strengths": torch.tensor(list(found), dtype=torch.float64),
                "chosen": torch.tensor(chosen),
                "scores": scores,
                "wrong": wrong,
                "errors": error_set(scores[chosen], wrong[chosen], self.cutoff),
            }

        kept = run.once("errors", make)
        run.tell("errors", kept)
        share, several = float(kept["errors"].double().mean()), len(self.lambdas()) > 1
        of = f"{len(ids):,} training images whose labels are used"
        if share == 0:
            run.warn(
                f"The biased classifier is right on all of the {of}, so that nothing is drawn more"
                " often and this is plain training. Set strengths higher, probe.epochs lower"
                f"{' or cutoff lower' if several else ''}."
            )
        elif share > 0.5:
            run.warn(
                f"The biased classifier is wrong on {share:.1%} of the {of}: it has collapsed or is"
                " not trained, and its errors say nothing of which images contradict a cue. Set"
                " strengths lower or probe.epochs higher."
            )
        return kept["errors"]

    def _tell(self, found: dict[float, Biased], net: Classifier, train: ImageSet, run: Run) -> None:
        """What the report shows of the encoders: features of the same images."""
        seen = {k: made.measured for k, made in found.items()}
        if 0.0 not in seen:
            some = train.select(_measured(train, run))
            seen = {0.0: run.apply(net.features, some)} | seen
        run.tell(
            "encoders",
            {
                "strengths": torch.tensor(list(seen), dtype=torch.float64),
                "features": torch.stack(list(seen.values())),
            },
        )


def _measured(train: ImageSet, run: Run) -> Tensor:
    """Positions of the images whose features the report is about."""
    rng = torch.Generator().manual_seed(derive(run.seed, "defund", "spectrum"))
    return torch.randperm(len(train), generator=rng)[:MEASURED]


def _fresh(encoder: Classifier | None, train: ImageSet, run: Run) -> Classifier:
    """A network with a new last layer, on a copy of another network's encoder."""
    net = run.new_net(train)
    if encoder is not None:
        net.encoder.load_state_dict(encoder.encoder.state_dict())
    return net


def _of_features(train: ImageSet, features: Tensor) -> ImageSet:
    """The same samples with features for pixels."""
    return replace(train.blind(), images=features[:, :, None, None])
