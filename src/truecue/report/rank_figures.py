"""Figures about ranks and scores of biased encoders: for DeFund's section and for comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from truecue.report.figures import Line, bar
from truecue.report.svg import svg_file
from truecue.report.view import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0b62a8", "#c2500f", "#12785a", "#7a4a9c", "#a67c00", "#5b6472", "#b03060", "#2f8f9d")
KINDS = {"aligned": "#8b94a3", "conflicting": "#c2500f", "not known": "#c9ced6", "all": "#0b62a8"}
COLLAPSED = 0.97
"""Rank penalty above which an encoder has next to nothing but one feature left."""
LEAST = 1e-5
"""Share of the sum below which singular values are not drawn."""


def colour_of(k: int) -> str:
    """The colour of the k-th line."""
    return COLOURS[k % len(COLOURS)]


def spectra(rows: Sequence[Sequence[float]]) -> Any:
    """Singular values over their sum against their number, on a logarithmic scale."""

    def draw(axes: Axes) -> None:
        for k, sizes in enumerate(rows):
            kept = [size for size in sizes if size >= LEAST]
            axes.plot(range(1, len(kept) + 1), kept, color=colour_of(k))
        axes.set_yscale("log")
        axes.set(xlabel="number of the singular value", ylim=(LEAST, 1))
        axes.set_yticks([10.0**k for k in range(-5, 1)], ["0.00001", "0.0001", "0.001", "0.01",
                                                          "0.1", "1"])  # fmt: skip
        axes.minorticks_off()
        axes.grid(axis="y")

    return draw


def histogram(counts: Mapping[str, Sequence[int]], cutoff: float | None) -> Any:
    """Counts of scores from 0 to 1, kind upon kind, on a scale that shows single images."""

    def draw(axes: Axes) -> None:
        bins = len(next(iter(counts.values())))
        width = 0.9 / bins / len(counts)
        for k, (kind, row) in enumerate(counts.items()):
            places = [(b + 0.05) / bins + (k + 0.5) * width for b in range(bins)]
            axes.bar(places, row, width, color=KINDS[kind])
        if cutoff is not None:
            axes.axvline(cutoff, color="#1c2430", linewidth=1, linestyle="--")
        axes.set_yscale("symlog", linthresh=1)
        top = max(10, 2 * max(max(row) for row in counts.values()))
        ticks = [0, *(10**k for k in range(len(str(top))))]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlim=(0, 1), ylim=(0, top), xlabel="bias score", ylabel="images")
        axes.grid(axis="y")

    return draw


def precision_recall(curves: Sequence[Sequence[Sequence[float]] | None]) -> Any:
    """Precision against recall; colours go by place, so that None leaves its own unused."""

    def draw(axes: Axes) -> None:
        for k, pairs in enumerate(curves):
            if pairs:
                axes.plot([r for r, _ in pairs], [p for _, p in pairs], color=colour_of(k))
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.grid()

    return draw


def over_epochs(stages: Sequence[Sequence[Mapping[str, Any]]], key: str) -> Any:
    """One logged value of several stages over their epochs."""

    def draw(axes: Axes) -> None:
        for k, rows in enumerate(stages):
            marker = "o" if len(rows) <= 12 else None  # one epoch alone would not be seen
            axes.plot([row["epoch"] for row in rows], [row[key] for row in rows], marker=marker,
                      markersize=3, color=colour_of(k))  # fmt: skip
        if key == "rank_penalty":
            axes.axhline(COLLAPSED, color="#1c2430", linewidth=1, linestyle=":")
            axes.set_ylim(0, 1)
        axes.set(xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")

    return draw


def worth(rows: Sequence[tuple[str, Mapping[str, Measure]]]) -> Any:
    """Accuracies of several classifiers as bars, one for each kind of images."""

    def draw(axes: Axes) -> None:
        for k, (_, shares) in enumerate(rows):
            height = 0.8 / len(shares)
            for n, (kind, found) in enumerate(shares.items()):
                bar(axes, k + (n - (len(shares) - 1) / 2) * height, height, found, KINDS[kind])
        axes.set(xlim=(0, 115), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(range(0, 101, 25), [f"{x} %" for x in range(0, 101, 25)])
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    return draw


def map_file(values: Sequence[Sequence[float]]) -> bytes:
    """Absolute correlations as a heat map, the content of an SVG file; empty without features."""

    def draw(axes: Axes) -> None:
        if values:
            axes.imshow(values, vmin=0, vmax=1, cmap="Oranges", interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])

    return svg_file(2.6, 2.6, draw, 0.05, 0.05, 0.05, 0.05)


def legend(names: Sequence[str]) -> list[Line]:
    """Names with the colours of their lines."""
    return [Line(name, colour_of(k)) for k, name in enumerate(names)]
