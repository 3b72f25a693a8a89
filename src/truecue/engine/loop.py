"""The training loop: one backward pass a step, logs left on the device, exact continuation."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from truecue.data.loader import Source
from truecue.engine import checkpoint
from truecue.engine.average import Average
from truecue.engine.device import Device
from truecue.engine.learner import Learner
from truecue.engine.log import Log
from truecue.engine.plan import Constant, Plan, Plateau, lr_factor
from truecue.engine.progress import Bar, stage_bar
from truecue.engine.signals import StopSignal
from truecue.errors import ConfigError, Diverged, Interrupted

LOG_STEPS = 50
"""Steps between two looks at the logs; each costs one copy from the device."""


@dataclass
class Watched:
    """What has been seen of the watched value; smaller is better."""

    best: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    """Epochs since the best one, for stopping."""
    flat: int = 0
    """Epochs since the best one or the last fall of the learning rate, for a plateau schedule."""
    factor: float = 1.0
    """What a plateau schedule has multiplied the learning rate by."""
    lowest: float = math.inf
    """The best value by a plateau schedule's own threshold, where it has one."""

    def observe(self, value: float, epoch: int, plan: Plan) -> bool:
        """Take in the value after an epoch; whether it is the best so far. The first always is."""
        first, least = not self.best_epoch, plan.stop.least if plan.stop else 0.0
        better = first or (value <= self.best - least if least else value < self.best)
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best, self.best_epoch = value, epoch
        if isinstance(plan.schedule, Plateau):
            self._lower(value, better, first, plan.schedule)
        return better

    def _lower(self, value: float, better: bool, first: bool, schedule: Plateau) -> None:
        falls = better
        if schedule.threshold is not None:
            falls = first or value < self.lowest * (1 - schedule.threshold)
            self.lowest = value if falls else self.lowest
        self.flat = 0 if falls else self.flat + 1
        if self.flat > schedule.patience:
            self.factor, self.flat = self.factor * schedule.factor, 0

    def stops(self, plan: Plan) -> bool:
        """Whether training ends here."""
        return plan.stop is not None and self.waited >= plan.stop.epochs

    def keeps_best(self, plan: Plan) -> bool:
        """Whether the best weights are kept and not the last ones."""
        return plan.stop is None or not plan.stop.last_unless_stopped or self.stops(plan)


@dataclass(frozen=True)
class Stage:
    """Everything the loop needs beside the learner."""

    name: str
    source: Source
    plan: Plan
    device: Device
    log: Log
    checkpoint: Path | None
    checkpoint_seconds: float
    watch: Callable[[], float] | None
    monitor: Callable[[int], list[dict[str, Any]]] | None
    quiet: bool


def train(learner: Learner, stage: Stage) -> dict[str, float]:
    """Run a stage from its checkpoint or from the start, to the end.

    Args:
        learner: on the device; holds the last or the best weights afterwards, as the plan says.
        stage: the rest.

    Returns:
        Figures about the stage: epochs, steps, seconds, images_per_second, best_epoch.

    Raises:
        Diverged: a loss or logged term is not finite.
        Interrupted: SIGINT or SIGTERM came; a checkpoint has been written.
        StorageError: a checkpoint could not be written; the last one is intact.
    """
    loop = _Loop(learner, stage)
    total, per_epoch = stage.plan.epochs * stage.source.per_epoch, stage.source.per_epoch
    samples = stage.source.samples / per_epoch
    with (
        StopSignal() as signal,
        stage_bar(
            stage.name, steps=total, epochs=stage.plan.epochs, samples=samples, quiet=stage.quiet
        ) as bar,
    ):
        loop.run(total, bar, signal)
    return loop.figures(samples)


class _Loop:
    def __init__(self, learner: Learner, stage: Stage):
        self.learner, self.stage, self.plan = learner, stage, stage.plan
        self.groups = {name: list(ps) for name, ps in learner.groups().items()}
        _check_groups(self.plan, self.groups)
        self.optimizers = make_optimizers(self.groups, self.plan, stage.device.device)
        self.step, self.seconds, self.watched = 0, 0.0, Watched()
        self.best: dict[str, Tensor] | None = None
        self.average = Average(learner, self.plan.average) if self.plan.average else None
        self.logs = _Logs()
        self._restore()

    def run(self, total: int, bar: Bar, signal: StopSignal) -> None:
        stage, plan, learner = self.stage, self.plan, self.learner
        if stage.checkpoint is not None and stage.device.first:
            stage.checkpoint.parent.mkdir(parents=True, exist_ok=True)  # says that work has begun
        call = stage.device.wrap(learner, turns=bool(plan.turns))
        per_epoch, constant = stage.source.per_epoch, isinstance(plan.schedule, Constant)
        learner.train()
        began = saved = time.monotonic()
        spent = self.seconds
        while self.step < total and not self.watched.stops(plan):
            if not constant:
                self._set_rates((self.step + 0.5) / per_epoch)
            if plan.turns:
                self._take_turn(plan.turns[self.step % len(plan.turns)])
            with stage.device.autocast():
                out = call(stage.source.batch(self.step))
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            stage.device.backward(out.loss)
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update(self.step + 1)
            self.logs.add(out.loss, out.logs)
            self.step += 1
            ends = self.step % per_epoch == 0
            look = ends or self.step % LOG_STEPS == 0
            if look:
                self._report(bar, time.monotonic() - began + spent)
            if ends:
                self._after_epoch(self.step // per_epoch)
            if look or stage.device.world == 1:
                due = time.monotonic() - saved > stage.checkpoint_seconds
                if stage.device.agree(due or signal.came):
                    self.seconds = time.monotonic() - began + spent
                    self._save(bar)
                    saved = time.monotonic()
                    if stage.device.agree(signal.came):
                        raise Interrupted(self._farewell())
        self.seconds = time.monotonic() - began + spent
        self._train_all()
        if self.average is not None:
            self.average.write()
        stage.device.share_buffers(learner)
        if self.best is not None and self.watched.keeps_best(plan):
            learner.load_state_dict(self.best)

    def figures(self, samples: float) -> dict[str, float]:
        per_epoch = self.stage.source.per_epoch
        rate = self.step * samples / self.seconds if self.seconds else 0.0
        best = self.best is not None and self.watched.keeps_best(self.plan)
        return {
            "epochs": self.step // per_epoch,
            "steps": self.step,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(rate, 1),
            "best_epoch": self.watched.best_epoch if best else self.step // per_epoch,
        }

    def _after_epoch(self, epoch: int) -> None:
        stage = self.stage
        if stage.watch is None and stage.monitor is None:
            return
        self._train_all()
        self.learner.eval()
        with self.average.in_place() if self.average else nullcontext():
            self._look(epoch)
        self.learner.train()

    def _look(self, epoch: int) -> None:
        """Value and curves of what would be delivered if training ended here."""
        stage = self.stage
        stage.device.share_buffers(self.learner)
        if stage.watch is not None:
            value = float(stage.watch())
            if math.isnan(value):
                raise Diverged(
                    f"the value to choose by ({self.plan.select}) is not a number in stage"
                    f" '{stage.name}' after epoch {epoch}. Lower the learning rate, or look at the"
                    " images; the last checkpoint, if there is one, is from before"
                )
            stage.log.add(stage.name, self.step, epoch=epoch, watched=value)
            better = self.watched.observe(value, epoch, self.plan)
            if better and self.plan.select != "last":
                self.best = {k: v.clone() for k, v in self.learner.state_dict().items()}
        if stage.monitor is not None:
            for row in stage.monitor(epoch):
                stage.log.add(stage.name, self.step, epoch=epoch, **row)

    def _report(self, bar: Bar, seconds: float) -> None:
        values = self.logs.fetch()
        if self.stage.device.agree(not all(map(math.isfinite, values.values()))):
            raise Diverged(_complaint(values, self.stage.name, self.step))
        if values:
            epoch = round(self.step / self.stage.source.per_epoch, 3)
            self.stage.log.add(self.stage.name, self.step, at=epoch, **values, seconds=seconds)
            bar.update(self.step, values["loss"])

    def _set_rates(self, epoch: float) -> None:
        factor = lr_factor(self.plan.schedule, epoch, self.plan.epochs) * self.watched.factor
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * factor

    def _take_turn(self, turn: str) -> None:
        self.learner.turn = turn
        for name, parameters in self.groups.items():
            for p in parameters:
                p.requires_grad_(name == turn)
                if name != turn:
                    p.grad = None  # optimizers pass over parameters without one

    def _train_all(self) -> None:
        """Between steps every group counts as trainable again."""
        if self.plan.turns:
            for parameters in self.groups.values():
                for p in parameters:
                    p.requires_grad_(True)

    def _save(self, bar: Bar) -> None:
        if self.stage.checkpoint is None:
            return
        self._report(bar, self.seconds)  # raises before a diverged state could be saved
        if not all(bool(p.isfinite().all()) for p in self.learner.parameters()):
            raise Diverged(  # the losses were finite, the last gradients were not
                f"weights not finite in stage '{self.stage.name}' after step {self.step:,}. Lower"
                " the learning rate; the last checkpoint, if there is one, is from before"
            )
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "watched": asdict(self.watched),
            "best": self.best,
            "average": self.average.values if self.average else None,
        }
        checkpoint.save(self.stage.checkpoint, state, self.stage.device)

    def _restore(self) -> None:
        path = self.stage.checkpoint
        if path is not None and path.exists():
            state = checkpoint.load(path, self.stage.device)
            self.step, self.seconds = state["step"], state["seconds"]
            self.learner.load_state_dict(state["learner"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.watched, self.best = Watched(**state["watched"]), state["best"]
            if self.average is not None:
                self.average.load(state["average"])
        if self.stage.device.first:
            self.stage.log.rewind(self.stage.name, self.step)

    def _farewell(self) -> str:
        where = f"stage '{self.stage.name}', step {self.step:,}"
        if self.stage.checkpoint is None:
            return f"stopped at {where}; nothing was saved, since the run has no folder"
        return f"stopped at {where}; it is saved, and the same command goes on from there"


class _Logs:
    """Sums of what the steps report, kept on the device until looked at."""

    def __init__(self) -> None:
        self._sums, self._counts = dict[str, Tensor](), Counter[str]()

    def add(self, loss: Tensor, logs: dict[str, Tensor]) -> None:
        for name, value in (("loss", loss), *logs.items()):
            before, new = self._sums.get(name), value.detach()
            self._sums[name] = new if before is None else before + new
            self._counts[name] += 1  # with turns, a term may come in some steps only

    def fetch(self) -> dict[str, float]:
        """Means since the last call, in one copy; empty where nothing came."""
        if not self._sums:
            return {}
        sums = torch.stack([v.float() for v in self._sums.values()]).tolist()
        means = {k: v / self._counts[k] for k, v in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, Counter()
        return means


def _complaint(values: dict[str, float], stage: str, step: int) -> str:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    terms = ", ".join(f"{name} {value}" for name, value in values.items())
    return (
        f"{' and '.join(bad) or 'the loss of another process'} not finite in stage '{stage}' by"
        f" step {step:,} ({terms}). Lower the learning rate, or look at the images; the last"
        " checkpoint, if there is one, is from before"
    )


def make_optimizers(
    groups: dict[str, list[nn.Parameter]], plan: Plan, device: torch.device
) -> list[torch.optim.Optimizer]:
    """The plan's optimizers, one for each kind, with every group's own rate and decay."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for name, parameters in groups.items():
        settings = plan.optimizer_of.get(name, plan.optimizer)
        values = settings.model_dump(exclude={"kind"})
        entry = {"params": parameters, "name": name, "full_lr": settings.lr} | values
        by_kind.setdefault(settings.kind, []).append(entry)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    fused = device.type in {"cpu", "cuda"}  # one pass over memory instead of one for each formula
    return [kinds[kind](entries, fused=fused) for kind, entries in by_kind.items()]


def _check_groups(plan: Plan, groups: dict[str, list[nn.Parameter]]) -> None:
    known = ", ".join(groups)
    for name in (*plan.optimizer_of, *plan.turns):
        if name not in groups:
            raise ConfigError(f"the plan names the group '{name}'; this method has: {known}")
    seen: set[int] = set()
    for parameters in groups.values():
        for p in parameters:
            if id(p) in seen:
                raise ValueError("a parameter is in two groups of the learner")
            seen.add(id(p))
