"""Directions that a network can tell apart: Voynov & Babenko, ICML 2020, arXiv 2002.03754.

A reconstructor sees an image before and after a step along one direction, and says which direction
and how far. Directions and reconstructor are trained together.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from truecue.config import Config
from truecue.directions.directions import Directions
from truecue.directions.maps import DirectionMap, Retraction, make_map
from truecue.engine.device import Device
from truecue.engine.learner import Learner, Step
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run, claim
from truecue.errors import ConfigError, Diverged
from truecue.losses.ordering import shift_prediction
from truecue.nets.generator import Generator, check_finite, check_generator, finite
from truecue.nets.scorer import Reconstructor, ReconstructorName
from truecue.seeds import derive

STAGE = "discover"
LEAST = 0.5
"""Steps are at least this long."""
JUDGED = 100
"""Fresh batches on which the reconstructor is measured."""


class Discover(Config):
    """How directions are discovered; the defaults are those of the paper, but for `steps`."""

    k: PositiveInt = 10
    """Directions."""
    map: Literal["ortho", "linear", "proj", "ortho-exp", "fc"] = "ortho"
    """How a step along a direction becomes a shift."""
    retraction: Retraction = "qr"
    """How `ortho` makes directions orthonormal again."""
    reconstructor: ReconstructorName = "resnet18"
    """Its network; `lenet` is for small images."""
    largest: PositiveFloat = 6.0
    """Steps are drawn from [-largest, largest]; those nearer to 0 than 0.5 become 0.5."""
    weight: NonNegativeFloat = 0.25
    """Of the error of the step beside the cross-entropy of the direction."""
    steps: PositiveInt = 5000
    """Training steps; the paper has 100,000."""
    images: PositiveInt = 32
    """Pairs of images in a step."""
    lr: PositiveFloat = 1e-4
    """Adam's learning rate for both."""


class Shifted(NamedTuple):
    """Latents, the direction of each step, and its length."""

    z: Tensor
    """float [b, n_latent]."""
    k: Tensor
    """int64 [b]."""
    step: Tensor
    """float [b]."""
    at: int
    """For which step of the loop they were drawn."""


class ShiftSource:
    """Shifts for every step of the loop, as a function of the step."""

    def __init__(self, generator: Generator, settings: Discover, seed: int, device: Device):
        self._generator, self._settings = generator, settings
        self._seed, self._device = seed, device
        if settings.images < 2 * device.world:
            raise ConfigError(f"{settings.images} images are too few for {device.world} processes")
        self.per_epoch = settings.steps
        self.samples = settings.steps * settings.images

    def batch(self, step: int) -> Shifted:
        """The shifts of a step."""
        rng = torch.Generator().manual_seed(self.seed_of(step))
        n = self._settings.images // self._device.world
        z = self._generator.sample(n, rng)
        k = torch.randint(self._settings.k, (n,), generator=rng)
        e = away_from_zero((torch.rand(n, generator=rng) * 2 - 1) * self._settings.largest)
        where = self._device.device
        return Shifted(z.to(where), k.to(where), e.to(where), step)

    def seed_of(self, step: int) -> int:
        """What the shifts of a step are drawn with."""
        return derive(self._seed, STAGE, "shifts", step, self._device.rank)


class Discovery(Learner):
    """Directions and a reconstructor, trained together on one loss."""

    broken: Tensor

    def __init__(
        self, generator: Generator, reconstructor: Reconstructor, directions: DirectionMap,
        weight: float,
    ):  # fmt: skip
        super().__init__()
        self.reconstructor, self.map, self.weight = reconstructor, directions, weight
        self._held = (generator,)  # not a module of this one: checkpoints leave it out
        # not in checkpoints: a loss of such an image is not finite, and then there is none
        self.register_buffer("broken", torch.tensor(-1), persistent=False)

    def forward(self, batch: Shifted) -> Step:
        """Cross-entropy of the direction and error of the step."""
        self.map.settle()
        first, second = self.images(batch)
        broken = ~(finite(first) & finite(second)) & (self.broken < 0)
        self.broken.copy_(torch.where(broken, batch.at, self.broken))
        logits, step = self.reconstructor(first, second)
        loss = shift_prediction(logits.float(), step.float(), batch.k, batch.step, self.weight)
        right = (logits.argmax(1) == batch.k).float().mean()
        error = (step.detach() - batch.step).abs().mean()
        return Step(loss.mean(), {"right": right, "step_error": error})

    def images(self, batch: Shifted) -> tuple[Tensor, Tensor]:
        """The images before and after."""
        (generator,) = self._held
        u = generator.to_space(batch.z)
        with torch.no_grad():
            first = generator(u)
        eps = F.one_hot(batch.k, self.map.k).float() * batch.step[:, None]
        return first, generator(u, self.map(eps))

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Both, in this order."""
        return {
            "directions": self.map.parameters(),
            "reconstructor": self.reconstructor.parameters(),
        }


class Discovered(NamedTuple):
    """What `discover` gives back."""

    directions: Directions
    """With strengths: the share of fresh images of each direction that the reconstructor tells."""
    accuracy: float
    """That share over all directions; chance is 1 / k."""
    report: dict[str, Any]


def discover(
    generator: Generator,
    settings: Discover | None = None,
    *,
    seed: int = 0,
    out: Path | None = None,
    device: Device | None = None,
    fresh: bool = False,
    quiet: bool = True,
) -> Discovered:
    """Learn directions that a reconstructor can tell apart.

    Cut off and called again with the same arguments and folder, it goes on at the exact step.

    Args:
        generator: deterministic and differentiable; moved to the device and not changed.
        settings: how; left out: the defaults.
        seed: of codes, steps and initialisation.
        out: folder for checkpoints and the log; None keeps nothing.
        device: where to compute; None: the best there is.
        fresh: start over where `out` holds another run.
        quiet: show no progress.

    Raises:
        DataError: the generator cannot be used; see `check_generator`.
        ConfigError: there are more orthonormal directions than numbers in a code.
        Diverged: an image or a loss is not finite; the seed of its codes is named.
        RunMismatch: the folder holds a run with other settings.
    """
    settings, device = settings or Discover(), device or Device()
    generator.to(device.device)
    check_generator(generator, seed)
    digest = generator.digest()

    def new_map() -> DirectionMap:
        rng = torch.Generator().manual_seed(derive(seed, STAGE, "map"))
        return make_map(
            settings.map, settings.k, generator.dim, rng=rng, retraction=settings.retraction
        )

    new_map()  # what cannot be is refused before anything is written
    source = ShiftSource(generator, settings, seed, device)
    if out is not None and device.first:
        asked = {"discover": settings.to_dict(), "generator": digest, "seed": seed}
        claim(out, asked, {}, runs=[STAGE], fresh=fresh)
    device.barrier()
    run = Run(out / STAGE if out else None, seed, device, quiet=quiet)
    channels = generator.render(generator.codes(1, seed, "shape")).shape[1]

    held: list[Discovery] = []

    def make() -> Discovery:
        reconstructor = Reconstructor(settings.reconstructor, channels, settings.k)
        held.append(Discovery(generator, reconstructor, new_map(), settings.weight))
        return held[0]

    plan = Plan(epochs=1, batch_size=settings.images, optimizer=Adam(lr=settings.lr))
    with torch.random.fork_rng():
        try:
            trained = run.train(STAGE, make, source, plan)
        except Diverged as error:
            step = int(held[0].broken)
            if step < 0:
                raise
            raise Diverged(
                f"the generator's images are not finite in step {step:,} (seed"
                f" {source.seed_of(step)} of codes and steps, run seed {seed}). Make the steps"
                f" smaller (largest is {settings.largest:g}), or mend the generator"
            ) from error
        own, total = judge(trained, generator, settings, seed, device)
    rows = trained.map.matrix()
    made = Directions(
        rows, f"Voynov & Babenko, {settings.steps:,} steps", strengths=tuple(own.tolist()),
        space=generator.space, generator=digest,
    )  # fmt: skip
    report = {"settings": settings.to_dict(), "accuracy": total, "seed": seed,
              "curve": [r for r in run.log.rows if r["stage"] == STAGE]}  # fmt: skip
    return Discovered(made, total, report)


@torch.no_grad()
def judge(
    trained: Discovery, generator: Generator, settings: Discover, seed: int, device: Device
) -> tuple[Tensor, float]:
    """The share of fresh images told rightly, of each direction [k] and of all.

    Raises:
        DataError: an image is not finite.
    """
    source = ShiftSource(generator, settings, derive(seed, "judge"), device)
    hits, total = torch.zeros(settings.k), torch.zeros(settings.k)
    for step in range(JUDGED):
        batch = source.batch(step)
        first, second = trained.images(batch)
        check_finite(first, seed)
        check_finite(second, seed)
        logits, _ = trained.reconstructor(first, second)
        right = (logits.argmax(1) == batch.k).float().cpu()
        hits.index_add_(0, batch.k.cpu(), right)
        total.index_add_(0, batch.k.cpu(), torch.ones_like(right))
    return hits / total.clamp(min=1), float(hits.sum() / total.sum())


def away_from_zero(step: Tensor) -> Tensor:
    """Steps with those between -0.5 and 0.5 set to the nearer of the two; 0 stays."""
    return torch.where(step.abs() < LEAST, step.sign() * LEAST, step)
