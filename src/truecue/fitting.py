"""Fitting methods to data: what each may see, what its networks begin with, who watches."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import predictions
from truecue.engine.features import encoded
from truecue.engine.judge import Judge, Monitor
from truecue.engine.plan import Constant, Plan, Plateau
from truecue.engine.record import Recorder
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, SupervisionError
from truecue.methods.base import Method, Uses
from truecue.methods.lff import LfF
from truecue.nets.classifier import Classifier
from truecue.nets.pretrained import Pretrained, joined

REFERENCE = "reference"
"""The run whose two networks guess groups for the rule `val_pseudo_group`."""


class Fitted(NamedTuple):
    """What fitting a method gives."""

    net: Classifier
    """Takes what the method saw: images, or features of a frozen encoder."""
    run: Run
    seconds: float


class Fitting:
    """One data set, one seed, one way to begin: methods are fitted to it one after the other.

    Args:
        data: the splits, with all attributes; a method sees only those that it declares.
        seed: of initialisation, order and augmentation.
        device: where to compute.
        arch: architecture of networks that a method does not choose itself; None: by image size.
        pretrained: weights to begin with, in place of `arch`.
        root: where a relative file name of weights is looked for.
        folder: below it each run gets a folder of its own; None keeps nothing.
        quiet: show no progress.
        checkpoint_seconds: time between checkpoints.
        record: epochs of a stage that a recorder notes; 0: none.
    """

    def __init__(
        self,
        data: Splits,
        *,
        seed: int,
        device: Device,
        arch: str | None = None,
        pretrained: Pretrained | None = None,
        root: Path | None = None,
        folder: Path | None = None,
        quiet: bool = True,
        checkpoint_seconds: float = 300.0,
        record: int = 0,
    ):
        self._seed, self._device, self._arch, self._folder = seed, device, arch, folder
        self._quiet, self._checkpoint_seconds = quiet, checkpoint_seconds
        channels, height, width = data.train.shape
        size = max(height, width)
        self.start = None if pretrained is None else pretrained.load(channels, size, root)
        self.frozen = pretrained is not None and pretrained.frozen
        self.seen = data
        """The data as methods get it: with features for pixels where the encoder is frozen."""
        if self.start is not None and self.frozen:
            self.seen = encoded(data, self.start, device, quiet=quiet)
        self.recorder = Recorder(self.seen, device, record) if record else None

    def fit(self, method: Method, name: str, arch: str | None = None) -> Fitted:
        """Fit a method, or read back or finish what an earlier call began.

        Args:
            method: with its settings.
            name: of the run's folder.
            arch: architecture, in place of the one that this was made with.

        Raises:
            ConfigError: augmentation is asked for, and there are features instead of pixels; or a
                rule for choosing needs validation images that are not there.
            SupervisionError: a rule needs bias labels that are not there.
            TruecueError: whatever else the method cannot do.
        """
        plans = method.plans()
        check_augmentation(method, frozen=self.frozen)
        guessing = any(plan.select == "val_pseudo_group" for plan in plans.values())
        judge = Judge(
            self.seen, self._device, (lambda: self._guessed(method.plan)) if guessing else None
        )
        for plan in plans.values():  # now, and not when an earlier stage has been trained
            if plan.select != "val_loss":  # a method may watch a loss of its own
                judge.check(plan.select)
        run = Run(
            self._folder / name if self._folder else None,
            self._seed,
            self._device,
            arch=arch or self._arch,
            judge=judge,
            monitor=Monitor(self.seen, self._device),
            recorder=self.recorder,
            start=None if self.frozen else self.start,
            quiet=self._quiet,
            checkpoint_seconds=self._checkpoint_seconds,
        )
        begin = time.monotonic()
        net = method.fit(blind(self.seen, method.supervision()), run)
        # a resumed run counts what was spent before, too
        spent = max(time.monotonic() - begin, sum(s["seconds"] for s in run.stages.values()))
        return Fitted(net, run, spent)

    def whole(self, net: Classifier) -> Classifier:
        """A fitted network as one that takes images."""
        return joined(self.start, net) if self.start is not None and self.frozen else net

    def _guessed(self, plan: Plan) -> torch.Tensor:
        """On which validation images LfF's two networks, trained by the same plan, disagree."""
        val = self.seen.val
        assert val is not None  # by `Judge.check`
        with torch.random.fork_rng():
            run = self.fit(LfF(plan=plainly(plan)), REFERENCE).run
        says = {made.role: predictions(made.net, val, self._device) for made in
                run.branches.values()}  # fmt: skip
        return says["biased"] != says["debiased"]


def plainly(plan: Plan) -> Plan:
    """A plan without what plain training has no use for."""
    plain = plan.model_copy(
        update={"views": 1, "turns": (), "optimizer_of": {}, "select": "last", "stop": None}
    )
    if isinstance(plain.schedule, Plateau):  # which needs something to watch
        plain = plain.model_copy(update={"schedule": Constant()})
    return plain


def check_augmentation(method: Method, *, frozen: bool) -> None:
    """Refuse augmentation where features are computed once.

    Raises:
        ConfigError: the encoder is frozen, and a plan of the method augments.
    """
    if frozen and any(plan.augment for plan in method.plans().values()):
        raise ConfigError(
            "a frozen encoder's features are computed once, from the images as they are; set"
            " plan.augment to [], or do without frozen"
        )


def check_supervision(method: Method, data: Splits) -> None:
    """Refuse a method that needs labels which the data lacks.

    Raises:
        SupervisionError: it does; the message names the methods that do without.
        DataError: a split lacks the attribute that is said to mislead.
    """
    from truecue.methods import METHODS

    for name, images in data.parts().items():
        if data.bias is not None and data.bias not in images.attributes:
            raise DataError(
                f"the {name} images have no attribute '{data.bias}', which is said to mislead:"
                " give it to all splits, with -1 where it is not known"
            )
    needs = {Uses.TRAIN_ATTRIBUTES: data.train, Uses.VAL_ATTRIBUTES: data.val}
    for use, part in needs.items():
        if use in method.supervision() and (part is None or data.bias is None):
            without = ", ".join(name for name, m in METHODS.items() if not m.uses)
            instead = f", or set {method.instead}" if method.instead else ""
            raise SupervisionError(
                f"{type(method).__name__} needs {use.words()}, and this data has none; use a method"
                f" that does without ({without}){instead}"
            )


def blind(data: Splits, uses: Uses) -> Splits:
    """The splits as a method with these declarations sees them."""
    train = data.train if Uses.TRAIN_ATTRIBUTES in uses else data.train.blind()
    val = data.val
    if val is not None and Uses.VAL_ATTRIBUTES not in uses:
        val = val.blind()
    bias = data.bias if uses != Uses.LABELS else None
    aligned = data.aligned if bias else None
    return replace(data, train=train, val=val, test=data.test.blind(), bias=bias, aligned=aligned,
                   notes=())  # fmt: skip
