"""DeFund: a low-rank encoder errs on what contradicts the cue, and its errors are drawn more often.

Park, Jung, Lee, Ye, Lee, CVPR 2024, arXiv 2210.05248.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits, class_counts
from truecue.engine.learner import Learner, Predict, Step, freeze
from truecue.engine.plan import Adam, Constant, HeldCosine, Plan, Plateau
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError
from truecue.losses.classification import ce
from truecue.losses.rank import rank_penalty
from truecue.losses.selfsup import nt_xent, simsiam, vicreg
from truecue.methods.base import Method
from truecue.methods.erm import CELearner
from truecue.metrics.rank import spectrum
from truecue.nets.classifier import Classifier
from truecue.nets.heads import (
    simclr_projector,
    simsiam_predictor,
    simsiam_projector,
    vicreg_expander,
)
from truecue.seeds import derive

LossName = Literal["simclr", "simsiam", "vicreg"]
STRENGTHS: dict[str, float] = {
    "simclr": 1.2, "simsiam": 0.004, "vicreg": 0.8, "supervised": 10.0,
}  # fmt: skip
"""Strength of the regulariser where none is given: four times the value that the authors' scripts
use on UTKFace (gender), whose products of two views are divided by half their number; with labels,
where the two agree, theirs on chest X-rays."""
MEASURED = 512
"""Training images, at most, whose features' singular values the report shows."""


class Biased(NamedTuple):
    """A classifier that is meant to go by the cue, and what it makes of the labelled images."""

    net: Classifier
    features: Tensor
    """float [n, d], of all training images."""
    scores: Tensor
    """float64 [m], one minus the label's probability."""
    wrong: Tensor
    """bool [m]."""


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
        """`loss - strength * penalty`; both views go through the encoder in one pass."""
        features = self.net.features(torch.cat(batch.views))
        projected = self.projector(features)
        z1, z2 = projected.chunk(2)
        if self.loss == "simclr":
            loss = nt_xent(z1, z2, self.tau).mean()
        elif self.loss == "simsiam":
            q1, q2 = self.predictor(projected).chunk(2)
            loss = simsiam(q1, q2, z1, z2).mean()
        else:
            loss = vicreg(z1, z2)
        return _regularised(loss, features, self.strength)

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
        return _regularised(loss, features, self.strength)


def _regularised(loss: Tensor, features: Tensor, strength: float) -> Step:
    with torch.set_grad_enabled(strength > 0 and torch.is_grad_enabled()):
        penalty = rank_penalty(features)
    logs = {"task": loss.detach(), "rank_penalty": penalty.detach()}
    return Step(loss - strength * penalty, logs)


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
        if len(set(self.strengths or ())) < len(self.strengths or ()):
            raise ValueError("strengths must differ from each other")
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
        return Biased(net, features, *bias_scores(logits, seen.y))

    def _fitted(self, strength: float, train: ImageSet, run: Run) -> Biased:
        """A whole network trained with labels and the penalty."""
        net = run.train(
            f"biased-{strength:g}", lambda: LowRank(run.new_net(train), strength), train, self.probe
        ).net  # fmt: skip
        scores = bias_scores(run.apply(net, train), train.y)
        return Biased(net, run.apply(net.features, train), *scores)

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
            raise DataError(
                f"labelled = {self.labelled:g} leaves {len(ids):,} of {n:,} training images with a"
                f" label, and none of them shows class {', '.join(absent)}. Set labelled to"
                f" {enough:.2g} or more, or variant = 'linear', which uses all labels"
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
        """What the report shows of the encoders: singular values of the same images' features."""
        rng = torch.Generator().manual_seed(derive(run.seed, "defund", "spectrum"))
        some = torch.randperm(len(train), generator=rng)[:MEASURED]
        sizes = {k: spectrum(made.features[some]) for k, made in found.items()}
        if 0.0 not in sizes:
            sizes = {0.0: spectrum(run.apply(net.features, train.select(some)))} | sizes
        run.tell(
            "spectra",
            {
                "strengths": torch.tensor(list(sizes), dtype=torch.float64),
                "sizes": torch.stack(list(sizes.values())),
                "n": torch.tensor(len(some)),
            },
        )


def upweights(errors: Tensor, factor: float) -> Tensor:
    """The relative chance of each sample to be drawn: `factor` for an error, 1 for the others.

    Args:
        errors: bool [n].
        factor: at least 1.

    Returns:
        float64 [n].
    """
    return 1 + (factor - 1) * errors.double()


def _fresh(encoder: Classifier | None, train: ImageSet, run: Run) -> Classifier:
    """A network with a new last layer, on a copy of another network's encoder."""
    net = run.new_net(train)
    if encoder is not None:
        net.encoder.load_state_dict(encoder.encoder.state_dict())
    return net


def _of_features(train: ImageSet, features: Tensor) -> ImageSet:
    """The same samples with features for pixels."""
    return replace(train.blind(), images=features[:, :, None, None])
