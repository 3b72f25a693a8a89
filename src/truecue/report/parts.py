"""The parts of a report as plain values: what was measured of which network, and how."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import count, predictions
from truecue.engine.judge import aligned_mask
from truecue.engine.log import by_epoch
from truecue.engine.run import Run
from truecue.fitting import Fitted
from truecue.methods.base import Method, method_name
from truecue.metrics.groups import class_accuracy
from truecue.metrics.intervals import Estimate
from truecue.metrics.summary import summarise
from truecue.nets.classifier import Classifier


def measures(net: Classifier, data: Splits, device: Device) -> dict[str, Any]:
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

    Without a bias attribute, what depends on it is null. Images whose bias is not known belong to
    no group, and count where no group is asked for.
    """
    pred = predictions(net, part, device)
    counts, classes = count(pred, part, bias), count(pred, part, None)
    shown = mask if mask is not None else torch.ones_like(counts.total, dtype=torch.bool)
    values = summarise(counts, shown)
    whole = summarise(classes, torch.ones_like(classes.total, dtype=torch.bool))
    values |= {key: whole[key] for key in ("average", "worst_class")}
    if mask is None:
        nothing = Estimate(float("nan"), float("nan"), float("nan"), 0)
        values |= dict.fromkeys(("unbiased", "aligned", "conflicting", "worst_group"), nothing)
    cells = {"hits": counts.hits.tolist(), "total": counts.total.tolist()}
    return {key: value.to_dict() for key, value in values.items()} | {"cells": cells}


def model_part(method: Method, fitted: Fitted, data: Splits, device: Device) -> dict[str, Any]:
    """A model's part of the report.

    Args:
        method: by which it was fitted.
        fitted: the network and its run.
        data: the splits as the network takes them.
        device: where to compute.
    """
    net, run, seconds = fitted
    curves = [row for row in run.log.rows if "branch" in row]
    losses = [
        {"stage": row["stage"], "epoch": row["epoch"], "loss": round(row["loss"], 6)}
        for row in by_epoch(run.log.rows, ["loss"])
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
        "parameters": size_of(net),
        "labels_used": method.labels_used(),
        "selection": method.selection(),
        "seconds": round(seconds, 2),
        "images_per_second": main.get("images_per_second"),
        **measures(net, data, device),
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


def size_of(net: Classifier) -> int:
    """The number of a network's parameters."""
    return sum(p.numel() for p in net.parameters())


def task_part(data: Splits, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The task's part of the report: classes, bias, sizes and what was said of the data."""
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


def circumstances(device: Device, seed: int | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """When, where and with what a report was made."""
    return {
        "truecue": importlib.metadata.version("truecue"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": facts.get("command"),
        "seed": seed,
        "device": device.describe(),
        "threads": torch.get_num_threads(),
        "precision": device.precision,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    import platform

    names = ("torch", "numpy", "lightning-fabric")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}
