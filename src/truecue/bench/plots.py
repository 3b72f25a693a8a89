"""Pictures of a bench: against the bias ratio, rule against rule, methods by suites, a sweep."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from truecue.bench.plan import Bench, Cell, MetricName, Published
from truecue.bench.rules import Choice
from truecue.bench.sweep import Trial
from truecue.bench.table import Row
from truecue.report.colours import field_colours
from truecue.report.svg import beside, svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1c2430", "#10569e", "#b24a10", "#3b7d3b", "#8a3ca8", "#b08900", "#008a9a", "#c2185b",
           "#6b7280", "#5b3a1a")  # fmt: skip
MARKS = "osD^vPX*<>"
HOLLOW = "oshD^v"
"""Marks of published figures, one for each paper."""
NAMES = {
    "unbiased": "unbiased accuracy",
    "conflicting": "bias-conflicting accuracy",
    "aligned": "bias-aligned accuracy",
    "worst_group": "worst-group accuracy",
    "worst_class": "worst-class accuracy",
    "average": "average accuracy",
}


def pictures(
    bench: Bench, cells: list[Cell], rows: list[Row], choices: list[Choice], metric: MetricName,
    trials: Sequence[Trial] = (),
) -> dict[str, bytes]:  # fmt: skip
    """All pictures that this bench's results allow, as SVG files by name."""
    made = {
        "ratio": against_ratio(bench, cells, rows, metric),
        "rules": rule_against_rule(choices, metric),
        "heat": heat_map(bench, rows, metric),
        "sweep": sweep_map(bench, trials, metric),
    }
    return {name: picture for name, picture in made.items() if picture is not None}


def against_ratio(
    bench: Bench, cells: list[Cell], rows: list[Row], metric: MetricName
) -> bytes | None:
    """Accuracy against the share of conflicting training images, a line for each method.

    Published figures of this metric are hollow marks in the colours of their methods. None unless
    two suites or more have the setting `conflicting` above 0.
    """
    shares = {c.suite: float(s) for c in cells if (s := getattr(c.data, "conflicting", 0))}
    known = {r.method for r in rows if r.suite in shares and r.seeds}
    methods = [m for m in bench.methods if m in known]
    if len(set(shares.values())) < 2 or not methods:
        return None
    papers = {_source(p): p.values for p in bench.published if p.metric == metric}

    def draw(axes: Axes) -> None:
        for k, method in enumerate(methods):
            aside = 1.03 ** (k - len(methods) / 2)  # side by side
            mine = sorted(
                (100 * shares[r.suite], r.estimate(metric)) for r in rows
                if r.method == method and r.suite in shares and r.seeds
            )  # fmt: skip
            x = [s * aside for s, _ in mine]
            y = [100 * e.value for _, e in mine]
            half = [0.0 if math.isnan(e.low) else 50 * (e.high - e.low) for _, e in mine]
            axes.errorbar(
                x, y, yerr=half, color=COLOURS[k % 10], marker=MARKS[k % 10], markersize=5,
                capsize=2, elinewidth=1, label=method,
            )  # fmt: skip
            for n, values in enumerate(papers.values()):
                theirs = [
                    (100 * shares[suite] * aside, value)
                    for suite, value in values.get(method, {}).items()
                    if suite in shares
                ]
                axes.scatter(
                    [x for x, _ in theirs], [y for _, y in theirs], s=26, marker=HOLLOW[n % 6],
                    facecolors="none", edgecolors=COLOURS[k % 10], linewidths=1,
                )  # fmt: skip
        for n, source in enumerate(papers):
            axes.scatter(
                [], [], s=26, marker=HOLLOW[n % 6], facecolors="none", edgecolors="#1c2430",
                linewidths=1, label=source,
            )  # fmt: skip
        ticks = sorted({100 * s for s in shares.values()})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="bias-conflicting training images, %", ylabel=f"{NAMES[metric]}, %")
        axes.grid(axis="y")
        drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        names = [*methods, *papers]
        axes.legend([drawn[name] for name in names], names, frameon=False, loc="center left",
                    bbox_to_anchor=(1.02, 0.5))  # fmt: skip

    right = max(1.5, beside([line for name in (*methods, *papers) for line in name.split("\n")]))
    return svg_file(5.7 + right, 3.8 + 0.3 * len(papers), draw, right=right)


def _source(paper: Published) -> str:
    """A paper in a legend."""
    mark = " (not comparable)" if paper.differs else ""
    return textwrap.fill(f"published: {paper.source}{mark}", 24)


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
    shown = [[values.get((m, s), math.nan) for s in suites] for m in methods]
    return _fields(methods, suites, shown, said=f"{NAMES[metric]}, %")


def sweep_map(bench: Bench, trials: Sequence[Trial], metric: MetricName) -> bytes | None:
    """Test accuracy of a sweep's trials over two settings; framed: what the sweep's rule prefers.

    Where a method draws errors of a biased network more often, their share of its training images
    is below. None unless the sweep is over lists of values of two settings, and has a result.
    """
    sweep, best = bench.sweep, next((t for t in trials if not math.isnan(t.value)), None)
    if sweep is None or best is None or not all(space.choice for space in sweep.space.values()):
        return None
    varied = [name for name, space in sweep.space.items() if len(space.choice) > 1]
    if len(varied) != 2:
        return None
    down, across = varied
    rows, columns = sweep.space[down].choice, sweep.space[across].choice
    # the best first: drawn twice, a place keeps its better trial
    by_place = {(str(t.settings[down]), str(t.settings[across])): t for t in reversed(trials)}
    found = [[by_place.get((str(i), str(j))) for j in columns] for i in rows]
    values = [[math.nan if t is None else t.test.value for t in line] for line in found]
    below = [["" if t is None or math.isnan(t.errors) else f"|E|/N {100 * t.errors:.3g} %"
              for t in line] for line in found]  # fmt: skip
    framed = next((i, j) for i, line in enumerate(found) for j, t in enumerate(line) if t is best)
    return _fields(
        [f"{down} {value}" for value in rows], [f"{across} {value}" for value in columns], values,
        below, framed, f"{NAMES[metric]}, %; framed: best by {sweep.rule}",
    )  # fmt: skip


def _fields(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]],
    below: Sequence[Sequence[str]] = (), framed: tuple[int, int] | None = None, said: str = "",
) -> bytes:  # fmt: skip
    """A table of coloured fields, with shares as percentages.

    Args:
        rows: names, downwards.
        columns: names, from left to right.
        values: [rows][columns], shares, or nan.
        below: [rows][columns], small print in the fields; empty: none.
        framed: the field that stands out.
        said: a line below the table.
    """
    heads = [textwrap.fill(name, 14) for name in columns]  # as wide as a field
    rows_of_head = 1 + max(head.count("\n") for head in heads)

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i, line in enumerate(values):
            for j, value in enumerate(line):
                known, small = not math.isnan(value), below[i][j] if below else ""
                fill, ink = field_colours(value) if known else ((238, 240, 243), "#4a5362")
                shade = tuple(part / 255 for part in fill)
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=shade, edgecolor="white"))
                text = f"{100 * value:.1f}" if known else "–"
                middle = i + (0.35 if small else 0.5)
                axes.text(j + 0.5, middle, text, ha="center", va="center", color=ink)
                axes.text(j + 0.5, i + 0.75, small, ha="center", va="center", color=ink, size=7)
        if framed is not None:
            i, j = framed
            axes.add_patch(Rectangle((j + 0.02, i + 0.03), 0.96, 0.94, fill=False, linewidth=2,
                                     edgecolor="#1c2430"))  # fmt: skip
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.set_xticks([j + 0.5 for j in range(len(columns))], heads)
        axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.text(0, len(rows) + 0.15, said, va="top", color="#4a5362", size=8)
        for side in axes.spines.values():
            side.set_visible(False)

    left, side = 0.3 + 0.085 * max(map(len, rows)), 0.5 if below else 0.36
    top, bottom = 0.18 + 0.17 * rows_of_head, 0.35 if said else 0.1
    width = left + 0.2 + max(0.95 * len(columns), 0.06 * len(said))
    height = top + 0.1 + bottom + side * len(rows)
    right = width - left - 0.95 * len(columns) if said else 0.15
    return svg_file(width, height, draw, left, bottom, right, top=top)
