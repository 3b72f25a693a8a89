"""SiH's biased half, trained to say what a classifier says that is already there.

The networks and weights are those of "Signal is Harder" (arXiv 2305.19671); that the answers of a
given classifier take the place of the labels, and that there is no signal classifier, is not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from truecue.config import Config
from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.learner import Learner, Predict, Step, freeze
from truecue.engine.plan import Adam, Patience, Plan, Plateau
from truecue.engine.run import Run
from truecue.errors import ConfigError
from truecue.losses.precision import wide
from truecue.losses.vae import ReconName, easy_and_hard, sampled
from truecue.methods.sih import Paired, decodable, usual_recon
from truecue.nets.classifier import Classifier
from truecue.nets.vae import PairedVAE


class Follower(Learner):
    """A biased half that follows a frozen classifier, and the decoder of both latents.

    Args:
        model: whose answers are followed; frozen, in evaluation mode throughout.
        paired: the networks and the weights of the terms. The signal half's classifier is frozen:
            nothing trains it.
    """

    def __init__(self, model: Classifier, paired: Paired):
        super().__init__()
        self.model, self.paired = model, paired
        freeze(model, paired.vae.signal.net.head)

    @property
    def vae(self) -> PairedVAE:
        """The networks."""
        return self.paired.vae

    def forward(self, batch: Batch) -> Step:
        """The sum of three means; the classifier only gives its answers to the images."""
        x, at = batch.x, self.paired.latents(batch.x)
        z_s = sampled(at.z_s_mean, at.z_s_logvar)
        z_b = sampled(at.z_b_mean, at.z_b_logvar)
        terms = {"biased": self.followed(wide(self.vae.logits_b(z_b)), self.answers(x))}
        terms |= self.paired.drawn(x, at, z_s, z_b)
        means = {name: term.mean() for name, term in terms.items()}
        loss = means["biased"] + means["reconstruction"] + means["kl"]
        return Step(loss, {name: mean.detach() for name, mean in means.items()})

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """The classifier's logits [b, k] of images uint8 [b, c, h, w]."""
        return wide(self.model(x))

    def followed(self, biased: Tensor, answers: Tensor) -> Tensor:
        """The weighted cross-entropy [b] of the half's logits [b, k] with the classifier's [b, k].

        With P the classifier's probabilities, c its answer, and p the half's probabilities:
        p_c^q · (-Σ_k P_k ln p_k), in which p_c^q carries no gradient. Images on which the
        classifier is unsure, or whose answer is hard to follow, count little.
        """
        log_p, said = biased.log_softmax(1), answers.argmax(1, keepdim=True)
        easy, _ = easy_and_hard(-log_p.detach().gather(1, said).squeeze(1), self.paired.q)
        return easy * -(answers.softmax(1) * log_p).sum(1)

    def validated(self, x: Tensor) -> Tensor:
        """The loss [b] of images uint8 [b, c, h, w], with means for samples."""
        at = self.paired.latents(x)
        drawn = self.paired.drawn(x, at, at.z_s_mean, at.z_b_mean)
        biased = wide(self.vae.logits_b(at.z_b_mean))
        return self.followed(biased, self.answers(x)) + drawn["reconstruction"] + drawn["kl"]

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Each half and the decoder; neither the classifier nor the signal half's own."""
        groups = self.paired.groups()
        return {name: [p for p in ps if p.requires_grad] for name, ps in groups.items()}

    def branches(self) -> dict[str, Predict]:
        """The biased half's classifier, on means."""
        return {"biased": self.vae.biased.net}


class BiasHalf(Config):
    """How SiH's biased half is trained against a classifier that is already there.

    The half learns to say what the classifier says, by generalised cross-entropy, so that what is
    easy about these answers comes first and single exceptions are left out. A second latent is
    free to hold whatever else the decoder needs. No label is looked at, of class or of bias.
    """

    plan: Plan = Plan(
        epochs=100,
        batch_size=64,
        drop_last=True,
        optimizer=Adam(lr=1e-3),
        schedule=Plateau(patience=9),
        stop=Patience(epochs=20, least=1e-5),
        select="val_loss",
    )
    """How everything is trained. `val_loss` is this training's own loss on validation images."""
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Exponent of the weight; towards 0: every answer counts the same."""
    recon: ReconName | None = None
    """How images are compared; None: bce with `vae-mlp`, mse with the others."""
    recon_weight: NonNegativeFloat = 100.0
    """Weight of the reconstruction, of which the mean over an image's values is taken."""
    kl_weight: NonNegativeFloat = 1.0
    """Weight of the latents' divergence, divided by the number of an image's values. A larger one
    gathers more in the bias latent, of what goes with the answers by chance as well."""
    logvar_max: float = 5.0
    """Largest logarithm of a latent's variance."""

    def fit(self, model: Classifier, data: Splits, run: Run) -> PairedVAE:
        """Train the half and the decoder.

        Args:
            model: whose answers are followed; left as it is.
            data: the splits; only images are looked at, and only of training and validation.
            run: trains durably.

        Returns:
            The networks; the classifier of the signal half is untrained.

        Raises:
            ConfigError: there are no validation images, or the run's architecture has no decoder.
            DataError: the images are not square.
        """
        arch, val, train = self.check(data, run.arch), data.val, data.train
        assert val is not None
        model = copy.deepcopy(model)  # which is frozen and moved
        recon = self.recon or usual_recon(arch)

        def make() -> Follower:
            nets = run.new_net(train, arch), run.new_net(train, arch)
            vae = PairedVAE(*nets, logvar_max=self.logvar_max)
            paired = Paired(
                vae, q=self.q, recon=recon,
                recon_weight=self.recon_weight, kl_weight=self.kl_weight,
            )  # fmt: skip
            return Follower(model, paired)

        def watch(learner: Follower) -> float:
            return val_loss(learner, val, run)

        return run.train("bias-half", make, train, self.plan, watch=watch).vae

    def check(self, data: Splits, arch: str | None) -> str:
        """Refuse data or an architecture that this cannot be done with.

        Args:
            data: the splits.
            arch: of the encoders; None: by image size.

        Returns:
            The name of the encoders' architecture.

        Raises:
            ConfigError: see `fit`.
            DataError: see there.
        """
        if data.val is None:
            raise ConfigError(
                "training stops by its loss on validation images, and this data has none; set"
                " data.val_share above 0"
            )
        if self.plan.select != "val_loss":
            raise ConfigError(
                "plan.select must be 'val_loss' here, which needs no labels; got"
                f" '{self.plan.select}'"
            )
        return decodable(arch, data.train)


def val_loss(learner: Follower, val: ImageSet, run: Run) -> float:
    """The mean loss on validation images."""
    return float(run.apply(learner.validated, val).double().mean())
