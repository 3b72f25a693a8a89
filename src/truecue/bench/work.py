"""One cell of a bench: load the data, fit the method, measure, and put it all into plain values."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from truecue.bench.plan import Cell, telling
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import predictions
from truecue.engine.judge import Judge
from truecue.engine.record import KEY, Recorder, candidates, packed
from truecue.fitting import Fitted, Fitting, check_augmentation, check_supervision
from truecue.nets.build import build
from truecue.report import parts
from truecue.report.report import finite


def run_cell(cell: Cell, folder: Path, device: Device, *, quiet: bool = True) -> dict[str, Any]:
    """Fit and measure.

    Args:
        cell: what to run.
        folder: of its checkpoints; called again with it, an interrupted cell goes on.
        device: where to compute.
        quiet: show no progress.

    Returns:
        The result as plain values.

    Raises:
        TruecueError: whatever cannot be done.
    """
    torch.set_num_threads(cell.threads)
    began = time.monotonic()
    data = load(cell)
    check_supervision(cell.fit, data)
    fitting = Fitting(
        data,
        seed=cell.seed,
        device=device,
        arch=cell.arch,
        pretrained=cell.pretrained,
        root=cell.root,
        quiet=quiet,
        checkpoint_seconds=60.0,
        folder=folder,
        record=cell.record,
    )
    with torch.random.fork_rng():
        fitted = fitting.fit(cell.fit, "run")
    seen = fitting.seen
    model = parts.model_part(cell.fit, fitted, seen, device)
    for name in ("curves", "losses"):  # a cell's own report has them; a table needs none
        del model[name]
    result = {
        **cell.asked(),
        **parts.circumstances(device, cell.seed, {}),
        "task": parts.task_part(data, {"data": cell.data_name, "settings": cell.data.to_dict()}),
        "model": model,
        "errors": _errors(fitted),
        "guesses": _guesses(fitted, seen, device),
        "records": _records(fitted, seen, device),
        "val": _truth(seen.val, seen.bias),
        "seconds": round(time.monotonic() - began, 2),
    }
    plain: dict[str, Any] = finite(result)
    return plain


def load(cell: Cell) -> Splits:
    """A cell's data; what a process used last is kept, since cells that follow often share it."""
    key = json.dumps([cell.data_name, cell.data.to_dict(), cell.seed, str(cell.root)], default=str)
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = cell.data.load(cell.root, seed=cell.seed)
    return _LOADED[key]


_LOADED: dict[str, Splits] = {}


def _records(fitted: Fitted, seen: Splits, device: Device) -> list[dict[str, Any]]:
    """What each rule may choose from: by epoch, predictions on validation and hits on test images.

    Without a recorder there is the delivered network alone.
    """
    recorder = Recorder(seen, device)
    rows = candidates(fitted.run.log.rows, recorder.row(fitted.net))
    return [{k: v for k, v in row.items() if k not in (KEY, "stage", "step")} for row in rows]


def _errors(fitted: Fitted) -> float | None:
    """Share of the labelled images that a biased network errs on; None where no method told."""
    told = fitted.run.told.get("errors")
    return None if told is None else float(told["errors"].double().mean())


def _guesses(fitted: Fitted, seen: Splits, device: Device) -> dict[str, str]:
    """Validation predictions of the biased and the debiased branch, where there are both."""
    val, roles = seen.val, {made.role: made.net for made in fitted.run.branches.values()}
    if val is None or not {"biased", "debiased"} <= roles.keys():
        return {}
    return {role: packed(predictions(roles[role], val, device)) for role in ("biased", "debiased")}


def _truth(val: ImageSet | None, bias: str | None) -> dict[str, str] | None:
    """Labels and bias values of the validation images."""
    if val is None:
        return None
    truth = {"y": packed(val.y)}
    if bias is not None:
        truth["bias"] = packed(val.attributes[bias].values)
    return truth


def preflight(all_cells: Sequence[Cell]) -> None:
    """Load every suite once and see whether each method gets what it needs, before any is run.

    Raises:
        ConfigError: a network is unknown or does not fit the images, augmentation is asked for with
            a frozen encoder, or a rule for choosing needs validation images that are not there.
        DataError: files are absent or cannot be used.
        SupervisionError: a method, or a rule for choosing, needs labels that a suite lacks.
    """
    by_suite: dict[str, dict[str, Cell]] = {}
    for cell in all_cells:  # settings count: a sweep may vary what needs labels
        by_suite.setdefault(cell.suite, {}).setdefault(f"{cell.method} {cell.fit!r}", cell)
    try:
        for cells in by_suite.values():
            for cell in cells.values():
                with telling(f"{cell.method} on {cell.suite}"):
                    _check(cell, load(cell))
    finally:
        _LOADED.clear()  # workers load for themselves; this process need not hold images


def _check(cell: Cell, data: Splits) -> None:
    """Refuse a cell that cannot be run.

    Raises:
        TruecueError: see `preflight`.
    """
    check_supervision(cell.fit, data)
    channels, height, width = data.train.shape
    size, plans = max(height, width), cell.fit.plans().values()
    if cell.pretrained is not None:
        cell.pretrained.load(channels, size, cell.root)
        check_augmentation(cell.fit, frozen=cell.pretrained.frozen)
    elif cell.arch is not None:
        build(cell.arch, channels=channels, size=size, n_classes=len(data.train.classes))
    judge = Judge(data, Device("cpu"), lambda: torch.empty(0))
    for plan in plans:
        judge.check(plan.select)
