"""A durable run: named stages that are read back when finished and continued when cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from truecue.atomic import LOCK, atomic, write_text
from truecue.config import read_toml
from truecue.data.loader import Loader, Source
from truecue.data.sets import ImageSet
from truecue.engine import checkpoint, evaluate, loop
from truecue.engine.device import Device
from truecue.engine.judge import Judge, Monitor
from truecue.engine.learner import Learner, Predict
from truecue.engine.log import Log
from truecue.engine.plan import Plan, Plateau
from truecue.engine.record import KEY, Recorder
from truecue.errors import ConfigError, DataError, RunMismatch
from truecue.nets.build import build, default_arch
from truecue.nets.classifier import Classifier
from truecue.nets.pretrained import LastLayer
from truecue.nets.vae import PairedVAE
from truecue.seeds import derive

L = TypeVar("L", bound=Learner)
T = TypeVar("T", Tensor, dict[str, Tensor])


class Branch(NamedTuple):
    """A classifier that a method made on the way and that is worth measuring."""

    net: Classifier
    role: str
    """"biased", "debiased" or "" ."""


class Pairs(NamedTuple):
    """That the similarities of pairs of images are worth showing."""

    guessed_by: str | None
    """The branch whose answers stand for bias labels; None: the data's own."""


@dataclass
class Run:
    """What a method's `fit` works with. Training and computing go through it, and are durable.

    Between stages `fit` must be deterministic given the results of the stages: on resuming it is
    called again, and finished stages are read instead of run.
    """

    folder: Path | None
    """Where stages are kept; None keeps nothing and cannot be resumed."""
    seed: int
    device: Device
    arch: str | None = None
    """Architecture of networks that a method does not choose itself; None: by image size."""
    judge: Judge | None = None
    monitor: Monitor | None = None
    recorder: Recorder | None = None
    start: Classifier | None = None
    """Pretrained weights that networks of the run's architecture begin with."""
    checkpoint_seconds: float = 300.0
    quiet: bool = True
    branches: dict[str, Branch] = field(default_factory=dict)
    """Filled by `publish`."""
    kept: dict[str, PairedVAE] = field(default_factory=dict)
    """Filled by `keep`."""
    pairs: Pairs | None = None
    """Set by `show_pairs`."""
    told: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Filled by `tell`."""
    warnings: list[str] = field(default_factory=list)
    """Filled by `warn`."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Figures of finished stages."""

    def __post_init__(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(self.folder / "log.jsonl" if self.folder else None)
        self._computed: set[str] = set()

    def train(
        self,
        stage: str,
        make: Callable[[], L],
        data: ImageSet | Source,
        plan: Plan,
        *,
        weights: Tensor | None = None,
        at_least: tuple[Tensor, int] | None = None,
        watch: Callable[[L], float] | None = None,
    ) -> L:
        """Train what `make` returns, or read it back, or go on where it was cut off.

        Args:
            stage: a name, used once in a run.
            make: builds the learner. Its random initialisation depends on seed and stage only.
            data: training images, or anything that gives a batch for a step.
            plan: how.
            weights: float [n], relative chance of each image to be drawn.
            at_least: bool [n] and how many of the marked images every batch has, see `Loader`.
            watch: value of a learner after an epoch, smaller is better; replaces the rule
                `val_loss` of `plan.select`.

        Returns:
            The trained learner on the device, in evaluation mode.

        Raises:
            ConfigError: the plan cannot be carried out with this data.
            Diverged, Interrupted, StorageError: see `loop.train`.
        """
        if stage in self.stages:
            raise ValueError(f"stage '{stage}' is already in this run; names are used once")
        torch.manual_seed(derive(self.seed, stage, "init"))
        learner = make().to(self.device.device)
        torch.manual_seed(derive(self.seed, stage, "noise", self.device.rank))
        done = self._path("stages", f"{stage}.done")
        if done is not None and done.exists():
            state = checkpoint.load(done, self.device)
            learner.load_state_dict(state["learner"])
            self.stages[stage] = state["figures"]
            return learner.eval()
        source = (
            self._loader(stage, data, plan, weights, at_least)
            if isinstance(data, ImageSet)
            else data
        )
        figures = loop.train(
            learner,
            loop.Stage(
                name=stage,
                source=source,
                plan=plan,
                device=self.device,
                log=self.log if self.device.first else Log(None),
                checkpoint=self._path("stages", f"{stage}.ckpt"),
                checkpoint_seconds=self.checkpoint_seconds,
                watch=self._watch(learner, plan, watch),
                monitor=self._monitor(learner, plan),
                quiet=self.quiet or not self.device.first,
            ),
        )
        if self.recorder is not None and plan.select != "last" and learner.branches():
            self._note(self.recorder, stage, learner.eval(), figures)
        if done is not None:
            state = {"learner": learner.state_dict(), "figures": figures}
            checkpoint.save(done, state, self.device)
            done.with_suffix(".ckpt").unlink(missing_ok=True)
        self.stages[stage] = figures
        return learner.eval()

    def once(self, name: str, make: Callable[[], T]) -> T:
        """A tensor or dictionary of tensors in main memory, computed once and read afterwards.

        Args:
            name: used once in a run.
            make: computes it; torch's random state is then a function of seed and name.

        Raises:
            DataError: what was computed before cannot be read.
            StorageError: it could not be written.
        """
        if name in self._computed:
            raise ValueError(f"'{name}' is already in this run; names are used once")
        self._computed.add(name)
        path = self._path("once", f"{name}.safetensors")
        if self.device.agree(path is not None and path.exists()):
            assert path is not None
            return _unpacked(_read_tensors(path))  # type: ignore[return-value]
        torch.manual_seed(derive(self.seed, name, "once", self.device.rank))
        made = make()
        held = made if isinstance(made, dict) else {_ALONE: made}
        held = {k: v.detach().cpu().contiguous() for k, v in held.items()}
        if path is not None and self.device.first:
            with atomic(path) as temporary:
                temporary.write_bytes(to_safetensors(held))  # save_file() hides a full disk
        self.device.barrier()
        return _unpacked(held)  # type: ignore[return-value]

    def apply(self, fn: Callable[[Tensor], Tensor], data: ImageSet) -> Tensor:
        """The outputs of a function for all images, without gradients: [n, ...] in main memory."""
        return evaluate.apply(fn, data, self.device)

    def new_net(
        self, data: ImageSet, arch: str | None = None, *, n_features: int | None = None
    ) -> Classifier:
        """A fresh classifier for these images.

        Args:
            data: gives channels, size and classes.
            arch: its name; None: the run's, or one that suits the image size.
            n_features: width of the penultimate layer, where it must be a certain one.

        Raises:
            ConfigError: there is no such network for these images.
            DataError: they are not square, and the network takes squares only.
        """
        channels, height, width = data.shape
        classes = len(data.classes)
        if data.encoded:
            if arch is not None:
                raise ConfigError(
                    f"this method builds networks of its own (here '{arch}'), which see pixels; a"
                    " frozen encoder leaves only a last layer to train. Use another method, or do"
                    " without frozen"
                )
            return LastLayer(channels, classes)
        size = max(height, width)
        if self.start is not None and arch is None:
            spec = self.start.spec
            net = build(
                spec["arch"], channels=channels, size=size, n_classes=classes, norm=spec["norm"]
            )
            net.encoder.load_state_dict(self.start.encoder.state_dict())
        else:
            arch = arch or self.arch or default_arch(channels, size)
            net = build(
                arch, channels=channels, size=size, n_classes=classes, n_features=n_features
            )
        check_takes(net, data)
        return net

    def publish(self, name: str, net: Classifier, role: str = "") -> None:
        """Offer a classifier beside the result: it is measured, shown and saved."""
        self.branches[name] = Branch(net, role)

    def keep(self, name: str, vae: PairedVAE) -> None:
        """Have a network that is not a classifier saved beside the result, for pictures."""
        self.kept[name] = vae

    def show_pairs(self, guessed_by: str | None) -> None:
        """Have the report show the similarities of test images, by who shares class and bias.

        Args:
            guessed_by: the branch whose answers stood for bias labels in training, if one did; they
                stand for them in the report, too, where the data has none.
        """
        self.pairs = Pairs(guessed_by)

    def tell(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Offer what a section of the report is made of, in main memory."""
        self.told[name] = tensors

    def warn(self, sentence: str) -> None:
        """Tell the reader of the report something that matters."""
        self.warnings.append(sentence)

    def _path(self, *parts: str) -> Path | None:
        return self.folder.joinpath(*parts) if self.folder else None

    def _loader(
        self, stage: str, data: ImageSet, plan: Plan, weights: Tensor | None,
        at_least: tuple[Tensor, int] | None,
    ) -> Loader:  # fmt: skip
        return Loader(
            data,
            batch_size=plan.batch_size,
            key=(self.seed, stage),
            augment=plan.augment,
            views=plan.views,
            drop_last=plan.drop_last,
            weights=weights,
            at_least=at_least,
            device=self.device.device,
            rank=self.device.rank,
            world=self.device.world,
        )

    def _watch(
        self, learner: L, plan: Plan, watch: Callable[[L], float] | None
    ) -> Callable[[], float] | None:
        rule = plan.select
        if rule == "last":
            if plan.stop is not None or isinstance(plan.schedule, Plateau):
                raise ConfigError(
                    "plan.stop and a plateau schedule need something to watch; set plan.select to"
                    " a rule other than 'last', e.g. 'val_loss'"
                )
            return None
        if watch is not None and rule == "val_loss":
            return lambda: watch(learner)
        judge = self.judge
        if judge is None:
            raise ConfigError(f"this run has no data to choose by {rule}; use plan.select = 'last'")
        judge.check(rule)
        predict: Predict = next(iter(learner.branches().values()))
        return lambda: judge.value(rule, predict)

    def _note(
        self, recorder: Recorder, stage: str, learner: Learner, figures: Mapping[str, float]
    ) -> None:
        """Note the chosen epoch where the recorder passed over it: rules must find it there."""
        row = recorder.row(next(iter(learner.branches().values())))
        if all(r["stage"] != stage or r.get(KEY) != row[KEY] for r in self.log.rows):
            self.log.add(stage, int(figures["steps"]), epoch=int(figures["best_epoch"]), **row)

    def _monitor(
        self, learner: Learner, plan: Plan
    ) -> Callable[[int], list[dict[str, Any]]] | None:
        monitor, recorder, branches = self.monitor, self.recorder, learner.branches()
        if not branches or (monitor is None and recorder is None):
            return None
        first = next(iter(branches.values()))

        def rows(epoch: int) -> list[dict[str, Any]]:
            seen = [] if monitor is None else monitor.rows(branches)
            if recorder is not None and recorder.due(epoch, plan.epochs):
                seen.append(recorder.row(first))
            return seen

        return rows


@torch.no_grad()
def check_takes(net: Classifier, data: ImageSet) -> None:
    """Refuse images that are not square where a network fails on one of them.

    Raises:
        DataError: it does.
    """
    _, height, width = data.shape
    if height == width:
        return
    try:
        net.eval().features(torch.zeros(1, *data.shape, dtype=torch.uint8))
    except (AssertionError, RuntimeError, ValueError):
        raise DataError(
            f"'{net.spec['arch']}' takes square images; these have {height} x {width} pixels. Crop"
            " or resize them first, or use a network that takes others, e.g. resnet20"
        ) from None
    net.train()


_ALONE = "(alone)"
"""The name under which a tensor is kept that is not in a dictionary."""


def _unpacked(held: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    return held[_ALONE] if set(held) == {_ALONE} else held


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove it, and it is computed again"
        ) from error


def claim(
    folder: Path,
    asked: Mapping[str, Any],
    notes: Mapping[str, Any],
    *,
    runs: Sequence[str] = (),
    fresh: bool,
) -> None:
    """Make a folder the home of one run, or check that it already is this run's.

    A folder in which no work has begun, since its run was refused, is free for other settings. One
    that holds work of another kind (a training, an audit) is refused, fresh or not.

    Args:
        folder: where the run is kept.
        asked: what the run is: suite, method, all settings, seed. The run's fingerprint.
        notes: what else is worth writing down (versions); not compared.
        runs: names of the folders below it that runs keep their stages in.
        fresh: remove what another or an earlier run left there.

    Raises:
        ConfigError: what says which run the folder holds cannot be read.
        RunMismatch: the folder holds a run with another fingerprint, and it has begun.
    """
    path = folder / "run.toml"
    try:
        held = read_toml(path).get("asked", {}) if path.exists() else {}
    except ConfigError as error:
        raise ConfigError(
            f"{error}. It says what {folder} holds: put it back, or use another folder"
        ) from None
    if held and _kind(held) != _kind(asked) and _begun(folder):
        raise RunMismatch(
            f"{folder} holds {_kind(held)}, and this is {_kind(asked)}: use another folder"
        )
    if path.exists() and not fresh:
        before, now = _flat(held), _flat(asked)
        changed = [
            f"{name} {before.get(name, 'not set')} (now {now.get(name, 'not set')})"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changed and _begun(folder):
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise RunMismatch(
                f"{folder} was made with other settings: {', '.join(changed[:4])}{more}. Use"
                " another folder, or --fresh to start over"
            )
        if not changed:
            return
    for run in runs:
        for part in ("stages", "once"):
            shutil.rmtree(folder / run / part, ignore_errors=True)
        (folder / run / "log.jsonl").unlink(missing_ok=True)
    text = tomli_w.dumps({"asked": _nested(_flat(asked)), "notes": _nested(_flat(notes))})
    write_text(path, text)


_KINDS = {
    "method": "a training",
    "cues": "an audit",
    "discover": "directions that were found",
    "refine": "directions that were refined",
    "encode": "measures of directions",
    "model": "pictures of a model",
}
"""What asks for each of these."""


def _kind(asked: Mapping[str, Any]) -> str:
    return next((kind for key, kind in _KINDS.items() if key in asked), "another run")


def _begun(folder: Path) -> bool:
    """Whether there is more than run file and lock: any other file, or a stage under way."""
    return any(
        path.name == "stages" or path.is_file()
        for path in folder.rglob("*")
        if path != folder / "run.toml" and path.name != LOCK
    )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split(".")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted name, as TOML gives them back; TOML has no None, so those are left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{above}.{name}" if above else name
        if isinstance(value, Mapping):
            flat |= _flat(value, full)
        elif value is not None:
            flat[full] = list(value) if isinstance(value, tuple) else value
    return flat
