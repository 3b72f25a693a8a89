"""Figures: small SVG files, the same bytes for the same numbers.

They carry numbers and fixed words only. Names that a user chose stand in the page around them,
where they are escaped, wrap on small screens and need no font of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from truecue.report.svg import svg
from truecue.report.view import Measure, Side, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEFORE, AFTER = "#8b94a3", "#0b62a8"
SPLITS = {"train": "training images", "val": "validation images", "test": "test images"}
ROLES = {"biased": "#c2500f", "debiased": "#0b62a8"}
OTHERS = ("#12785a", "#7a4a9c", "#5b6472", "#a67c00")
BARS = ("conflicting", "aligned", "worst_group", "unbiased", "average")
POINTS = 200
"""Points of one line that are drawn at most."""


class Line(NamedTuple):
    """One entry of a panel's legend."""

    name: str
    colour: str


class Panel(NamedTuple):
    """A figure with what is written around it."""

    title: str
    note: str
    source: str
    """A data address that holds the whole SVG."""
    alt: str
    lines: list[Line]
    grouped: bool
    """Whether dashed and solid lines stand for aligned and conflicting images."""


def bars(models: Sequence[Side]) -> str | None:
    """Accuracy before and after with whiskers; None where nothing is known."""
    known = [n for n in BARS if any(side.measure(n).value is not None for side in models)]
    if known == ["average"]:
        known += ["worst_class"]
    if not models or not known:
        return None
    colours = (BEFORE, AFTER)[-len(models) :]

    def draw(axes: Axes) -> None:
        height = 0.8 / len(models)
        for k, (side, colour) in enumerate(zip(models, colours, strict=True)):
            for place, name in enumerate(known):
                y = place + (k - (len(models) - 1) / 2) * height
                bar(axes, y, height, side.measure(name), colour)
        axes.set(xlim=(0, 115), ylim=(len(known) - 0.5, -0.5))
        axes.set_xticks(range(0, 101, 25), [f"{x} %" for x in range(0, 101, 25)])
        axes.set_yticks(range(len(known)), [name.replace("_", "\n") for name in known])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    return svg(4.8, 0.35 + 0.3 * len(known) * (1 + len(models)) / 1.5, draw, left=0.85, bottom=0.3)


def bar(axes: Axes, y: float, height: float, found: Measure, colour: str) -> None:
    """A bar of a share in %, with its interval and its number; a dash where it is not known."""
    if found.value is None:
        axes.text(1.5, y, "–", va="center", fontsize=9)
        return
    axes.barh(y, 100 * found.value, height * 0.9, color=colour)
    end = found.value
    if found.low is not None and found.high is not None:
        axes.hlines(y, 100 * found.low, 100 * found.high, color="#1c2430", linewidth=1.2)
        for x in (found.low, found.high):
            axes.vlines(100 * x, y - height / 5, y + height / 5, color="#1c2430", linewidth=1.2)
        end = max(end, found.high)
    axes.text(100 * end + 1.5, y, percent(found.value), va="center", fontsize=9)


def curves(side: Side) -> list[Panel]:
    """One panel for each stage of training and kind of images: accuracy of every branch."""
    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for point in side.model.get("curves") or []:
        key = str(point.get("stage") or "training"), str(point.get("split") or "train")
        panels.setdefault(key, []).append(point)
    roles = {k: (b or {}).get("role") for k, b in (side.model.get("branches") or {}).items()}
    # one row for each kind of images, so that stages stand below themselves
    splits = list(dict.fromkeys(split for _, split in panels))
    keys = sorted(panels, key=lambda key: splits.index(key[1]))
    return [_panel(*key, panels[key], roles) for key in keys]


def _panel(
    stage: str, split: str, points: list[Mapping[str, Any]], roles: Mapping[str, str | None]
) -> Panel:
    branches = list(dict.fromkeys(str(p.get("branch") or "model") for p in points))
    spare = iter(OTHERS * len(branches))
    colours = {b: ROLES.get(roles.get(b) or "") or next(spare) for b in branches}
    grouped = any(p.get("conflicting") is not None for p in points)
    kinds = {"aligned": "--", "conflicting": "-"} if grouped else {"average": "-"}

    def draw(axes: Axes) -> None:
        for branch in branches:
            mine = [p for p in points if str(p.get("branch") or "model") == branch]
            for kind, dashes in kinds.items():
                _line(axes, mine, kind, 100.0, color=colours[branch], linestyle=dashes)
        axes.set(ylim=(-3, 103), xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.set_yticks(range(0, 101, 25), [f"{y} %" for y in range(0, 101, 25)])
        axes.grid(axis="y")

    lines = [Line(_with_role(b, roles.get(b)), colours[b]) for b in branches]
    what = "aligned and conflicting images" if grouped else "all images"
    alt = f"Accuracy by epoch on {what}, stage {stage}, branches {', '.join(branches)}"
    note = f"measured on {SPLITS.get(split, split)}"
    return Panel(f"Stage “{stage}”", note, svg(3.15, 2.2, draw), alt, lines, grouped)


def losses(side: Side) -> list[Panel]:
    """One panel for each stage of training: the loss."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for point in side.model.get("losses") or []:
        stages.setdefault(str(point.get("stage") or "training"), []).append(point)

    def panel(stage: str, points: list[Mapping[str, Any]]) -> Panel:
        def draw(axes: Axes) -> None:
            _line(axes, points, "loss", 1.0, color=AFTER, linestyle="-")
            axes.set(xlabel="epoch", ylabel="loss")
            axes.locator_params(axis="x", integer=True)
            axes.grid(axis="y")

        alt = f"Training loss by epoch, stage {stage}"
        return Panel(f"Stage “{stage}”", "training loss", svg(3.15, 2.0, draw), alt, [], False)

    return [panel(*item) for item in stages.items()]


def _line(
    axes: Axes, points: list[Mapping[str, Any]], kind: str, factor: float, **style: Any
) -> None:
    known = [p for p in points if p.get(kind) is not None and p.get("epoch") is not None]
    known = known[:: -(-len(known) // POINTS) or 1]
    marker = "o" if len(known) <= 12 else None
    values = [factor * p[kind] for p in known]
    axes.plot([p["epoch"] for p in known], values, marker=marker, markersize=3, **style)


def _with_role(branch: str, role: str | None) -> str:
    return f"{branch} ({role})" if role and role != branch else branch
