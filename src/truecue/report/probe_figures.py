"""Figures about classifiers along directions: logits over steps, travel, scores, heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from truecue.report.rank_figures import COLOURS
from truecue.report.svg import beside, svg, svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

LINES = 5
"""Classes with a colour of their own; the others are grey."""
_GREY = "#c9ced6"
_FIELD = 0.36
"""Side of a heat map's field, in inches."""


def logits(
    steps: Sequence[float], mean: Tensor, spread: Tensor, coloured: Sequence[int],
    names: Sequence[str] = (),
) -> bytes:  # fmt: skip
    """Logits over steps, a line for each class, as an SVG file's content.

    Args:
        steps: m.
        mean: float [m, c].
        spread: float [m, c], half of the band's width; only coloured lines have a band.
        coloured: classes that get a colour, at most five.
        names: of the coloured classes, for a legend beside the lines; left out: no legend.
    """
    room = beside(names) if names else 0.15

    def draw(axes: Axes) -> None:
        for c in range(mean.shape[1]):
            if c not in coloured:
                axes.plot(steps, mean[:, c].tolist(), color=_GREY, linewidth=1)
        for place, c in enumerate(coloured):
            line, width = mean[:, c], spread[:, c]
            low, high = (line - width).tolist(), (line + width).tolist()
            axes.fill_between(steps, low, high, color=COLOURS[place], alpha=0.15, linewidth=0)
            label = names[place] if names else None
            axes.plot(steps, line.tolist(), color=COLOURS[place], label=label)
        axes.set(xlabel="step", ylabel="logit", xlim=(steps[0], steps[-1]))
        axes.grid(axis="y")
        if names:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.05))

    return svg_file(3.25 + room, 2.4, draw, right=room)


def travels(
    names: Sequence[str], values: Sequence[float], band: tuple[float, float],
    flagged: Sequence[bool],
) -> str:  # fmt: skip
    """A bar for each direction, what random ones do in grey behind them, as a data address.

    Args:
        names: of the bars, from above.
        values: their lengths; nan for none.
        band: between these lie 95 % of random directions.
        flagged: coloured bars.
    """

    def draw(axes: Axes) -> None:
        axes.axvspan(*band, color="#e9ecf0", zorder=0)
        for i, value in enumerate(values):
            if not math.isnan(value):
                axes.barh(i, value, 0.5, color=COLOURS[1] if flagged[i] else "#8b94a3", zorder=2)
        axes.axvline(0, color="#8b94a3", linewidth=0.8)
        axes.set_yticks(range(len(names)), list(names))
        axes.set(ylim=(len(names) - 0.4, -0.6),
                 xlabel="way of the logits per way of the image")  # fmt: skip
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    left = 0.3 + 0.075 * max(map(len, names))
    return svg(5.6, 0.6 + 0.26 * len(names), draw, left=left)


def histograms(edges: Tensor, real: Tensor, generated: Tensor) -> str:
    """Shares [bins] of real and of generated images by their score, as a data address."""

    def draw(axes: Axes) -> None:
        places = edges.tolist()
        for shares, colour in ((generated, "#8b94a3"), (real, COLOURS[0])):
            axes.stairs([100 * s for s in shares.tolist()], places, color=colour, fill=True,
                        alpha=0.45)  # fmt: skip
        axes.set(xlabel="score", ylabel="% of images", xlim=(places[0], places[-1]))
        axes.grid(axis="y")

    return svg(3.4, 2.4, draw)


def rescoring(
    tables: Mapping[str, Sequence[Sequence[float]]], names: Mapping[str, Sequence[str]],
    attributes: Sequence[str],
) -> bytes:  # fmt: skip
    """Heat maps side by side: change of each attribute's probability, as an SVG file's content.

    Args:
        tables: for each title k rows of a numbers in [0, 1].
        names: of the rows.
        attributes: of the columns.
    """
    wide, high = len(attributes), max(map(len, names.values()))
    letter = 0.075 / _FIELD
    left = 0.4 + letter * max(len(name) for each in names.values() for name in each)
    longest = letter * max(map(len, attributes))
    turned = _long(attributes)
    above, after = (0.3 + 0.75 * longest, 0.75 * longest) if turned else (0.8, 0.0)
    across = left + wide + max(after, 0.3)
    top = above + (0.8 if len(tables) > 1 else 0)

    def draw(axes: Axes) -> None:
        for i, (title, rows) in enumerate(tables.items()):
            start = left + i * across
            axes.text(start + wide / 2, -above - 0.02, title if len(tables) > 1 else "",
                      ha="center", va="bottom", color="#1c2430")  # fmt: skip
            axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="equal",
                        extent=(start, start + wide, len(rows), 0))  # fmt: skip
            for r, row in enumerate(rows):
                axes.text(start - 0.15, r + 0.5, names[title][r], ha="right", va="center",
                          color="#4a5362")  # fmt: skip
                for c, value in enumerate(row):
                    ink = "white" if value > 0.55 else "#1c2430"
                    axes.text(start + c + 0.5, r + 0.5, f"{value:.2f}", ha="center", va="center",
                              fontsize=7, color=ink)  # fmt: skip
            for c, attribute in enumerate(attributes):
                axes.text(start + c + 0.5, -0.15, attribute, ha="left" if turned else "center",
                          va="bottom", rotation=45 if turned else 0, rotation_mode="anchor",
                          color="#4a5362")  # fmt: skip
        axes.set(xlim=(0, across * len(tables)), ylim=(high, -top))
        axes.axis("off")

    width, height = _FIELD * across * len(tables) + 0.1, _FIELD * (high + top) + 0.1
    return svg_file(width, height, draw, left=0.05, bottom=0.05, right=0.05, top=0.05)


def _long(names: Sequence[str]) -> bool:
    return max(map(len, names), default=0) > 3
