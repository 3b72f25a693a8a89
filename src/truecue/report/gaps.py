"""Figures of spurious gaps: accuracy at the two ends, gaps by class, agreement, repair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from truecue.errors import DataError
from truecue.report.colours import field_colours
from truecue.report.svg import beside, svg_file

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_COLOURS = ("#10569e", "#b24a10", "#3b7d3b", "#8a3ca8", "#b08900", "#008a9a", "#c2185b", "#6b7280")
_MARKS = "osD^vPX*"
_POSITIVE, _NEGATIVE, _INK = "#b24a10", "#10569e", "#1c2430"
MOST_BARS = 40
"""Classes with a bar, at most: of more, those with the largest and the smallest gaps."""


class Repair(NamedTuple):
    """A model before and after it was repaired."""

    name: str
    accuracy: tuple[float, float]
    """On all images, before and after, in [0, 1]."""
    gap: tuple[float, float]
    """Spurious gap before and after, in [-1, 1]."""


def ends_scatter(
    acc_low: NDArray[np.float64],
    acc_high: NDArray[np.float64],
    families: Sequence[str],
    fit: tuple[float, float] | None = None,
) -> str:
    """Models by their accuracy at the two ends, with equality and a fitted line.

    Args:
        acc_low: float [models] in [0, 1], at the low end.
        acc_high: float [models] in [0, 1], at the high end.
        families: for each model what it is coloured by.
        fit: slope and intercept of acc_low on acc_high; None leaves the line out.

    Returns:
        The text of an SVG file.

    Raises:
        DataError: the lengths differ or there is no model.
    """
    _same("models", acc_low, acc_high, families)
    names = list(dict.fromkeys(families))

    def draw(axes: Axes) -> None:
        both = [100 * float(v) for v in (*acc_low, *acc_high) if not math.isnan(v)]
        low, high = max(0.0, min(both, default=0) - 4), min(100.0, max(both, default=100) + 4)
        axes.plot([low, high], [low, high], color="#b6bdc8", linewidth=1, label="equal")
        if fit is not None:
            line = [fit[0] * x + 100 * fit[1] for x in (low, high)]
            axes.plot([low, high], line, color=_INK, linewidth=1, linestyle="--", label="fitted")
        for k, name in enumerate(names):
            own = [i for i, family in enumerate(families) if family == name]
            axes.scatter(
                [100 * acc_high[i] for i in own], [100 * acc_low[i] for i in own], s=26,
                color=_COLOURS[k % 8], marker=_MARKS[k % 8], label=name, linewidths=0,
            )  # fmt: skip
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set(xlabel="accuracy, most spurious, %", ylabel="accuracy, least spurious, %")
        axes.grid()
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))

    right = beside(["equal", "fitted", *names])
    return svg_file(3.9 + right, 3.8, draw, right=right).decode()


def gap_bars(
    names: Sequence[str],
    gaps: NDArray[np.float64],
    low: NDArray[np.float64] | None = None,
    high: NDArray[np.float64] | None = None,
    null: tuple[float, float] | None = None,
) -> str:
    """The spurious gap of each class, largest first, coloured by its sign.

    Args:
        names: of the classes.
        gaps: float [classes] in [-1, 1]; classes with nan, which have no gap, are left out.
        low: lower ends of the intervals.
        high: upper ends of the intervals.
        null: the band in which 95 % of the gaps of one class lie when its images are ranked at
            random; None leaves it out.

    Returns:
        The text of an SVG file.

    Raises:
        DataError: the lengths differ, or no class has a gap.
    """
    ends = [end for end in (low, high) if end is not None]
    _same("classes", names, gaps, *ends)
    order = sorted(
        (i for i in range(len(names)) if not math.isnan(gaps[i])), key=lambda i: -gaps[i]
    )
    if not order:
        raise DataError("no class has a spurious gap: none has a spurious feature")
    if len(order) > MOST_BARS:
        order = order[: MOST_BARS // 2] + order[-MOST_BARS // 2 :]

    def draw(axes: Axes) -> None:
        if null is not None:
            axes.axvspan(100 * null[0], 100 * null[1], color="#e4e7ec", linewidth=0)
        for y, i in enumerate(order):
            gap = float(gaps[i])
            hatch = "" if gap >= 0 else "////"
            colour = _POSITIVE if gap >= 0 else _NEGATIVE
            axes.barh(y, 100 * gap, 0.72, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            if low is not None and high is not None and not math.isnan(low[i] + high[i]):
                axes.hlines(y, 100 * low[i], 100 * high[i], color=_INK, linewidth=1.2)
                for x in (low[i], high[i]):
                    axes.vlines(100 * x, y - 0.18, y + 0.18, color=_INK, linewidth=1.2)
        axes.axvline(0, color="#8b94a3", linewidth=0.8)
        axes.set_yticks(range(len(order)), [_short(names[i]) for i in order])
        axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="spurious gap, points")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    left = 0.25 + 0.08 * max(len(_short(names[i])) for i in order)
    return svg_file(3.8 + left, 0.7 + 0.23 * len(order), draw, left=left).decode()


def agreement_map(names: Sequence[str], r: NDArray[np.float64]) -> str:
    """Correlation of class gaps between models: blue where they agree, orange where they do not.

    Args:
        names: of the models.
        r: float [models, models] in [-1, 1]; nan is shown as a dash.

    Returns:
        The text of an SVG file.

    Raises:
        DataError: the table is not square, or does not fit the names.
    """
    if r.shape != (len(names), len(names)) or not len(names):
        raise DataError(f"there are {len(names)} models and a table of {list(r.shape)}")
    m, heads = len(names), [_short(name) for name in names]

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i in range(m):
            for j in range(m):
                value = float(r[i, j])
                known = not math.isnan(value)
                fill, ink = (
                    field_colours((value + 1) / 2) if known else ((238, 240, 243), "#4a5362")
                )
                shade = tuple(part / 255 for part in fill)
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=shade, edgecolor="white"))
                if m <= 12:
                    text = f"{value:.2f}" if known else "–"
                    axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink)
        axes.set(xlim=(0, m), ylim=(m, 0))
        axes.set_xticks(
            [j + 0.5 for j in range(m)], heads, rotation=45, ha="left", rotation_mode="anchor"
        )
        axes.set_yticks([i + 0.5 for i in range(m)], heads)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        for side in axes.spines.values():
            side.set_visible(False)

    longest = max(map(len, heads))
    margin, cell = 0.25 + 0.08 * longest, 0.5 if m <= 12 else 0.2
    slanted = 0.25 + 0.06 * longest
    width, height = margin + slanted + cell * m, slanted + 0.1 + cell * m
    return svg_file(width, height, draw, margin, 0.1, right=slanted, top=slanted).decode()


def repair_arrows(repairs: Sequence[Repair]) -> str:
    """Accuracy and spurious gap before and after repairs, an arrow for each.

    Args:
        repairs: one for each arrow.

    Returns:
        The text of an SVG file.

    Raises:
        DataError: there is none.
    """
    if not repairs:
        raise DataError("there is no repair to draw")

    def draw(axes: Axes) -> None:
        for k, repair in enumerate(repairs):
            x, y = ([100 * v for v in pair] for pair in (repair.accuracy, repair.gap))
            colour = _COLOURS[k % 8]
            axes.annotate(
                "", (x[1], y[1]), (x[0], y[0]),
                arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.6},
            )  # fmt: skip
            axes.scatter(x[:1], y[:1], s=30, facecolors="white", edgecolors=colour, zorder=3)
            axes.scatter(
                x[1:], y[1:], s=30, color=colour, marker=_MARKS[k % 8], label=repair.name, zorder=3
            )
        axes.axhline(0, color="#8b94a3", linewidth=0.8)
        axes.set(xlabel="accuracy on all images, %", ylabel="spurious gap, points")
        axes.margins(0.12)
        axes.grid()
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))

    right = beside([repair.name for repair in repairs])
    return svg_file(3.8 + right, 3.2, draw, right=right).decode()


def _same(what: str, *columns: Sequence[object] | NDArray[np.float64]) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise DataError(f"numbers of {what} differ or are 0: {', '.join(map(str, lengths))}")


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
