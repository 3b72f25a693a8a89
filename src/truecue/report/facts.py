"""How it was measured: labels, rules, sizes, machine, settings, and what to be careful about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from truecue.report import tables, view
from truecue.report.view import Side

RULES = {
    "last": "last: the weights after the last step; nothing was chosen",
    "val_loss": "val_loss: lowest loss on validation images (no bias labels)",
    "val_worst_class": "val_worst_class: best worst class on validation images (no bias labels)",
    "val_pseudo_group": "val_pseudo_group: best worst group on validation images, groups guessed"
    " without bias labels",
    "val_worst_group": "val_worst_group: best worst group on validation images (bias labels used)",
    "oracle_test": "oracle_test: best on the TEST images",
}
ORACLE = (
    "The model was chosen by its accuracy on the test images (oracle_test). Its numbers are too"
    " good; they serve only to compare with published code that does the same."
)
INTERVALS = (
    "95 % intervals for one training run, from the number of test images alone: Wilson for a share"
    " of images, MOVER (from each group's Wilson limits) for a mean over groups; the worst group's"
    " and worst class's are not corrected for picking the lowest. They say how much a number would"
    " change with other test images, not with another seed."
)


class Fact(NamedTuple):
    """One line of a table of facts."""

    name: str
    values: list[str]


class Counts(NamedTuple):
    """Training images of every group."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


def common(report: Mapping[str, Any]) -> list[Fact]:
    """What holds for all models; what is not known is left out."""
    task = report.get("task") or {}
    sizes = ", ".join(f"{k} {view.count(n)}" for k, n in (task.get("sizes") or {}).items())
    versions = ", ".join(f"{k} {v}" for k, v in (report.get("versions") or {}).items())
    seed = report.get("seed")
    bias = task.get("bias")
    groups = f"every pairing of class and {bias}" if bias else "not known: no bias labels"
    aligned = tables.aligned_words(task)
    found: dict[str, Any] = {
        "Command": report.get("command"),
        "Made": moment(report.get("created")),
        "Data": task.get("data"),
        "Images": sizes,
        "Labels used in training": _labels(report).get("training"),
        "Labels used for choosing": _labels(report).get("choosing"),
        "Selection rule": _rule(report.get("selection")),
        "Seeds": None if seed is None else f"{seed} (one run)",
        "Intervals": report.get("intervals") or INTERVALS,
        "Groups": groups,
        "Aligned": aligned and f"class {aligned}; every other pairing is conflicting",
        "Test images": None
        if report.get("kind") == "evaluate"  # what a model was trained on is not known here
        else "used once, after training; never to train or to stop",
        "Time in all": view.seconds(report.get("seconds")),
        "Device": report.get("device"),
        "Precision": report.get("precision"),
        "Versions": ", ".join(
            filter(None, (f"truecue {report.get('truecue') or '?'}", versions)),
        ),
    }
    if any(_rule_name(report, model) == "oracle_test" for model in _models(report)):
        found["Test images"] = "used to choose the model as well (oracle_test)"
    return [Fact(name, [str(value)]) for name, value in found.items() if value not in (None, "")]


def by_model(models: list[Side]) -> list[Fact]:
    """What differs between models."""
    rows: dict[str, list[Any]] = {
        "Method": [side.model.get("method") for side in models],
        "Network": [side.model.get("arch") for side in models],
        "Parameters": [view.count(side.model.get("parameters")) for side in models],
        "Labels used in training": [_labels(side.model).get("training") for side in models],
        "Labels used for choosing": [_labels(side.model).get("choosing") for side in models],
        "Selection rule": [_rule(side.model.get("selection")) for side in models],
        "Training time": [view.seconds(side.model.get("seconds")) for side in models],
        "Training images per second": [
            view.count(side.model.get("images_per_second")) for side in models
        ],
    }
    return [Fact(name, [str(v or "–") for v in values]) for name, values in rows.items()]


def warnings(report: Mapping[str, Any], models: list[Side]) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = [str(text) for text in report.get("warnings") or []]
    for side in models:
        found += [f"{side.short}: {text}" for text in side.model.get("warnings") or []]
    if any(_rule_name(report, model) == "oracle_test" for model in _models(report)):
        found.append(ORACLE)
    return found


def pairs(settings: Mapping[str, Any] | None, above: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and values."""
    found: list[tuple[str, str]] = []
    for name, value in (settings or {}).items():
        if isinstance(value, Mapping):
            found += pairs(value, f"{above}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((f"{above}{name}", text))
    return found


def train_cells(task: Mapping[str, Any]) -> Counts | None:
    """How many training images every group has."""
    cells = task.get("train_cells")
    if not cells or not cells[0]:
        return None
    columns = [view.label(task.get("bias_values"), a) for a in range(len(cells[0]))]
    rows = [
        (view.label(task.get("classes"), y), [view.count(n) for n in row])
        for y, row in enumerate(cells)
    ]
    return Counts(columns, rows)


def aligned_share(task: Mapping[str, Any]) -> str | None:
    """How many training images are aligned, in words; None where it cannot be told."""
    found = view.aligned_counts(task)
    if found is None:
        return None
    hits, total = found
    share = view.percent(hits / total)
    return f"{view.count(hits)} of the {view.count(total)} training images ({share})"


def moment(text: str | None) -> str:
    """A date and time in ISO form as a person would write it."""
    return (text or "").replace("T", " ").replace("+00:00", " UTC")


def _models(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [model or {} for model in (report.get("models") or {}).values()]


def _labels(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return part.get("labels_used") or {}


def _rule_name(report: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    return model.get("selection") or report.get("selection")


def _rule(name: str | None) -> str | None:
    return None if name is None else RULES.get(name, name)
