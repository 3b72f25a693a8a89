"""Reading a report's dictionary, in which almost every part may be absent, and writing numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Change = Literal["up", "down", "unclear"]
SPACE = "\u00a0"  # between a number and its unit, so that a line never breaks there


class Measure(NamedTuple):
    """A share of images with its interval; None where it is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


class Side(NamedTuple):
    """One of the two models that a report compares."""

    name: str
    """Its name in `models`."""
    title: str
    short: str
    """The title without what stands in brackets; the whole title where both would read alike."""
    model: Mapping[str, Any]

    def measure(self, name: str, split: str = "test") -> Measure:
        """One of the numbers under `test` or `val`."""
        return measure(self.model.get(split), name)

    @property
    def cells(self) -> tuple[list[list[int]], list[list[int]]] | None:
        """Right answers and images of every group, class by bias value."""
        cells = (self.model.get("test") or {}).get("cells") or {}
        hits, total = cells.get("hits"), cells.get("total")
        return (hits, total) if hits and total else None


def measure(scores: Mapping[str, Any] | None, name: str) -> Measure:
    """One number of a table of scores; all None where it is absent."""
    found = (scores or {}).get(name) or {}
    return Measure(*(found.get(field) for field in Measure._fields))


def sides(report: Mapping[str, Any]) -> tuple[Side | None, Side | None]:
    """The models before and after; where a report names none, its last model is the one after."""
    models = report.get("models") or {}
    before, after = report.get("before"), report.get("after")
    if after not in models:
        after = next((name for name in reversed(list(models)) if name != before), None)
    pair = [_side(name, models) for name in (before, after)]
    if pair[0] and pair[1] and pair[0].short == pair[1].short:
        pair = [s and s._replace(short=s.title if s.title != s.short else s.name) for s in pair]
    return pair[0], pair[1]


def shown(report: Mapping[str, Any]) -> list[Side]:
    """The models that exist, the one before first."""
    return [side for side in sides(report) if side is not None]


def known_bias(report: Mapping[str, Any]) -> str | None:
    """The bias's name, where a model's test images say which group they belong to."""
    bias = (report.get("task") or {}).get("bias")
    names = ("conflicting", "worst_group", "unbiased")
    found = any(s.measure(name).value is not None for s in shown(report) for name in names)
    return str(bias) if bias is not None and found else None


def aligned_counts(task: Mapping[str, Any]) -> tuple[int, int] | None:
    """Aligned training images and all of them; None where it cannot be told."""
    cells, aligned = task.get("train_cells"), task.get("aligned")
    if not cells or not aligned:
        return None
    hits = sum(
        n
        for row, marks in zip(cells, aligned, strict=False)
        for n, mark in zip(row, marks, strict=False)
        if mark
    )
    total = sum(map(sum, cells))
    return (hits, total) if total else None


def _side(name: str | None, models: Mapping[str, Any]) -> Side | None:
    if name is None or name not in models:
        return None
    model = models[name] or {}
    title = str(model.get("title") or name)
    return Side(name, title, title.partition(" (")[0] or title, model)


def compare(before: Measure, after: Measure) -> Change:
    """Which way a number moved; "unclear" where the intervals overlap or one is not known."""
    if None in (before.low, before.high, after.low, after.high):
        return "unclear"
    assert before.low is not None
    assert before.high is not None
    assert after.low is not None
    assert after.high is not None
    if after.low > before.high:
        return "up"
    return "down" if after.high < before.low else "unclear"


def difference(before: Measure, after: Measure) -> float | None:
    """After minus before."""
    if before.value is None or after.value is None:
        return None
    return after.value - before.value


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage. What is not quite none or all never reads as 0 % or 100 %."""
    if value is None:
        return "–"
    text = f"{100 * value:.{digits}f}"
    if value > 0 and float(text) == 0:
        text = f"<{10**-digits:.{digits}f}"
    elif value < 1 and float(text) == 100:
        text = f">{100 - 10**-digits:.{digits}f}"
    return f"{text}{SPACE}%"


def interval(found: Measure, digits: int = 0) -> str:
    """An interval as `19–27 %`; empty where it is not known."""
    if found.low is None or found.high is None:
        return ""
    # bounds computed in floating point may miss 0 and 1 by a rounding error
    low, high = (100 * min(max(bound, 0.0), 1.0) for bound in (found.low, found.high))
    return f"{low:.{digits}f}–{high:.{digits}f}{SPACE}%"


def points(change: float | None) -> str:
    """A change in percentage points, with its sign."""
    if change is None:
        return "–"
    text = f"{100 * change:+.1f}"
    return "±0.0" if float(text) == 0 else text.replace("-", "−")


def count(number: float | None) -> str:
    """A whole number with thousands separators."""
    return "–" if number is None else f"{number:,.0f}"


def seconds(number: float | None) -> str:
    """A duration in the unit a person would use."""
    if number is None:
        return "–"
    if number < 120:
        return f"{number:.1f}{SPACE}s"
    if number < 7200:
        return f"{number / 60:.0f}{SPACE}min"
    return f"{number / 3600:.1f}{SPACE}h"


def label(names: Sequence[Any] | None, index: int) -> str:
    """The name of a class or bias value; its number where it has no name."""
    return str(names[index]) if names is not None and index < len(names) else str(index)
