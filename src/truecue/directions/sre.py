"""Scale Ranking Estimator: refine directions until one can tell along which an image was moved.

Kappiyath, Vadakkeeveetil Sreelatha, Sumitra, "Self-Supervised Enhancement of Latent Discovery in
GANs", AAAI 2022, arXiv 2112.08835. The paper's tables were not to be had; the procedure is that of
the unmerged branches of its repository (github VSSILPA/disentagled_latent_dirs), corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from truecue.config import Config
from truecue.directions.directions import Directions, angles, check_fit
from truecue.directions.judge import Measured, measure, warnings_of
from truecue.directions.maps import DirectionMap, MapName, Retraction, make_map
from truecue.directions.ranking import STAGE, PairSource, ScaleRanking
from truecue.engine.device import Device
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run, claim
from truecue.errors import ConfigError, Diverged
from truecue.nets.generator import Generator, check_generator
from truecue.nets.scorer import Scorer, ScorerName
from truecue.seeds import derive


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


@dataclass(frozen=True)
class Refined:
    """What `refine` gives back."""

    directions: Directions
    """After the last step, made orthonormal where the map asks for that."""
    before: Directions
    scorer: Scorer
    """On the CPU, in evaluation mode; its card says how often it orders pairs rightly."""
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
            another space or generator.
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
        start.strengths if isinstance(start, Directions) else (),
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
        trained = _train(run, generator, new_map, settings, k).eval()
        reach = settings.reach(generator, k)
        measured = measure(generator, trained.scorer, trained.map, reach, seed)
    after = Directions(
        trained.map.matrix(), f"{before.found_by}, refined", before.names, before.strengths,
        before.space, before.generator, tuple(measured.accuracy.tolist()),
    )  # fmt: skip
    report = _report(run, settings, reach, before, after, measured)
    trained.scorer.spec["extra"] = {
        "names": list(after.names),
        "ranked_right": measured.accuracy.tolist(),
        "pairs": measured.pairs,
        "directions": after.digest(),
    }
    return Refined(
        after, before, trained.scorer.cpu(), measured, report | {"seed": seed}, report["warnings"]
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
    source = PairSource(
        generator,
        k=k,
        reach=settings.reach(generator, k),
        images=settings.images,
        steps=turns * settings.steps,
        seed=run.seed,
        device=run.device,
    )
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
        "warnings": warnings_of(after, measured, reach),
    }
