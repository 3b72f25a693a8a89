"""Pictures of a bench: accuracy against bias ratio, rule against rule, methods by suites."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from truecue.bench.plan import Bench, Cell, MetricName
from truecue.bench.rules import Choice
from truecue.bench.table import Row
from truecue.report.colours import field_colours
from truecue.report.svg import svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1c2430", "#10569e", "#b24a10", "#3b7d3b", "#8a3ca8", "#b08900", "#008a9a", "#c2185b",
           "#6b7280", "#5b3a1a")  # fmt: skip
MARKS = "osD^vPX*<>"
NAMES = {
    "unbiased": "unbiased accuracy",
    "conflicting": "bias-conflicting accuracy",
    "aligned": "bias-aligned accuracy",
    "worst_group": "worst-group accuracy",
    "worst_class": "worst-class accuracy",
    "average": "average accuracy",
}


def pictures(
    bench: Bench, cells: list[Cell], rows: list[Row], choices: list[Choice], metric: MetricName
) -> dict[str, bytes]:
    """All pictures that this bench's results allow, as SVG files by name."""
    made = {
        "ratio": against_ratio(bench, cells, rows, metric),
        "rules": rule_against_rule(choices, metric),
        "heat": heat_map(bench, rows, metric),
    }
    return {name: picture for name, picture in made.items() if picture is not None}


def against_ratio(
    bench: Bench, cells: list[Cell], rows: list[Row], metric: MetricName
) -> bytes | None:
    """Accuracy against the share of conflicting training images, a line for each method.

    None unless two suites or more have the setting `conflicting` above 0.
    """
    shares = {c.suite: float(s) for c in cells if (s := getattr(c.data, "conflicting", 0))}
    if len(set(shares.values())) < 2:
        return None
    methods = [m for m in bench.methods if any(r.method == m and r.suite in shares for r in rows)]

    def draw(axes: Axes) -> None:
        for k, method in enumerate(methods):
            mine = sorted(
                (100 * shares[r.suite], r.estimate(metric)) for r in rows
                if r.method == method and r.suite in shares and r.seeds
            )  # fmt: skip
            x = [s * 1.03 ** (k - len(methods) / 2) for s, _ in mine]  # side by side
            y = [100 * e.value for _, e in mine]
            half = [0.0 if math.isnan(e.low) else 50 * (e.high - e.low) for _, e in mine]
            axes.errorbar(
                x, y, yerr=half, color=COLOURS[k % 10], marker=MARKS[k % 10], markersize=5,
                capsize=2, elinewidth=1, label=method,
            )  # fmt: skip
        ticks = sorted({100 * s for s in shares.values()})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="bias-conflicting training images, %", ylabel=f"{NAMES[metric]}, %")
        axes.grid(axis="y")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))

    return svg_file(7.2, 3.8, draw, right=1.5)


def rule_against_rule(choices: list[Choice], metric: MetricName) -> bytes | None:
    """What the other rules reach against `val_worst_group`, a point for each method and suite.

    Below the line a rule falls short. None where no result has bias labels.
    """
    best = {(c.suite, c.method): c.chosen.value for c in choices if c.rule == "val_worst_group"}
    others = [c for c in choices if c.rule != "val_worst_group" and (c.suite, c.method) in best]
    rules = list(dict.fromkeys(c.rule for c in others))
    if not others:
        return None

    def draw(axes: Axes) -> None:
        ends = [100 * v for c in others for v in (best[c.suite, c.method], c.chosen.value)
                if not math.isnan(v)]  # fmt: skip
        low, high = min(ends) - 3, max(ends) + 3
        axes.plot([low, high], [low, high], color="#b6bdc8", linewidth=1)
        for k, rule in enumerate(rules):
            points = [(100 * best[c.suite, c.method], 100 * c.chosen.value) for c in others
                      if c.rule == rule]  # fmt: skip
            x, y = zip(*points, strict=True)
            axes.scatter(
                x, y, s=26, color=COLOURS[k % 10], marker=MARKS[k % 10],
                label=rule, alpha=0.85, linewidths=0,
            )  # fmt: skip
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set(xlabel=f"{NAMES[metric]} by val_worst_group, %", ylabel="by another rule, %")
        axes.grid()
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))

    return svg_file(6.4, 4.4, draw, right=1.8)


def heat_map(bench: Bench, rows: list[Row], metric: MetricName) -> bytes | None:
    """Mean accuracy, methods down, suites across; None where there is nothing to show."""
    values: Mapping[tuple[str, str], float] = {
        (r.method, r.suite): r.estimate(metric).value for r in rows if r.seeds
    }
    methods = [m for m in bench.methods if any((m, s) in values for s in bench.suites)]
    suites = [s for s in bench.suites if any((m, s) in values for m in bench.methods)]
    if not values:
        return None
    heads = [textwrap.fill(name, 14) for name in suites]  # as wide as a field
    rows_of_head = 1 + max(head.count("\n") for head in heads)

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i, method in enumerate(methods):
            for j, suite in enumerate(suites):
                value = values.get((method, suite), math.nan)
                known = not math.isnan(value)
                fill, ink = field_colours(value) if known else ((238, 240, 243), "#4a5362")
                shade = tuple(part / 255 for part in fill)
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=shade, edgecolor="white"))
                text = f"{100 * value:.1f}" if known else "–"
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink)
        axes.set(xlim=(0, len(suites)), ylim=(len(methods), 0))
        axes.set_xticks([j + 0.5 for j in range(len(suites))], heads)
        axes.set_yticks([i + 0.5 for i in range(len(methods))], methods)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        for side in axes.spines.values():
            side.set_visible(False)

    left = 0.3 + 0.085 * max(map(len, methods))
    top = 0.18 + 0.17 * rows_of_head
    width, height = left + 0.2 + 0.95 * len(suites), top + 0.2 + 0.36 * len(methods)
    return svg_file(width, height, draw, left, 0.1, top=top)
