"""Scale Ranking Estimator: refine directions until one can tell along which an image was moved.

Kappiyath, Vadakkeeveetil Sreelatha, Sumitra, "Self-Supervised Enhancement of Latent Discovery in
GANs", AAAI 2022, arXiv 2112.08835. The paper's tables were not to be had; the procedure is that of
the unmerged branches of its repository (github VSSILPA/disentagled_latent_dirs), corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from truecue.config import Config
from truecue.directions.directions import Directions, check_fit, unit
from truecue.directions.maps import DirectionMap, MapName, Retraction, make_map
from truecue.directions.traverse import Effects, effects
from truecue.engine.device import Device
from truecue.engine.learner import Learner, Step
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run, claim
from truecue.errors import ConfigError, Diverged
from truecue.losses.ordering import moved_further, ranked_right, scale_ranking
from truecue.nets.generator import Generator, check_generator
from truecue.nets.scorer import Scorer, ScorerName
from truecue.seeds import derive

STAGE = "refine"
JUDGED = 1024
"""Fresh pairs on which scorer and directions are measured."""
LIKE = 0.95
"""Cosine from which two directions count as the same."""


class SRE(Config):
    """How directions are refined; the defaults are those of the released code for most settings."""

    step: PositiveFloat | None = None
    """S: steps are drawn from [-S, S] along all directions at once. None: 1 in w; in z
    0.3 sqrt(3 d / k), which keeps the sum of all moves well below the length of a code."""
    map: MapName = "ortho"
    """How steps become shifts; `random` trains the scorer for directions as they are."""
    retraction: Retraction = "qr"
    """How `ortho` makes directions orthonormal again; `polar` is not from the paper."""
    scorer: ScorerName = "resnet18"
    """The scorer's network; `small` suits images of up to about 32 pixels."""
    steps: PositiveInt = 6000
    """Training steps; each updates the scorer, then, on fresh images, the directions."""
    images: Annotated[int, Field(ge=2)] = 32
    """Images in an update: half as many pairs."""
    lr_directions: PositiveFloat = 1e-4
    """Adam's learning rate for the directions; 1e-3 suits small generators."""
    lr_scorer: PositiveFloat = 1e-4
    """Adam's learning rate for the scorer; 1e-3 suits small generators."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images % 2:
            raise ValueError(f"images come in pairs: give an even number; got {self.images}")
        return self

    def reach(self, generator: Generator, k: int) -> float:
        """S for k directions of a generator."""
        if self.step is not None:
            return self.step
        return 1.0 if generator.space == "w" else 0.3 * math.sqrt(3 * generator.dim / k)


class Pairs(NamedTuple):
    """Latents, and two random steps from each."""

    z: Tensor
    """float [b, n_latent]."""
    eps1: Tensor
    """float [b, k], in [-S, S]."""
    eps2: Tensor
    """float [b, k]."""
    step: int
    """For which step of the loop they were drawn."""


class PairSource:
    """Pairs for every step of the loop, as a function of the step."""

    def __init__(
        self, generator: Generator, k: int, settings: SRE, seed: int, device: Device, turns: int
    ):
        self._generator, self._k, self._seed = generator, k, seed
        self._reach = settings.reach(generator, k)
        if settings.images // 2 < device.world:
            raise ConfigError(
                f"{settings.images // 2} pairs cannot be shared by {device.world} processes"
            )
        self._pairs = settings.images // 2 // device.world
        self._device = device
        self.per_epoch = turns * settings.steps
        self.samples = self.per_epoch * settings.images

    def batch(self, step: int) -> Pairs:
        """The pairs of a step."""
        rng = torch.Generator().manual_seed(self.seed_of(step))
        z = self._generator.sample(self._pairs, rng)
        eps = (torch.rand(2, self._pairs, self._k, generator=rng) * 2 - 1) * self._reach
        where = self._device.device
        return Pairs(z.to(where), eps[0].to(where), eps[1].to(where), step)

    def seed_of(self, step: int) -> int:
        """What the pairs of a step are drawn with."""
        return derive(self._seed, STAGE, "pairs", step, self._device.rank)


class ScaleRanking(Learner):
    """A scorer and directions that take turns; the generator is frozen and not saved with them."""

    broken: Tensor

    def __init__(self, generator: Generator, scorer: Scorer, directions: DirectionMap):
        super().__init__()
        self.scorer, self.map = scorer, directions
        self._held = (generator,)  # not a module of this one: checkpoints leave it out
        self.register_buffer("broken", torch.tensor(-1))
        self.register_buffer("_first", unit(directions.matrix()))

    def forward(self, pairs: Pairs) -> Step:
        """The mean ranking loss over pairs and directions.

        In the scorer's turn images come without a gradient and the scorer is in training mode; in
        the directions' turn the gradient goes through scorer and generator, and the scorer is in
        evaluation mode.
        """
        ranks = self.turn != "directions"
        self.scorer.train(ranks)
        self.map.train(not ranks)
        with torch.set_grad_enabled(not ranks and torch.is_grad_enabled()):
            self.map.settle()
            images = self.images(pairs)
        broken = ~images.detach().isfinite().all() & (self.broken < 0)
        self.broken.copy_(torch.where(broken, pairs.step, self.broken))
        s1, s2 = self.scorer(images).float().chunk(2)
        y = moved_further(pairs.eps1, pairs.eps2)
        loss = scale_ranking(s1, s2, y).mean()
        right = ranked_right(s1, s2, y).float().mean()
        name = "scorer" if ranks else "directions"
        return Step(loss, {name: loss.detach(), "ranked_right": right} | self._turned(ranks))

    def images(self, pairs: Pairs) -> Tensor:
        """The 2b images in [-1, 1]: those of the first steps, then those of the second."""
        (generator,) = self._held
        u = generator.to_space(pairs.z)
        images: Tensor = generator(torch.cat([u, u]), self.map(torch.cat([pairs.eps1, pairs.eps2])))
        return images

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Scorer, and directions where there is something to train."""
        own = list(self.map.parameters())
        scorer = {"scorer": self.scorer.parameters()}
        return {**scorer, "directions": own} if own else {**scorer}

    @torch.no_grad()
    def _turned(self, ranks: bool) -> dict[str, Tensor]:
        """By how many degrees directions have turned, on average; once in each update."""
        if ranks:
            return {}
        return {"turned": angles(self.get_buffer("_first"), self.map.matrix()).mean()}


class Measured(NamedTuple):
    """What fresh pairs say of k directions and a scorer."""

    accuracy: Tensor
    """float [k], share of pairs that the scorer orders rightly; 0.5 is chance."""
    effects: Effects
    pairs: int


@dataclass(frozen=True)
class Refined:
    """What `refine` gives back."""

    directions: Directions
    """After the last step, made orthonormal where the map asks for that."""
    before: Directions
    scorer: Scorer
    """On the CPU, in evaluation mode."""
    measured: Measured
    report: dict[str, Any]
    """Settings, losses, accuracies, angles and warnings, as plain values."""
    warnings: list[str] = field(default_factory=list)


def refine(
    generator: Generator,
    start: Directions | int,
    settings: SRE | None = None,
    *,
    seed: int = 0,
    out: Path | None = None,
    device: Device | None = None,
    fresh: bool = False,
    quiet: bool = True,
    checkpoint_seconds: float = 300.0,
) -> Refined:
    """Refine directions, and train a scorer that orders images by each.

    Cut off and called again with the same arguments and folder, it goes on at the exact step.
    Torch's own random state is left as it was.

    Args:
        generator: deterministic and differentiable; moved to the device and not changed.
        start: directions to refine, or how many, to begin with the map's own.
        settings: how; left out: the defaults.
        seed: of codes, steps and initialisation.
        out: folder for checkpoints and the log; None keeps nothing.
        device: where to compute; None: the best there is.
        fresh: start over where `out` holds another run.
        quiet: show no progress.
        checkpoint_seconds: time between checkpoints.

    Raises:
        DataError: the generator cannot be used (see `check_generator`), or the directions are of
            another space.
        ConfigError: the directions do not fit the map.
        Diverged: an image or a loss is not finite; the seed of its codes is named.
        RunMismatch: the folder holds a run with other settings.
    """
    settings, device = settings or SRE(), device or Device()
    generator.to(device.device)
    check_generator(generator, seed)
    rows = None
    if isinstance(start, Directions):
        check_fit(start, generator)
        rows = start.matrix
    k = start if isinstance(start, int) else len(start)
    if k < 1:
        raise ConfigError(f"there must be at least one direction; got {k}")

    def new_map() -> DirectionMap:
        rng = torch.Generator().manual_seed(derive(seed, STAGE, "map"))
        return make_map(
            settings.map, k, generator.dim, rows=rows, rng=rng, retraction=settings.retraction
        )

    first = new_map()
    before = Directions(
        first.matrix(),
        start.found_by if isinstance(start, Directions) else f"start of map '{settings.map}'",
        start.names if isinstance(start, Directions) else (),
        space=generator.space,
        generator=generator.digest(),
    )
    if out is not None and device.first:
        asked = {"refine": settings.to_dict(), "generator": before.generator, "seed": seed,
                 "start": before.digest()}  # fmt: skip
        claim(out, asked, {}, runs=[STAGE], fresh=fresh)
    device.barrier()
    run = Run(
        out / STAGE if out else None, seed, device, quiet=quiet,
        checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    with torch.random.fork_rng():
        trained = _train(run, generator, new_map, settings, k)
        scorer, matrix = trained.scorer.cpu().eval(), trained.map.cpu().matrix()
        after = Directions(
            matrix, f"{before.found_by}, refined", before.names, (), generator.space,
            before.generator,
        )  # fmt: skip
        reach = settings.reach(generator, k)
        measured = measure(generator, scorer.to(device.device), matrix, reach, seed)
    report = _report(run, settings, reach, before, after, measured)
    return Refined(
        after, before, scorer.cpu(), measured, report | {"seed": seed}, report["warnings"]
    )


def _train(
    run: Run, generator: Generator, new_map: Callable[[], DirectionMap], settings: SRE, k: int
) -> ScaleRanking:
    probe = generator.render(generator.codes(1, run.seed, "shape"))
    channels, height, width = probe.shape[1:]
    held: list[ScaleRanking] = []

    def make() -> ScaleRanking:
        scorer = Scorer(settings.scorer, (channels, height, width), k)
        held.append(ScaleRanking(generator, scorer, new_map()))
        return held[0]

    plan = Plan(
        epochs=1,
        batch_size=settings.images,
        optimizer=Adam(lr=settings.lr_scorer),
        turns=("scorer", "directions"),
        optimizer_of={"directions": Adam(lr=settings.lr_directions)},
    )
    if not list(new_map().parameters()):
        plan = plan.model_copy(update={"turns": (), "optimizer_of": {}})
    turns = len(plan.turns) or 1
    source = PairSource(generator, k, settings, run.seed, run.device, turns)
    try:
        return run.train(STAGE, make, source, plan)
    except Diverged as error:
        step = int(held[0].broken)
        if step < 0:
            raise
        raise Diverged(
            f"the generator's images are not finite in step {step:,} (seed {source.seed_of(step)}"
            f" of codes and steps, run seed {run.seed}). Make the steps smaller (now"
            f" {settings.reach(generator, k):.3g}), or mend the generator"
        ) from error


@torch.no_grad()
def measure(
    generator: Generator, scorer: nn.Module, rows: Tensor, reach: float, seed: int,
    pairs: int = JUDGED,
) -> Measured:  # fmt: skip
    """How often a scorer orders fresh pairs rightly, and what each direction changes.

    Args:
        generator: on the scorer's device.
        scorer: images [b, c, h, w] in [-1, 1] to scores [b, k].
        rows: float [k, d], directions.
        reach: S; all directions move at once, as in training. The change of images is that of one
            direction at a time, from -S to S.
        seed: of codes and steps.
        pairs: how many.
    """
    rows = rows.to(generator.device)
    rng = torch.Generator().manual_seed(derive(seed, "measure"))
    right = torch.zeros(len(rows))
    was = scorer.training
    scorer.eval()
    for start in range(0, pairs, 128):
        b = min(128, pairs - start)
        z = generator.sample(b, rng).to(generator.device)
        eps = ((torch.rand(2, b, len(rows), generator=rng) * 2 - 1) * reach).to(z.device)
        u = generator.to_space(z)
        images = generator(torch.cat([u, u]), torch.cat([*eps]) @ rows)
        s1, s2 = scorer(images).chunk(2)
        right += ranked_right(s1, s2, moved_further(*eps)).sum(0).cpu()
    scorer.train(was)
    found = effects(generator, rows, generator.codes(32, seed, "effects"), reach)
    return Measured(right / pairs, found, pairs)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Degrees [k] between rows of two matrices [k, d], in [0, 90]: signs do not count."""
    cosine = (unit(first) * unit(second)).sum(1).abs().clamp(max=1)
    return torch.rad2deg(torch.arccos(cosine))


def at_chance(measured: Measured) -> Tensor:
    """Directions [k] whose accuracy lies within three standard errors of 0.5."""
    return measured.accuracy < 0.5 + 3 * 0.5 / math.sqrt(measured.pairs)


def _report(
    run: Run, settings: SRE, reach: float, before: Directions, after: Directions,
    measured: Measured,
) -> dict[str, Any]:  # fmt: skip
    turned = angles(before.matrix, after.matrix)
    names = after.names
    each = zip(names, measured.accuracy.tolist(), measured.effects.change.tolist(),
               measured.effects.visible.tolist(), turned.tolist(), strict=True)  # fmt: skip
    curve = [
        {"step": row["step"] // 2 if settings.map not in ("id", "random") else row["step"]}
        | {
            key: row[key]
            for key in ("scorer", "directions", "ranked_right", "turned")
            if key in row
        }
        for row in run.log.rows
        if row["stage"] == STAGE
    ]
    return {
        "settings": settings.to_dict(),
        "step": reach,
        "before": before.to_dict(),
        "after": after.to_dict(),
        "pairs": measured.pairs,
        "directions": [
            {"name": name, "ranked_right": a, "change": c, "visible": v, "turned": t}
            for name, a, c, v, t in each
        ],
        "curve": curve,
        "figures": run.stages.get(STAGE, {}),
        "warnings": warnings_of(after, measured, reach, settings),
    }


def warnings_of(
    directions: Directions, measured: Measured, reach: float, settings: SRE
) -> list[str]:
    """What a reader must know before trusting directions or scores, one sentence each."""
    said, names = [], directions.names
    hidden = [
        n for n, seen in zip(names, measured.effects.visible.tolist(), strict=True) if not seen
    ]
    if len(hidden) == len(names):
        said.append(
            "No visible effect: none of the directions changes any pixel by half a grey level"
        )
    elif hidden:
        said.append(f"Invisible, no pixel changes by half a grey level: {', '.join(hidden)}")
    chance = at_chance(measured)
    if bool(chance.all()):
        said.append(
            f"The scorer is at chance for every direction (best {measured.accuracy.max():.1%} of"
            f" {measured.pairs:,} pairs): its scores mean nothing. Train for more steps, or with a"
            " larger step or learning rate"
        )
    elif bool(chance.any()):
        lost = [n for n, at in zip(names, chance.tolist(), strict=True) if at]
        said.append(f"The scorer is at chance for: {', '.join(lost)}")
    k, d = directions.matrix.shape
    longest, usual = reach * math.sqrt(k / 3), math.sqrt(d)
    if directions.space == "z" and longest > usual:
        said.append(
            f"Steps leave the range of codes: together they have a length of about {longest:.1f},"
            f" and codes of about {usual:.1f}; lower the step"
        )
    near = unit(directions.matrix)
    same = ((near @ near.T).abs().triu(1) > LIKE).nonzero().tolist()
    if same:
        pairs = ", ".join(f"{names[i]} and {names[j]}" for i, j in same[:5])
        said.append(f"Directions that have become (nearly) the same: {pairs}")
    return said
