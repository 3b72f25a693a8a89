"""One run from start to report: hide what the method may not see, fit, measure, write it down."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import count, predictions
from truecue.engine.judge import Judge, Monitor, aligned_mask
from truecue.engine.plan import Constant, Plan, Plateau
from truecue.engine.run import Run, claim
from truecue.errors import DataError, SupervisionError
from truecue.methods.base import Method, Uses
from truecue.methods.erm import ERM
from truecue.metrics.groups import class_accuracy
from truecue.metrics.intervals import Estimate
from truecue.metrics.summary import summarise
from truecue.nets.classifier import Classifier, save_classifier
from truecue.report.report import write_report
from truecue.report.show import example_pictures, suspects

__all__ = ["Trained", "evaluate", "train"]


@dataclass(frozen=True)
class Trained:
    """What `train` gives back."""

    net: Classifier
    """From uint8 images to logits, on the CPU, in evaluation mode."""
    report: dict[str, Any]
    """What `report.json` holds."""
    others: Mapping[str, Classifier] = field(default_factory=dict)
    """The baseline and the branches, by name."""


def train(
    method: Method,
    data: Splits,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    arch: str | None = None,
    baseline: bool = True,
    device: Device | None = None,
    fresh: bool = False,
    quiet: bool = True,
    facts: Mapping[str, Any] | None = None,
    checkpoint_seconds: float = 300.0,
) -> Trained:
    """Train a classifier by a method, measure it, and write the model and the report.

    Interrupted and started again with the same arguments, it goes on where it was. Torch's own
    random state is left as it was.

    Args:
        method: with its settings.
        data: the splits, with all attributes; the method sees only those that it declares.
        out: folder for everything that is kept; None keeps nothing.
        seed: of initialisation, order and augmentation.
        arch: architecture of the network that is delivered; None: by the method and image size.
        baseline: also train the same network plainly, with the same plan, as the "before".
        device: where to compute; None: the best there is.
        fresh: start over where `out` holds an earlier run.
        quiet: show no progress.
        facts: what is known of where the data comes from, for the report: `data` (its name),
            `settings`, `command`.
        checkpoint_seconds: time between checkpoints.

    Raises:
        RunMismatch: `out` holds a run with other settings.
        SupervisionError: the method needs attributes that the data does not have.
        TruecueError: anything else that the user can mend.
    """
    began = time.monotonic()
    facts = dict(facts or {})
    device = device or Device()
    folder = None if out is None else Path(out)
    _check_supervision(method, data)
    if folder is not None and device.first:
        asked = {
            "data": facts.get("data"),
            "data_settings": facts.get("settings"),
            "method": type(method).__name__.lower(),
            "settings": method.to_dict(),
            "seed": seed,
            "arch": arch,
            "baseline": baseline,
            "precision": device.precision,
            "images": _digest(data),
        }
        runs = (method_name(method), "erm")
        claim(folder, asked, {"versions": _versions()}, runs=runs, fresh=fresh)
    device.barrier()
    judge, monitor = Judge(data, device), Monitor(data, device)
    blind = _blind(data, method.supervision())

    def fit(one: Method, name: str, arch: str | None) -> tuple[Classifier, Run, float]:
        run = Run(
            folder / name if folder else None,
            seed,
            device,
            arch=arch,
            judge=judge,
            monitor=monitor,
            quiet=quiet,
            checkpoint_seconds=checkpoint_seconds,
        )
        start = time.monotonic()
        net = one.fit(blind, run)
        # a resumed run counts what was spent before, too
        spent = max(time.monotonic() - start, sum(s["seconds"] for s in run.stages.values()))
        return net, run, spent

    with torch.random.fork_rng():
        name = method_name(method)
        net, run, seconds = fit(method, name, arch)
        models = {name: _model(method, net, run, seconds, data, device)}
        nets = {name: net} | {f"{name}-{b}": made.net for b, made in run.branches.items()}
        before = None
        if baseline and not isinstance(method, ERM):
            plain = ERM(plan=_plainly(method.plan))
            net0, run0, seconds0 = fit(plain, "erm", net.spec["arch"])
            models = {"erm": _model(plain, net0, run0, seconds0, data, device)} | models
            before, nets["erm"] = "erm", net0

    report = {
        "format": 1,
        "kind": "train",
        **_circumstances(device, seed, facts),
        "task": _task(data, facts),
        "labels_used": method.labels_used(),
        "selection": method.selection(),
        "before": before,
        "after": name,
        "models": models,
        "seconds": round(time.monotonic() - began, 2),
    }
    pictures = example_pictures(data, aligned_mask(data), nets, before, name, device)
    found, sheet = suspects(data, aligned_mask(data), run.branches, name, device)
    report |= {"suspects": found} if found else {}
    pictures |= {"suspects": sheet} if sheet else {}
    nets = {key: value.cpu().eval() for key, value in nets.items()}
    if folder is not None and device.first:
        for key, value in nets.items():
            path = folder / ("model.safetensors" if key == name else f"{key}.safetensors")
            extra = {"classes": list(data.train.classes), "method": key, "seed": seed}
            save_classifier(value, path, extra | {"data": facts.get("data")})
        write_report(report, pictures, folder)
    device.barrier()
    return Trained(nets.pop(name), report, nets)


def evaluate(
    net: Classifier,
    data: Splits,
    *,
    name: str = "model",
    device: Device | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a classifier on the validation and test images.

    Args:
        net: from uint8 images to logits.
        data: the splits.
        name: what to call the model in the report.
        device: where to compute; None: the best there is.
        facts: see `train`.

    Returns:
        A report like that of `train`, with one model.

    Raises:
        DataError: the model's classes or image channels are not those of the data.
    """
    began = time.monotonic()
    device = device or Device()
    known = net.spec.get("extra", {}).get("classes")
    if known is not None and tuple(known) != data.test.classes:
        raise DataError(
            f"the model knows the classes {', '.join(known)}; the data has"
            f" {', '.join(data.test.classes)}. Give the data that it was trained for"
        )
    if net.n_classes != len(data.test.classes) or net.channels != data.test.shape[0]:
        raise DataError(
            f"the model takes {net.channels} channels and tells {net.n_classes} classes apart; the"
            f" data has {data.test.shape[0]} channels and {len(data.test.classes)} classes"
        )
    size = net.spec.get("size")
    if size is not None and size != max(data.test.shape[1:]):
        raise DataError(
            f"the model was trained on images of {size} pixels; these have"
            f" {max(data.test.shape[1:])}. For your own images set data.size={size}"
        )
    net = net.to(device.device)
    model = {"arch": net.spec.get("arch"), "parameters": _size(net), **_measures(net, data, device)}
    return {
        "format": 1,
        "kind": "evaluate",
        **_circumstances(device, None, dict(facts or {})),
        "task": _task(data, dict(facts or {})),
        "before": None,
        "after": name,
        "models": {name: model},
        "seconds": round(time.monotonic() - began, 2),
    }


def _plainly(plan: Plan) -> Plan:
    """A plan without what plain training has no use for."""
    plain = plan.model_copy(
        update={"views": 1, "turns": (), "optimizer_of": {}, "select": "last", "stop": None}
    )
    if isinstance(plain.schedule, Plateau):  # which needs something to watch
        plain = plain.model_copy(update={"schedule": Constant()})
    return plain


def _digest(data: Splits) -> str:
    """A short text that tells these splits from others: all labels, and some of the images."""
    digest = hashlib.blake2b(digest_size=8)
    for name, part in data.parts().items():
        digest.update(f"{name} {part.classes} {len(part)} {part.shape}".encode())
        digest.update(part.y.numpy().tobytes())
        for key, attribute in sorted(part.attributes.items()):
            digest.update(f"{key} {attribute.names}".encode())
            digest.update(attribute.values.numpy().tobytes())
        some = torch.arange(0, len(part), max(1, len(part) // 64))
        digest.update(part.images[some].numpy().tobytes())
    return digest.hexdigest()


def method_name(method: Method) -> str:
    """The name by which the command line knows a method."""
    return type(method).__name__.lower()


def _check_supervision(method: Method, data: Splits) -> None:
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
            raise SupervisionError(
                f"{type(method).__name__} needs {use.words()}, and this data has none; use a method"
                f" that does without ({without})"
            )


def _blind(data: Splits, uses: Uses) -> Splits:
    """The splits as a method with these declarations sees them."""
    train = data.train if Uses.TRAIN_ATTRIBUTES in uses else data.train.blind()
    val = data.val
    if val is not None and Uses.VAL_ATTRIBUTES not in uses:
        val = val.blind()
    bias = data.bias if uses != Uses.LABELS else None
    return Splits(train, val, data.test.blind(), bias=bias, aligned=data.aligned if bias else None)


def _measures(net: Classifier, data: Splits, device: Device) -> dict[str, Any]:
    """The metrics of a network on validation and test images."""
    mask = aligned_mask(data)
    return {
        split: measure(net, part, data.bias, mask, device)
        for split, part in data.parts().items()
        if split != "train"
    }


def measure(
    net: Classifier, part: ImageSet, bias: str | None, mask: torch.Tensor | None, device: Device
) -> dict[str, Any]:
    """All group metrics of a network on one set of images, with intervals, as plain values.

    Without a bias attribute, what depends on it is null.
    """
    counts = count(predictions(net, part, device), part, bias)
    shown = mask if mask is not None else torch.ones_like(counts.total, dtype=torch.bool)
    values = summarise(counts, shown)
    if mask is None:
        nothing = Estimate(float("nan"), float("nan"), float("nan"), 0)
        values |= dict.fromkeys(("unbiased", "aligned", "conflicting", "worst_group"), nothing)
    cells = {"hits": counts.hits.tolist(), "total": counts.total.tolist()}
    return {key: value.to_dict() for key, value in values.items()} | {"cells": cells}


def _model(
    method: Method, net: Classifier, run: Run, seconds: float, data: Splits, device: Device
) -> dict[str, Any]:
    """A model's part of the report."""
    curves = [row for row in run.log.rows if "branch" in row]
    losses = [
        {"stage": row["stage"], "epoch": row["at"], "loss": row["loss"]}
        for row in run.log.rows
        if "loss" in row
    ]
    mask = aligned_mask(data)
    branches = {
        key: {"role": made.role, "test": measure(made.net, data.test, data.bias, mask, device)}
        for key, made in run.branches.items()
    }
    _warn_of_lost_classes(net, run, data, device)
    main = max(run.stages.values(), key=lambda s: s["seconds"], default={})
    return {
        "method": method_name(method),
        "title": method.title,
        "settings": method.to_dict(),
        "arch": net.spec["arch"],
        "parameters": _size(net),
        "labels_used": method.labels_used(),
        "selection": method.selection(),
        "seconds": round(seconds, 2),
        "images_per_second": main.get("images_per_second"),
        **_measures(net, data, device),
        "branches": branches,
        "curves": curves,
        "losses": losses[:: max(1, len(losses) // 400)],
        "stages": [{"name": key} | figures for key, figures in run.stages.items()],
        "warnings": run.warnings,
    }


LOST = 0.2
"""A class of whose training images fewer than this share are named right counts as lost."""


def _warn_of_lost_classes(net: Classifier, run: Run, data: Splits, device: Device) -> None:
    """Say so where the delivered network has all but given up a class; class labels only."""
    train = data.train
    recall = class_accuracy(count(predictions(net, train, device), train, None))
    lost = [
        f"{name} ({share:.0%} of its training images right)"
        for name, share in zip(train.classes, recall.tolist(), strict=True)
        if share < LOST
    ]
    if lost:
        run.warn(
            f"The network has lost {'a class' if len(lost) == 1 else 'classes'}: {', '.join(lost)}."
            " Averages hide this. Try another seed, more epochs or another learning rate."
        )


def _size(net: Classifier) -> int:
    return sum(p.numel() for p in net.parameters())


def _task(data: Splits, facts: Mapping[str, Any]) -> dict[str, Any]:
    mask, bias = aligned_mask(data), data.bias
    cells = None if bias is None else count(data.train.y, data.train, bias).total.tolist()
    return {
        "data": facts.get("data"),
        "settings": facts.get("settings", {}),
        "classes": list(data.train.classes),
        "shape": list(data.train.shape),
        "bias": bias,
        "bias_values": list(data.train.attributes[bias].names) if bias else None,
        "aligned": None if mask is None else mask.tolist(),
        "sizes": {name: len(part) for name, part in data.parts().items()},
        "train_cells": cells,
        "notes": list(data.notes),
    }


def _circumstances(device: Device, seed: int | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "truecue": importlib.metadata.version("truecue"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": facts.get("command"),
        "seed": seed,
        "device": device.describe(),
        "threads": torch.get_num_threads(),
        "precision": device.precision,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import platform

    names = ("torch", "numpy", "lightning-fabric")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}
