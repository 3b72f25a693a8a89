"""Figures of pages, as SVG files; each is drawn once for the files that it depends on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from truecue.app.pages.bias import accuracies, fitted
from truecue.app.source import Source
from truecue.errors import DataError
from truecue.metrics.ranking import EndHits, end_sizes
from truecue.report.gaps import Repair, agreement_map, ends_scatter, gap_bars, repair_arrows
from truecue.report.ranked import accuracy_by_rank, score_histogram
from truecue.report.svg import svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _POSITIVE, _NEGATIVE = "#1c2430", "#b24a10", "#10569e"


class Plots:
    """Draws the figures of one audit.

    Args:
        source: the audit.
    """

    def __init__(self, source: Source):
        self.source = source
        self._drawn = lru_cache(256)(self._draw)

    def draw(self, name: str, split: str = "", **values: int | None) -> str:
        """A figure as the text of an SVG file.

        Args:
            name: of the figure, a method of this class.
            split: whose numbers are drawn.
            values: what else the figure needs.

        Raises:
            DataError: there is nothing to draw, or no such figure.
        """
        files = [self.source.audit.folder / name for name in ("gaps.json", "repair/repair.json")]
        stamp = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in files)
        return self._drawn(name, split, tuple(sorted(values.items())), stamp)

    def _draw(
        self,
        name: str,
        split: str,
        values: tuple[tuple[str, int | None], ...],
        _stamp: tuple[int, ...],
    ) -> str:
        made = {
            "histogram": self._histogram, "ends": self._ends, "gaps": self._gaps,
            "violins": self._violins, "robustness": self._robustness,
            "agreement": self._agreement, "pair": self._pair, "repair": self._repair,
            "curves": self._curves,
        }  # fmt: skip
        if name not in made:
            raise DataError(f"there is no figure '{name}' ({', '.join(made)})")
        text: str = made[name](split, **dict(values))  # type: ignore[operator]
        return text

    def _histogram(self, split: str, c: int, by: int | None = None) -> str:
        k = self.source.gaps()["k"]
        total = self.source.audit.page(split, c, by, count=0).total
        scores = self.source.audit.page(split, c, by, count=total).scores
        k = int(end_sizes(torch.tensor([total]), k)[0]) if total > 1 else 0
        return score_histogram(torch.from_numpy(scores.copy()), k)

    def _hits(self, split: str) -> EndHits:
        ends = self.source.ends(self.source.measured(split))
        if ends is None or not len(ends.classes):
            raise DataError("no feature has been judged spurious, so there is nothing to draw")
        return ends

    def _ends(self, split: str) -> str:
        ends = self._hits(split)
        if len(self.source.models()) == 1:  # its classes then
            low, high = ((end[0].double() / ends.k).numpy() for end in (ends.low, ends.high))
            return ends_scatter(low, high, ["a class"] * len(low))
        low, high = (np.array(v) for v in accuracies(ends))
        line = fitted(ends)
        return ends_scatter(low, high, self.source.families(),
                            line and (line.slope, line.intercept))  # fmt: skip

    def _gaps(self, split: str) -> str:
        self._hits(split)
        rows = (self.source.by_verdicts(self.source.measured(split)) or {})["classes"]
        value, low, high = (
            np.array([row["gap"][key] for row in rows]) for key in ("value", "low", "high")
        )
        limits = np.array([row["null"] for row in rows])
        band = float(np.median(limits[:, 0])), float(np.median(limits[:, 1]))
        return gap_bars([row["name"] for row in rows], value, low, high, band)

    def _violins(self, split: str) -> str:
        gaps = self._hits(split).gaps.double().numpy()
        groups = {"per class": gaps.mean(0), "per model": gaps.mean(1)}

        def draw(axes: Axes) -> None:
            for x, values in enumerate(groups.values()):
                if len(values) > 2 and np.ptp(values) > 0:
                    body = axes.violinplot(100 * values, [x], widths=0.7, showextrema=False)
                    bodies: Any = body["bodies"]
                    for part in bodies:
                        part.set(facecolor="#b9c7d8", alpha=1)
                spread = (np.arange(len(values)) % 7 - 3) * 0.02
                axes.scatter(x + spread, 100 * values, s=12, color=_INK, zorder=3)
            axes.axhline(0, color="#8b94a3", linewidth=0.8)
            names = [f"{name}\n({len(values)})" for name, values in groups.items()]
            axes.set_xticks(range(2), names)
            axes.set(xlim=(-0.6, 1.6), ylabel="mean gap, points")
            axes.grid(axis="y")

        return svg_file(3.4, 3.2, draw, bottom=0.55).decode()

    def _robustness(self, split: str) -> str:
        line, names = fitted(self._hits(split)), self.source.models()
        if line is None:
            raise DataError("effective robustness needs three models of different accuracy")
        values = (100 * line.residuals).round(decimals=6).numpy()

        def draw(axes: Axes) -> None:
            colours = [_NEGATIVE if v >= 0 else _POSITIVE for v in values]
            axes.barh(range(len(values)), values, 0.7, color=colours)
            axes.axvline(0, color="#8b94a3", linewidth=0.8)
            axes.set_yticks(range(len(values)), [name[:24] for name in names])
            most = max(1.0, 1.1 * float(np.abs(values).max()))
            axes.set(xlim=(-most, most), ylim=(len(values) - 0.4, -0.6))
            axes.set_xlabel("effective robustness, points")
            axes.grid(axis="x")

        left = 0.25 + 0.08 * max(len(name[:24]) for name in names)
        return svg_file(3.4 + left, 0.7 + 0.28 * len(names), draw, left=left).decode()

    def _agreement(self, split: str) -> str:
        from truecue.metrics.agreement import agreement

        return agreement_map(self.source.models(), agreement(self._hits(split).gaps).r.numpy())

    def _pair(self, split: str, a: int, b: int) -> str:
        gaps, names = 100 * self._hits(split).gaps, self.source.models()
        if not (0 <= a < len(names) and 0 <= b < len(names)):
            raise DataError(f"there are {len(names)} models; not {max(a, b)}")

        def draw(axes: Axes) -> None:
            low, high = float(gaps.min()) - 5, float(gaps.max()) + 5
            axes.plot([low, high], [low, high], color="#b6bdc8", linewidth=1)
            axes.axhline(0, color="#e4e7ec", linewidth=1)
            axes.axvline(0, color="#e4e7ec", linewidth=1)
            axes.scatter(gaps[a].numpy(), gaps[b].numpy(), s=22, color=_NEGATIVE)
            axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axes.set(xlabel=f"gap of {names[a][:24]}, points", ylabel=f"gap of {names[b][:24]}")

        return svg_file(3.6, 3.4, draw).decode()

    def _repair(self, split: str) -> str:
        told = self._told(split)
        before = told["before"][split]
        return repair_arrows(
            [
                Repair(
                    short,
                    (before["accuracy"]["value"], found["parts"][split]["accuracy"]["value"]),
                    (before["gap"]["value"], found["parts"][split]["gap"]["value"]),
                )
                for short, found in told["methods"].items()
            ]
        )

    def _curves(self, split: str) -> str:
        told = self._told(split)
        states = {"before": told["before"][split]}
        states |= {short: found["parts"][split] for short, found in told["methods"].items()}
        curves = {name: torch.tensor([np.nan if v is None else v for v in state["curve"]])
                  for name, state in states.items()}  # fmt: skip
        return accuracy_by_rank(curves)

    def _told(self, split: str) -> dict[str, Any]:
        """What the repair has written, with gaps that can be drawn."""
        told = self.source.repair()
        if told is None or (told["before"].get(split) or {}).get("gap", {}).get("value") is None:
            raise DataError("there is no repair with a gap on these images")
        return told
