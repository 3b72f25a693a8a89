"""Draw docs/images/margin.svg, what the margin ε asks for: `python docs/margin_picture.py`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from truecue.atomic import atomic
from truecue.report.svg import svg_file

PICTURE = Path(__file__).parent / "images" / "margin.svg"
POSITIVE, NEGATIVE, INK = "#0b62a8", "#c2500f", "#1c2430"
NEAR, MARGIN = 1.0, 0.55
"""Distance of the farther positive, and what negatives must keep beyond it."""
POSITIVES = ((0.55, 70), (NEAR, 205))
NEGATIVES = ((1.95, 20), (1.85, 130), (2.0, 290), (1.25, 335))


def draw(axes: Any) -> None:
    """An anchor, positives, and negatives of which one is within the margin."""
    from matplotlib.patches import Circle, Wedge

    axes.add_patch(Wedge((0, 0), NEAR + MARGIN, 0, 360, width=MARGIN, color="#f6e6c8"))
    axes.add_patch(Circle((0, 0), NEAR, fill=False, edgecolor=POSITIVE, linestyle="--"))
    axes.add_patch(Circle((0, 0), NEAR + MARGIN, fill=False, edgecolor=NEGATIVE, linestyle="--"))
    axes.plot(0, 0, "o", color=INK, markersize=8)
    axes.text(0.1, -0.05, "anchor", va="top", color=INK)
    for places, colour, marker in ((POSITIVES, POSITIVE, "o"), (NEGATIVES, NEGATIVE, "s")):
        for r, degrees in places:
            x, y = (r * f(math.radians(degrees)) for f in (math.cos, math.sin))
            axes.plot(x, y, marker, color=colour, markersize=8)
            if marker == "s" and r < NEAR + MARGIN:  # too close: it must go
                longer = (NEAR + MARGIN + 0.3) / r
                axes.annotate(
                    "", (x * longer, y * longer), (x * 1.06, y * 1.06),
                    arrowprops={"arrowstyle": "->", "color": NEGATIVE, "linewidth": 1.5},
                )  # fmt: skip
    down = -math.pi / 2
    for r0, r1 in ((NEAR, NEAR + MARGIN),):
        ends = [(r * math.cos(down), r * math.sin(down)) for r in (r0, r1)]
        axes.annotate("", *ends, arrowprops={"arrowstyle": "<->", "color": INK})
    axes.text(0.08, -NEAR - MARGIN / 2, "ε·τ", va="center", color=INK, fontsize=11)
    axes.text(2.45, 0.35, "● positives: same class", color=POSITIVE, va="center")
    axes.text(2.45, 0.0, "■ negatives: other classes", color=NEGATIVE, va="center")
    axes.text(2.45, -0.45, "one is inside the ring:\nthe loss pushes it out", color=INK, va="top")
    axes.set(xlim=(-2.2, 5.0), ylim=(-2.1, 2.1), aspect="equal")
    axes.set_axis_off()


if __name__ == "__main__":
    with atomic(PICTURE) as temporary:
        temporary.write_bytes(svg_file(5.4, 3.2, draw, left=0.05, bottom=0.05, right=0.05))
