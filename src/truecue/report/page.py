"""The page: everything a template needs, computed beforehand, and the template filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from truecue.report import facts, figures, pairs, steps, tables, view, words
from truecue.report.bias import shortcut
from truecue.report.lowrank_view import lowrank_view
from truecue.report.pictures import Picture, tiles
from truecue.report.view import Measure, Side

if TYPE_CHECKING:
    from jinja2 import Environment

    from truecue.audit.shown import BiasPictures

TEMPLATES = Path(__file__).parent / "templates"
PANEL, GAP = 330, 26
"""Pixels that a panel takes with the gap beside it, and the gap; `report.css` has the same."""
KINDS = (
    "examples", "examples_aligned", "examples_conflicting", "before_wrong", "suspects", "highest",
)  # fmt: skip


class Card(NamedTuple):
    """One of the big numbers, before and after."""

    title: str
    values: list[tuple[str, str, str]]
    """For each model its name, the number and the interval."""
    change: str


class Training(NamedTuple):
    """What is shown of the training of one model."""

    title: str
    panels: list[figures.Panel]
    width: int
    """Pixels on the page: room for as many panels in a row as there are stages."""
    branches: list[tuple[str, ...]]
    """Name, role, and accuracy on aligned, conflicting and all test images."""
    losses: list[figures.Panel]
    stages: list[tuple[str, ...]]


def render(
    report: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    bias: BiasPictures | None = None,
) -> str:
    """The whole page as HTML.

    Args:
        report: plain values, as read from JSON.
        pictures: images by kind.
        bias: pictures of the bias that a model learned.
    """
    template = environment().get_template("report.html.j2")
    return template.render(**context(report, pictures), shortcut=shortcut(bias))


def environment() -> Environment:
    """How templates are filled in: whatever a value holds, it is text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def context(report: Mapping[str, Any], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """The values that the template uses."""
    task = report.get("task") or {}
    models, bias = view.shown(report), view.known_bias(report)
    trainings = [t for t in map(training, models) if t.panels or t.branches or t.stages]
    return {
        "data": task.get("data"),
        "created": facts.moment(report.get("created")),
        "bias": bias,
        "subject": task.get("bias") or "shortcut",
        "models": [side.short for side in models],
        "verdict": words.verdict(report),
        "share": facts.aligned_share(task),
        "cards": cards(models, bias),
        "pictures": {key: tiles(key, pictures[key]) if key in pictures else [] for key in KINDS},
        "matrices": tables.matrices(report),
        "has_aligned": bool(task.get("aligned")),
        "left_out": tables.left_out(models),
        "worst": tables.worst_groups(report),
        "bars": figures.bars(models),
        "metrics": tables.metric_rows(report),
        "validation": tables.metric_rows(report, "val"),
        "trainings": trainings,
        "grouped": any(panel.grouped for t in trainings for panel in t.panels),
        "suspects": suspects(report),
        "pairs": pairs.section(report),
        "lowrank": lowrank_view(report),
        "steps": steps.next_steps(report),
        "facts": facts.common(report),
        "model_facts": facts.by_model(models),
        "settings": [(f"{s.title}: settings", facts.pairs(s.model.get("settings"))) for s in models]
        + [("Data: settings", facts.pairs(task.get("settings")))],
        "cells": facts.train_cells(task),
        "warnings": facts.warnings(report, models),
        "notes": [str(note) for note in task.get("notes") or []],
    }


def cards(models: list[Side], bias: str | None) -> list[Card]:
    """The two or three numbers that matter most, of those that are known."""
    titles = {"average": "All test images", "worst_class": "The hardest class"}
    if bias is not None:
        titles = {
            "conflicting": f"Images whose {bias} does not match",
            "worst_group": "The worst group",
            "unbiased": "Average over all groups",
        }
    made = []
    for name, title in titles.items():
        found = [side.measure(name) for side in models]
        if any(m.value is not None for m in found):
            pairs = zip(models, found, strict=True)
            values = [(s.short, view.percent(m.value), view.interval(m)) for s, m in pairs]
            made.append(Card(title, values, _change(found)))
    return made


def _change(found: list[Measure]) -> str:
    if len(found) < 2 or view.difference(*found) is None:
        return ""
    text = f"{view.points(view.difference(*found))} points"
    if found[0].value == found[1].value:
        return "no change"
    return f"{text}, too close to call" if view.compare(*found) == "unclear" else text


def training(side: Side) -> Training:
    """Curves, branches, losses and stages of one model."""
    branches: list[tuple[str, ...]] = []
    for name, branch in (side.model.get("branches") or {}).items():
        scores = (branch or {}).get("test")
        found = [view.measure(scores, key) for key in ("aligned", "conflicting", "average")]
        low, high, all_ = (view.percent(m.value, 1) for m in found)
        branches.append((name, str((branch or {}).get("role") or ""), low, high, all_))
    stages: list[tuple[str, ...]] = [
        (
            str(stage.get("name", "")),
            view.count(stage.get("epochs")),
            view.count(stage.get("steps")),
            view.seconds(stage.get("seconds")),
            view.count(stage.get("images_per_second")),
        )
        for stage in side.model.get("stages") or []
    ]
    panels = figures.curves(side)
    stages_shown = max(1, len({panel.title for panel in panels}))
    width = max(PANEL * stages_shown, 2 * PANEL if branches else 0) - GAP
    return Training(side.title, panels, width, branches, figures.losses(side), stages)


def suspects(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where the suspected images came from and how many are what they are taken for."""
    found = report.get("suspects")
    if not found:
        return None
    strict, cells = found.get("strict"), view.aligned_counts(report.get("task") or {})
    return {
        "branches": [str(branch) for branch in found.get("branches") or []],
        "counts": {name: view.count(found.get(name)) for name in ("shown", "disagree", "of")},
        "base": view.percent(1 - cells[0] / cells[1]) if cells else None,
        "known": any(view.measure(found, k).value is not None for k in ("precision", "recall")),
        "strict": {
            "count": view.count(strict.get("disagree")),
            "surer": _surer(strict, found),
            **_found(strict),
        }
        if strict
        else None,
        **_found(found),
    }


def _surer(strict: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether the fewer suspects are the better ones, as is meant; without bias labels, assumed."""
    fewer, all_ = (view.measure(scores, "precision").value for scores in (strict, found))
    return fewer is None or all_ is None or fewer > all_


def _found(scores: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Precision and recall, each with its interval."""
    found = {name: view.measure(scores, name) for name in ("precision", "recall")}
    return {name: (view.percent(m.value), view.interval(m)) for name, m in found.items()}
