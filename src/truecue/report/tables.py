"""Tables: heat maps of groups, exact numbers, and how everything was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from truecue.report.colours import field_style
from truecue.report.view import (
    Side,
    difference,
    interval,
    known_bias,
    label,
    percent,
    points,
    shown,
)

MOST = 40
"""Rows and columns that a heat map shows at most."""
METRICS = {
    "conflicting": "images whose {bias} does not match their class (mean over these groups)",
    "aligned": "images whose {bias} matches their class (mean over these groups)",
    "worst_group": "the group (class and {bias}) with the lowest accuracy",
    "unbiased": "all groups (mean over them, each counting the same)",
    "average": "all test images, each counting the same",
    "worst_class": "the class with the lowest accuracy",
}


class Cell(NamedTuple):
    """One field of a heat map."""

    text: str
    hint: str
    style: str
    aligned: bool


class Matrix(NamedTuple):
    """A heat map."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


class Row(NamedTuple):
    """One line of the table of exact numbers."""

    name: str
    meaning: str
    values: list[tuple[str, str]]
    """Value and interval for each model."""
    change: str
    missing: bool
    """Whether a model has no value here."""


def matrices(report: Mapping[str, Any]) -> list[Matrix]:
    """Accuracy of every group, one heat map for each model; by class alone without bias labels."""
    task = report.get("task") or {}
    models = [side for side in shown(report) if side.cells]
    if not models:
        return []
    if known_bias(report) is None:
        return [_by_class(models, task)]
    rows = _chosen_rows(models[-1])
    return [_matrix(side, task, rows) for side in models]


def left_out(models: Sequence[Side]) -> str:
    """What a heat map is too small to show; empty where it shows everything."""
    sizes = [(len(s.cells[1]), len(s.cells[1][0])) for s in models if s.cells]
    rows, columns = sizes[-1] if sizes else (0, 0)
    parts = []
    if rows > MOST:
        parts.append(f"{MOST} of {rows} classes are shown: those with the lowest group.")
    if columns > MOST:
        parts.append(f"The first {MOST} of {columns} columns are shown.")
    return " ".join(parts)


def _matrix(side: Side, task: Mapping[str, Any], rows: list[int]) -> Matrix:
    assert side.cells is not None
    hits, total = side.cells
    width = min(len(total[0]), MOST)
    names = [label(task.get("bias_values"), a) for a in range(width)]
    lines = []
    for y in rows:
        fields = [
            _cell(hits[y][a], total[y][a], _is_aligned(task.get("aligned"), y, a))
            for a in range(width)
        ]
        lines.append((label(task.get("classes"), y), fields))
    return Matrix(side.title, names, lines)


def _by_class(models: list[Side], task: Mapping[str, Any]) -> Matrix:
    lines = []
    for y in _chosen_rows(models[-1]):
        fields = []
        for side in models:
            assert side.cells is not None
            hits, total = side.cells
            fields.append(_cell(sum(hits[y]), sum(total[y]), False))
        lines.append((label(task.get("classes"), y), fields))
    return Matrix("Accuracy by class", [side.short for side in models], lines)


def _chosen_rows(side: Side) -> list[int]:
    """All classes; of very many, those with the lowest group."""
    assert side.cells is not None
    hits, total = side.cells
    if len(total) <= MOST:
        return list(range(len(total)))
    lowest = [
        min((h / n for h, n in zip(*pair, strict=True) if n), default=1.0)
        for pair in zip(hits, total, strict=True)
    ]
    return sorted(sorted(range(len(total)), key=lowest.__getitem__)[:MOST])


def _cell(hits: int, total: int, aligned: bool) -> Cell:
    if not total:
        return Cell("–", "no test images", "", aligned)
    share = hits / total
    hint = f"{hits:,} of {total:,} right"
    return Cell(f"{100 * share:.0f}", hint, field_style(share), aligned)


def _is_aligned(aligned: Sequence[Sequence[bool]] | None, y: int, a: int) -> bool:
    return bool(aligned and y < len(aligned) and a < len(aligned[y]) and aligned[y][a])


def metric_rows(report: Mapping[str, Any], split: str = "test") -> list[Row]:
    """Every number of every model; empty where no model has any."""
    models = shown(report)
    known = any(side.model.get(split) for side in models)
    bias = known_bias(report) or "bias"
    rows = []
    for name, meaning in METRICS.items() if known else ():
        found = [side.measure(name, split) for side in models]
        values = [(percent(m.value, 1), interval(m, 1)) for m in found]
        change = points(difference(*found)) if len(found) == 2 else ""
        missing = any(m.value is None for m in found)
        title, words = name.replace("_", " "), meaning.format(bias=bias)
        rows.append(Row(title, words, values, change, missing))
    return rows


def worst_groups(report: Mapping[str, Any]) -> list[str]:
    """For each model, which group is the worst one."""
    task, bias, found = report.get("task") or {}, known_bias(report), []
    for side in shown(report):
        if bias is None or not side.cells:
            continue
        hits, total = side.cells
        shares = [
            (h / n, y, a, h, n)
            for y, (right, all_) in enumerate(zip(hits, total, strict=True))
            for a, (h, n) in enumerate(zip(right, all_, strict=True))
            if n
        ]
        if shares:
            share, y, a, h, n = min(shares)
            group = f"class {label(task.get('classes'), y)}, {bias}"
            group += f" {label(task.get('bias_values'), a)}"
            found.append(f"{side.short}: {group} ({h:,} of {n:,} right, {percent(share)})")
    return found


def aligned_words(task: Mapping[str, Any]) -> str | None:
    """Which bias values count as aligned, class by class; None where that is not known."""
    aligned = task.get("aligned")
    if not aligned:
        return None
    parts = []
    for y, row in enumerate(aligned[:MOST]):
        values = [label(task.get("bias_values"), a) for a, mark in enumerate(row) if mark]
        parts.append(f"{label(task.get('classes'), y)} with {' or '.join(values) or 'none'}")
    return "; ".join(parts) + ("; …" if len(aligned) > MOST else "")
