"""The heat map of re-scoring: what each direction changes, before and after refining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from truecue.errors import DataError
from truecue.report.svg import svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.42
"""Inches of a field's width; it is two thirds as high."""


def rescored_picture(
    tables: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str],
    attributes: Sequence[str],
) -> bytes:  # fmt: skip
    """Tables of directions and attributes, side by side on one blue scale, as an SVG file.

    Args:
        tables: by title (e.g. "SeFa", "SeFa + SRE"): [k][a] changes, at least 0, such as
            `Rescoring.shift`.
        names: of the k directions, which are the rows.
        attributes: names of the a columns.

    Raises:
        DataError: a table is not [k][a], or there is none.
    """
    k, a = len(names), len(attributes)
    for title, rows in tables.items():
        if [len(row) for row in rows] != [a] * k:
            raise DataError(f"the table '{title}' is not {k} directions by {a} attributes")
    if not tables or not k or not a:
        raise DataError("there is nothing to draw: no table, no direction or no attribute")
    largest = max(max(map(max, rows)) for rows in tables.values()) or 1.0

    def draw(axes: Axes) -> None:
        for i, (title, rows) in enumerate(tables.items()):
            left = i * (a + 1)
            axes.imshow(rows, vmin=0, vmax=largest, cmap="Blues", interpolation="nearest",
                        extent=(left, left + a, k, 0), aspect="auto")  # fmt: skip
            axes.text(left + a / 2, -0.25, title, ha="center", va="bottom")
            for y, row in enumerate(rows):
                for x, value in enumerate(row):
                    ink = "#fff" if value > 0.6 * largest else "#1c2430"
                    axes.text(left + x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center",
                              fontsize=7, color=ink)  # fmt: skip
        n = len(tables)
        axes.set(xlim=(0, n * (a + 1) - 1), ylim=(k, 0))
        axes.set_yticks([y + 0.5 for y in range(k)], list(names))
        axes.set_xticks([i * (a + 1) + x + 0.5 for i in range(n) for x in range(a)],
                        [*attributes] * n, rotation=60, ha="right", rotation_mode="anchor",
                        fontsize=8)  # fmt: skip
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    left = 0.2 + 0.08 * max(map(len, names))
    bottom = 0.2 + 0.07 * max(map(len, attributes))
    width = left + CELL * (len(tables) * (a + 1) - 1) + 0.15
    height = bottom + CELL * 2 / 3 * k + 0.35
    return svg_file(width, height, draw, left, bottom, top=0.35)
