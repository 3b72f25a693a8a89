"""Signal is Harder: a biased and a signal classifier, and a decoder that shows what the bias is.

Vandenhirtz, Manduchi, Marcinkevičs, Vogt, ICLR 2023 workshop, arXiv 2305.19671.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from truecue.data.augment import augment
from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.learner import Learner, Predict, Step
from truecue.engine.plan import Adam, Constant, Patience, Plan, Plateau
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError
from truecue.losses.classification import ce
from truecue.losses.precision import wide
from truecue.losses.vae import (
    ReconName,
    easy_and_hard,
    kl_to_normal,
    reconstruction,
    sampled,
)
from truecue.methods.base import Method
from truecue.nets.classifier import Classifier
from truecue.nets.decode import DECODERS
from truecue.nets.vae import Latents, PairedVAE, default_vae
from truecue.seeds import derive

MANY = 0.065
"""Estimated share of conflicting images above which SiH warns. With 5 % the authors' runs gain,
with 10 % they lose; on Colored MNIST the estimate is 5 and 10 %."""
LOOKS = 4
"""Looks at validation images from which that share is estimated; fewer show no bend."""


class Paired(Learner):
    """A biased classifier, a signal classifier weighted by it, and the decoder of both latents.

    Args:
        vae: the networks.
        q: exponent of both weights.
        recon: how images are compared.
        recon_weight: of the reconstruction, divided by the number of an image's values.
        kl_weight: of the divergence of both latents, likewise divided.
        epochs: the most looks at validation images.
    """

    looks: Tensor
    """int64 [], how often validation images were looked at."""
    wrong: Tensor
    """float [epochs], share of them that the biased half got wrong, at each look."""

    def __init__(
        self, vae: PairedVAE, *, q: float, recon: ReconName, recon_weight: float,
        kl_weight: float, epochs: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.vae, self.q, self.recon = vae, q, recon
        self.recon_weight, self.kl_weight = recon_weight, kl_weight
        self.register_buffer("looks", torch.zeros((), dtype=torch.int64))
        self.register_buffer("wrong", torch.zeros(epochs))

    def forward(self, batch: Batch) -> Step:
        """The sum of four means; the weights by which the two halves differ carry no gradient."""
        at = self.latents(batch.x)
        z_s = sampled(at.z_s_mean, at.z_s_logvar)
        z_b = sampled(at.z_b_mean, at.z_b_logvar)
        signal, biased = wide(self.vae.logits_s(z_s)), wide(self.vae.logits_b(z_b))
        terms = self.classified(signal, biased, batch.y) | self.drawn(batch.x, at, z_s, z_b)
        means = {name: term.mean() for name, term in terms.items()}
        loss = means["signal"] + means["biased"] + means["reconstruction"] + means["kl"]
        return Step(loss, {name: mean.detach() for name, mean in means.items()})

    def classified(self, signal: Tensor, biased: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The weighted cross-entropies [b] of both halves' logits [b, k]."""
        ce_biased = ce(biased, y)
        easy, hard = easy_and_hard(ce_biased, self.q)
        return {"signal": hard * ce(signal, y), "biased": easy * ce_biased}

    def drawn(self, x: Tensor, at: Latents, z_s: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """Reconstruction of images uint8 [b, c, h, w], and divergence of both latents: [b] each."""
        logits = wide(self.vae.decode(z_s, z_b))
        values = logits[0].numel()
        recon = reconstruction(logits, x.to(logits.dtype) / 255, self.recon)
        kl = kl_to_normal(at.z_s_mean, at.z_s_logvar) + kl_to_normal(at.z_b_mean, at.z_b_logvar)
        return {
            "reconstruction": self.recon_weight / values * recon,
            "kl": self.kl_weight / values * kl,
        }

    def validated(self, x: Tensor) -> Tensor:
        """Of images uint8 [b, c, h, w], with means for samples: both logits, and `drawn`'s sum."""
        at = self.latents(x)
        drawn = self.drawn(x, at, at.z_s_mean, at.z_b_mean)
        logits = wide(self.vae.logits_s(at.z_s_mean)), wide(self.vae.logits_b(at.z_b_mean))
        return torch.cat([*logits, (drawn["reconstruction"] + drawn["kl"])[:, None]], 1)

    def latents(self, x: Tensor) -> Latents:
        """Both latents of images uint8 [b, c, h, w]."""
        return Latents(*map(wide, self.vae.encode(x)))

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Each half and the decoder: one may have an optimizer of its own."""
        return {
            "signal": self.vae.signal.parameters(),
            "biased": self.vae.biased.parameters(),
            "decoder": self.vae.decoder.parameters(),
        }

    def branches(self) -> dict[str, Predict]:
        """Both classifiers, on means; the signal one is what the stage is for."""
        return {"debiased": self.vae.signal.net, "biased": self.vae.biased.net}


class SiH(Method):
    """Two classifiers with latents that one decoder turns into images; needs no bias labels.

    The biased one is trained by generalised cross-entropy, the signal one with a weight on what the
    biased one gets wrong. Training stops by the same loss on validation images, which need no bias
    labels either. Where conflicting images are not rare, plain training is better.
    """

    title: ClassVar[str] = "Signal is Harder (SiH)"
    plan: Plan = Plan(
        epochs=50,
        batch_size=256,
        drop_last=True,
        optimizer=Adam(lr=1e-3),
        schedule=Plateau(patience=9),
        stop=Patience(epochs=20, least=1e-5),
        select="val_loss",
    )
    """How everything is trained. `val_loss` is the method's own loss; with `last`, stopping and a
    plateau schedule are left out."""
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Exponent of both weights; towards 0: two plain classifiers."""
    recon: ReconName | None = None
    """How images are compared; None: bce with `vae-mlp`, mse with the others."""
    recon_weight: NonNegativeFloat = 100.0
    """Weight of the reconstruction, of which the mean over an image's values is taken."""
    kl_weight: NonNegativeFloat = 1.0
    """Weight of the latents' divergence, divided by the number of an image's values."""
    logvar_max: float = 5.0
    """Largest logarithm of a latent's variance."""
    val_full_batches: bool = False
    """Judge by as many validation images as fill batches, drawn anew after each epoch, and divide
    by the number of all, as the released code does."""
    val_augmented: bool = False
    """Augment validation images as in training, as the released code does."""

    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train all networks together; the signal classifier is the result."""
        train = data.train
        if run.start is not None:
            raise ConfigError(
                "SiH trains encoders that a decoder belongs to, and published weights are for"
                " others; use it without pretrained"
            )
        arch = decodable(run.arch, train)
        self._check_val(data.val)
        recon = self.recon or usual_recon(arch)

        def make() -> Paired:
            nets = run.new_net(train, arch), run.new_net(train, arch)
            vae = PairedVAE(*nets, logvar_max=self.logvar_max)
            return Paired(
                vae, q=self.q, recon=recon,
                recon_weight=self.recon_weight, kl_weight=self.kl_weight,
                epochs=self.plan.epochs,
            )  # fmt: skip

        def watch(learner: Paired) -> float:
            assert data.val is not None
            return self.val_loss(learner, data.val, run)

        learner = run.train("fit", make, train, self._plan(), watch=watch)
        vae = learner.vae
        run.publish("biased", vae.biased.net, "biased")
        run.publish("debiased", vae.signal.net, "debiased")
        run.keep("vae", vae)
        wrong = learner.wrong[: int(learner.looks)]
        if len(wrong) >= LOOKS:  # validation images were looked at, and often enough for a bend
            warn_if_many_conflict(wrong, run)
        return vae.signal.net

    @torch.no_grad()
    def val_loss(self, learner: Paired, val: ImageSet, run: Run) -> float:
        """The loss on validation images, with the latents' means for samples."""
        n, looks = len(val), int(learner.looks)
        learner.looks += 1
        if self.val_full_batches:
            rng = torch.Generator().manual_seed(derive(run.seed, "sih", "val", looks))
            val = val.select(torch.randperm(n, generator=rng)[: n - n % self.plan.batch_size])
        if self.val_augmented:
            rng = torch.Generator().manual_seed(derive(run.seed, "sih", "augment", looks))
            val = replace(val, images=augment(val.images[:], self.plan.augment, rng))
        out, k = run.apply(learner.validated, val), len(val.classes)
        signal, biased, drawn = out[:, :k], out[:, k : 2 * k], out[:, 2 * k]
        learner.wrong[looks] = (biased.argmax(1) != val.y).float().mean()
        terms = learner.classified(signal, biased, val.y)
        return float((terms["signal"] + terms["biased"] + drawn).double().sum()) / n

    def _plan(self) -> Plan:
        """The plan; without what needs a value to watch, where nothing is watched."""
        plan = self.plan
        if plan.select != "last":
            return plan
        steady = Constant() if isinstance(plan.schedule, Plateau) else plan.schedule
        return plan.model_copy(update={"stop": None, "schedule": steady})

    def _check_val(self, val: ImageSet | None) -> None:
        if self.plan.select != "val_loss":
            return
        if val is None:
            raise ConfigError(
                "SiH lowers its learning rate and stops by its loss on validation images, and this"
                " data has none; set data.val_share above 0 (the authors: 0.1), or plan.select ="
                " 'last' to train for all of plan.epochs"
            )
        if self.val_full_batches and len(val) < self.plan.batch_size:
            raise ConfigError(
                f"val_full_batches leaves none of the {len(val)} validation images in batches of"
                f" {self.plan.batch_size}; set it to false, or a smaller plan.batch_size"
            )


def decodable(arch: str | None, images: ImageSet) -> str:
    """The name of the encoders of a paired VAE.

    Args:
        arch: of the run; None: by image size.
        images: to be encoded and decoded.

    Raises:
        ConfigError: no decoder belongs to `arch`.
        DataError: the images are not square.
    """
    _, height, width = images.shape
    arch = arch or f"vae-{default_vae(max(height, width))}"
    if arch not in DECODERS:
        raise ConfigError(
            "pictures need encoders that a decoder belongs to: set arch to"
            f" {', '.join(DECODERS)}, or leave it out; got '{arch}'"
        )
    if height != width:
        raise DataError(
            f"pictures are decoded as squares; these images have {height} x {width} pixels. Crop or"
            " resize them first"
        )
    return arch


def usual_recon(arch: str) -> ReconName:
    """How images are compared with what a decoder makes of them."""
    return "bce" if arch == "vae-mlp" else "mse"


def estimated_share(wrong: Tensor) -> float:
    """The share of conflicting images, by what a biased half gets wrong as it learns.

    Its errors fall fast while it learns the bias, and slowly once it learns conflicting images,
    too. The estimate is their share at the bend: drawn over the logarithm of the number of looks,
    where they lie farthest below the straight line from first to last. The last share where none
    lies below it.

    Args:
        wrong: float [looks], the share of images it gets wrong at each look, at least one look.
    """
    errors = wrong.double().cpu()
    along = torch.arange(1, len(errors) + 1, dtype=torch.float64).log()
    line = torch.lerp(errors[0], errors[-1], along / along[-1].clamp(min=0.1))
    below = line - errors
    bend = int(below.argmax())
    return float(wrong[bend if float(below[bend]) > 0 else -1])


def warn_if_many_conflict(wrong: Tensor, run: Run) -> None:
    """Warn where many images seem to contradict the bias. Needs class labels only.

    In the authors' logs (Colored MNIST) SiH is 28 points above plain training with 0.5 % of
    conflicting images, and 6 and 10 points below it with 10 and 20 %.

    Args:
        wrong: as in `estimated_share`.
        run: takes the warning.
    """
    share = estimated_share(wrong)
    if share > MANY:
        run.warn(
            f"By the errors of the biased half as it learned, about {share:.1%} of the images"
            " contradict the bias. If that is so, they are too many for SiH: in its authors' runs"
            " plain training is better from 10 % on. Compare it with the baseline."
        )
