"""ε-SupInfoNCE with FairKL: a contrastive embedding in which sharing a bias brings nobody closer.

Barbano, Dufumier, Tartaglione, Grangetto, Gori, ICLR 2023, arXiv 2211.05568.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.evaluate import count
from truecue.engine.judge import aligned_mask
from truecue.engine.learner import Learner, Step, gather_rows, processes, with_others
from truecue.engine.plan import Adam, Plan, Steps
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, SupervisionError
from truecue.losses.classification import ce, gce
from truecue.losses.contrastive import Form, contrastive, similarities
from truecue.losses.fairkl import SETS, Empty, Fairness, Variant, fairkl
from truecue.methods.base import Method, Uses
from truecue.nets.build import default_arch, on_sphere
from truecue.nets.classifier import Classifier
from truecue.seeds import derive


class Biased(Learner):
    """A network that follows what is easy."""

    def __init__(self, net: Classifier, *, q: float):
        super().__init__()
        self.net, self.q = net, q

    def forward(self, batch: Batch) -> Step:
        """Mean generalised cross-entropy of the batch."""
        return Step(gce(self.net(batch.x), batch.y, self.q).mean(), {})


class Contrasting(Learner):
    """An encoder under a contrastive loss and a regulariser, and a linear layer beside it.

    Args:
        net: the encoder, and the linear layer that learns from its features without changing them.
        top: what the contrastive loss sees of the features; the identity, or layers of their own.
        settings: of the method.
        bias: name of the attribute that misleads; None where there is none to look at.
        guessed: float [n, k], the probability of each bias value of every training image, in place
            of `bias`; or None.
    """

    guessed: Tensor | None

    def __init__(
        self,
        net: Classifier,
        top: nn.Module,
        settings: SupInfoNCE,
        *,
        bias: str | None,
        guessed: Tensor | None,
    ):
        super().__init__()
        self.net, self.top, self.settings, self.bias = net, top, settings, bias
        self.register_buffer("guessed", guessed, persistent=False)

    def forward(self, batch: Batch) -> Step:
        """`alpha * contrastive + lambda * FairKL` for the encoder, cross-entropy for the head."""
        views, of = len(batch.views), self.settings
        features = self.net.features(torch.cat(batch.views))
        first = features[: len(batch.y)]
        ce_head = ce(self.net.head(first.detach()), batch.y).mean()
        y, rows = gather_rows(batch.y), [with_others(part) for part in features.chunk(views)]
        s = similarities(torch.cat(rows))
        same = isinstance(self.top, nn.Identity)
        tops = s if same else similarities(torch.cat([with_others(self.top(r)) for r in
                                                      features.chunk(views)]))  # fmt: skip
        found = contrastive(
            tops, y.repeat(views), of.loss, eps=of.eps, tau=of.tau,
            base_temperature=of.base_temperature, count_empty_anchors=of.count_empty_anchors,
        )  # fmt: skip
        loss = of.alpha * found.loss
        logs = {"contrastive": found.loss, "head": ce_head, "anchors": found.anchors}
        bias = self._bias(batch)
        if bias is not None:
            # several views: the first one alone, as in the released code
            s, bias = s[: len(y), : len(y)], gather_rows(bias)
            compare = partial(
                fairkl, y=y, variant=of.fairkl, kappa=of.kappa, var_floor=of.var_floor,
                empty=of.empty, per_anchor=of.per_anchor,
            )  # fmt: skip
            fair = counted = compare(s, bias=bias)
            if bias.is_floating_point():
                # crumbs of probability add up to pairs in every batch, with or without such images
                counted = compare(s.detach(), bias=bias.argmax(1))
            loss = loss + of.lambda_fairkl * fair.loss
            logs |= pair_logs(fair, counted)
        # every process has the whole loss and its own share of the gradient, and means are taken
        return Step(processes() * loss + ce_head, {k: v.detach() for k, v in logs.items()})

    def _bias(self, batch: Batch) -> Tensor | None:
        if self.guessed is not None:
            return self.guessed[batch.ids]
        return None if self.bias is None else batch.attributes[self.bias]

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """The encoder, with layers that only the contrastive loss sees, and the head."""
        return {
            "encoder": [*self.net.encoder.parameters(), *self.top.parameters()],
            "head": self.net.head.parameters(),
        }


class SupInfoNCE(Method):
    """Supervised contrastive training with FairKL. Needs bias labels, given or guessed.

    Images of one class are drawn together, those of different classes apart, and FairKL makes
    similarities the same whether two images share their bias or not. A linear layer beside the
    encoder classifies. The answers of a network trained to be biased can stand for bias labels.
    """

    title: ClassVar[str] = "ε-SupInfoNCE with FairKL"
    uses: ClassVar[Uses] = Uses.TRAIN_ATTRIBUTES
    instead: ClassVar[str] = (
        "bias_from = 'biased_model' (guesses them with class labels only), or lambda_fairkl = 0"
        " (the contrastive loss alone)"
    )
    plan: Plan = Plan(
        epochs=80,
        batch_size=256,
        optimizer=Adam(lr=1e-3, weight_decay=1e-4),
        optimizer_of={"head": Adam(lr=1e-3)},
        schedule=Steps(at=(26, 53)),
    )
    """How encoder and head are trained, side by side. Its groups are `encoder` and `head`."""
    loss: Form = "supinfonce"
    """The contrastive loss. `supcon` also pulls all images of a class to one point; `-in` averages
    over positives inside the logarithm."""
    eps: NonNegativeFloat = 0.0
    """Margin between positives and negatives, in logits: a cosine margin of eps * tau."""
    tau: PositiveFloat = 0.1
    """Temperature of the contrastive loss."""
    alpha: NonNegativeFloat = 1.0
    """Weight of the contrastive loss."""
    lambda_fairkl: NonNegativeFloat = 10.0
    """Weight of FairKL; 0: none, and no bias labels are needed."""
    fairkl: Variant = "means"
    """What is compared of the similarities of pairs that share their bias and of pairs that do
    not: means, deviations, or normal distributions (`kl`, which gave the method its name)."""
    kappa: NonNegativeFloat = 1.0
    """Weight of the deviations in the variants `mean_std` and `official`."""
    var_floor: PositiveFloat = 1e-4
    """Added to variances in the variants `kl` and `jeffreys`."""
    empty: Empty = "skip"
    """Where a batch has no pair of a kind: leave that part of FairKL out, or take 0 for the mean,
    as the released code does."""
    per_anchor: bool = False
    """Compare means image by image; for the variant `means`."""
    base_temperature: PositiveFloat | None = None
    """Multiplies the contrastive loss by tau / base_temperature; the released code has 0.07."""
    count_empty_anchors: bool = False
    """Let images without a positive in the batch count in the mean, as the released code does."""
    train_on_head: bool = True
    """The contrastive loss sees the embedding itself, scaled to length 1. False: it sees two
    further layers, which are not kept, and the classifier sees features as they are."""
    centred: bool = True
    """Give each feature mean 0 and deviation 1 before lengths are made 1, except in `simple_conv`,
    which ends in tanh. Networks that end in ReLU begin with all similarities near 1 otherwise."""
    bias_from: Literal["labels", "biased_model"] = "labels"
    """Where bias labels come from: the data, or the probabilities of a network that is first
    trained to be biased, which needs class labels only."""
    biased: Plan = Plan(epochs=5, batch_size=256, optimizer=Adam(lr=1e-3))
    """How the biased network is trained, where there is one: briefly, so that it knows the cue and
    not yet the exceptions."""
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """How strongly the biased network follows what is easy; towards 0: plain cross-entropy."""
    conflicting_per_batch: NonNegativeInt = 0
    """Conflicting images that every batch has at least, drawn with replacement where it has fewer;
    0: as they come."""

    def supervision(self) -> Uses:
        """Bias labels of training images, where they are looked at and not guessed."""
        asks = self.regularised or self.conflicting_per_batch > 0
        return Uses.TRAIN_ATTRIBUTES if asks and self.bias_from == "labels" else Uses.LABELS

    @property
    def regularised(self) -> bool:
        """Whether FairKL has a part in the loss."""
        return self.lambda_fairkl > 0 and self.fairkl != "none"

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Guess bias labels where they are to be guessed, then train encoder and head."""
        train = data.train
        self._check(train)
        guessed, conflicting = None, None
        if self.bias_from == "biased_model" and (self.regularised or self.conflicting_per_batch):
            guessed, conflicting = self._guess(train, run)
            run.show_pairs("biased")
        elif self.supervision() & Uses.TRAIN_ATTRIBUTES:
            assert data.bias is not None
            conflicting = self._conflicting(data, run)
            run.show_pairs(None)
        else:
            run.show_pairs(None)
        bias = data.bias if guessed is None and self.regularised else None
        soft = guessed if self.regularised else None

        def make() -> Contrasting:
            net = self._new_net(train, run)
            return Contrasting(net, self._top(net), self, bias=bias, guessed=soft)

        least = None
        if self.conflicting_per_batch:
            assert conflicting is not None
            least = (conflicting, self.conflicting_per_batch)
        net = run.train("fit", make, train, self.plan, at_least=least).net
        _warn_if_collapsed(self, net, train, run)
        return net

    def _check(self, train: ImageSet) -> None:
        """Refuse settings that do not go together, before anything is trained."""
        if train.encoded:
            raise ConfigError(
                "SupInfoNCE trains an encoder, and a frozen one leaves nothing to train; do without"
                " frozen, or use a method that fits a last layer (erm, dfr)"
            )
        if self.per_anchor and self.fairkl != "means":
            raise ConfigError(f"per_anchor is for fairkl = 'means'; it is '{self.fairkl}'")
        if self.fairkl == "official" and self.bias_from == "biased_model":
            raise ConfigError(
                "fairkl = 'official' takes bias labels and no probabilities; use another variant,"
                " or bias_from = 'labels'"
            )
        if self.conflicting_per_batch > self.plan.batch_size:
            raise ConfigError(
                f"a batch of {self.plan.batch_size} cannot have {self.conflicting_per_batch}"
                " conflicting images; set a smaller conflicting_per_batch"
            )

    def _new_net(self, train: ImageSet, run: Run) -> Classifier:
        if not self.train_on_head:
            return run.new_net(train)
        if run.start is not None:
            return on_sphere(run.new_net(train), centred=self.centred)
        channels, *sides = train.shape
        arch = run.arch or default_arch(channels, max(sides))
        if arch.startswith("unit:"):
            return run.new_net(train, arch)
        if arch.startswith("simple_conv"):  # its own way: it is centred before its tanh
            return on_sphere(run.new_net(train, "simple_conv-tanh"))
        return on_sphere(run.new_net(train, arch), centred=self.centred)

    def _top(self, net: Classifier) -> nn.Module:
        if self.train_on_head:
            return nn.Identity()
        d = net.n_features
        return nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, min(d, 128)))

    def _guess(self, train: ImageSet, run: Run) -> tuple[Tensor, Tensor]:
        """Probabilities of bias values [n, k], and which images the biased network gets wrong [n].

        A class stands for the bias that usually comes with it.
        """
        stage = run.train(
            "biased", lambda: Biased(run.new_net(train), q=self.q), train, self.biased
        )
        run.publish("biased", stage.net, "biased")
        q = run.once("guessed", lambda: run.apply(stage.net, train).softmax(1))
        wrong = q.argmax(1) != train.y
        share = float(wrong.float().mean())
        if not 0 < share < 0.5:
            run.warn(
                f"The biased network was wrong on {share:.1%} of the training images, so that its"
                " answers say nothing of their bias. Set biased.epochs"
                f" {'lower' if share == 0 else 'higher'}."
            )
        if self.conflicting_per_batch and share == 0:
            raise DataError(
                "conflicting_per_batch draws images that the biased network gets wrong, and it gets"
                f" 0 of the {len(train):,} training images wrong; set biased.epochs lower, or"
                " conflicting_per_batch to 0"
            )
        return q, wrong

    def _conflicting(self, data: Splits, run: Run) -> Tensor:
        """Which training images conflict [n]: their bias is not one that goes with their class.

        Raises:
            SupervisionError: the bias of no image is known.
            DataError: there is none, or both parts of FairKL would lack pairs in every batch.
        """
        train, bias = data.train, str(data.bias)
        mask, values = aligned_mask(data), train.attributes[bias].values
        assert mask is not None
        known = values >= 0
        if not bool(known.any()):
            raise SupervisionError(
                f"the '{bias}' of 0 of {len(known):,} training images is known; label some, or set"
                f" {self.instead}"
            )
        conflicting = known & ~mask[train.y, values.clamp(min=0)]
        if not bool(conflicting.any()):
            raise DataError(
                f"0 of the {int(known.sum()):,} training images whose '{bias}' is known are"
                " conflicting: class and bias cannot be told apart by any of them. Add images whose"
                f" '{bias}' is unusual for their class"
            )
        there = count(train.y, train, bias).total > 0
        values_there, of_class, of_value = there.any(0).sum(), there.sum(1), there.sum(0)
        comparable = bool((of_class > 1).any()) or bool((of_value > 1).any() and values_there > 1)
        if self.regularised and not comparable:
            raise DataError(
                f"FairKL compares pairs that share their '{bias}' with pairs that do not, among"
                " images of one class or of different ones. In the training images each class comes"
                f" with one '{bias}' only, so that neither can be done. Add images of a class with"
                f" another '{bias}'"
            )
        unknown = len(known) - int(known.sum())
        if unknown:
            run.warn(
                f"The '{bias}' of {unknown:,} of {len(known):,} training images is not known."
                " FairKL leaves them out."
            )
        return conflicting


COLLAPSED = 0.95
"""Mean cosine similarity of all training images from which an embedding counts as collapsed."""


def _warn_if_collapsed(method: SupInfoNCE, net: Classifier, train: ImageSet, run: Run) -> None:
    """Say so where all images lie in one place, which satisfies FairKL and nobody else."""
    rng = torch.Generator().manual_seed(derive(run.seed, "supinfonce", "collapse"))
    some = train.select(torch.randperm(len(train), generator=rng)[:1000])
    z = nn.functional.normalize(run.apply(net.features, some), dim=1)
    mean = float(z.mean(0).square().sum())
    if mean <= COLLAPSED:
        return
    advice = ["train longer (plan.epochs)"]
    if method.regularised:
        advice.append("set lambda_fairkl lower")
        if method.fairkl != "means":
            advice.append(
                "set fairkl = 'means', which pushes less where similarities are close together"
            )
    if method.train_on_head and not method.centred and "simple_conv" not in net.spec["arch"]:
        advice.append("set centred = true")
    run.warn(
        "All training images have nearly the same embedding (mean cosine similarity"
        f" {mean:.3f}): pairs do not differ by bias, nor by class. What can help:"
        f" {'; or '.join(advice)}."
    )


def pair_logs(fair: Fairness, counted: Fairness) -> dict[str, Tensor]:
    """What a report shows of the pairs of a batch; a mean is that of the batches that have one.

    Args:
        fair: what the loss is made of.
        counted: the same by labels; where they are guessed, the likeliest ones.
    """
    logs = {"fairkl_pos": fair.pos, "fairkl_neg": fair.neg}
    logs |= {"skipped_pos": counted.skipped[0].float(), "skipped_neg": counted.skipped[1].float()}
    for k, name in enumerate(SETS):
        logs[f"pairs_{name}"] = counted.moments.n[k]
        logs[f"there_{name}"] = (counted.moments.n[k] >= 2).float()
        logs[f"mean_{name}"] = counted.moments.mean[k] * logs[f"there_{name}"]
    return logs
