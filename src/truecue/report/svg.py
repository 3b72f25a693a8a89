"""Drawing with matplotlib, the same on every machine."""

from __future__ import annotations

import base64
import io
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_DRAWING = threading.Lock()
"""matplotlib's settings are those of the process, and the app draws in many threads."""


def svg(
    width: float,
    height: float,
    draw: Callable[[Axes], None],
    left: float = 0.6,
    bottom: float = 0.45,
) -> str:
    """A figure of this many inches, with margins for labels, as a data address."""
    return data_address(svg_file(width, height, draw, left, bottom))


def data_address(content: bytes, kind: str = "image/svg+xml") -> str:
    """A picture file's content as an address that holds all of it; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg_file(
    width: float,
    height: float,
    draw: Callable[[Axes], None],
    left: float = 0.6,
    bottom: float = 0.45,
    right: float = 0.15,
    top: float = 0.1,
) -> bytes:
    """A figure of this many inches, with margins for labels, as the content of a file."""
    from matplotlib.figure import Figure

    with _DRAWING, _plain_style():
        figure = Figure(figsize=(width, height))
        # fixed margins: a layout engine would draw everything twice
        across, down = (width - left - right) / width, (height - bottom - top) / height
        draw(figure.add_axes((left / width, bottom / height, across, down)))
        file = io.StringIO()
        # without dates and versions, the same numbers give the same bytes
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # letters that matplotlib's font lacks are in the file, and the reader's font has them
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            figure.savefig(file, format="svg", metadata=nothing)
    return file.getvalue().replace("'DejaVu Sans'", _FONTS).encode()


def beside(names: Sequence[str]) -> float:
    """The margin in inches that a legend with these names needs beside a figure."""
    return 0.65 + 0.075 * max(map(len, names), default=0)


@contextmanager
def _plain_style() -> Iterator[None]:
    import matplotlib as mpl

    style: Any = {
        # laid out with the font that matplotlib brings, shown with the reader's own
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "truecue",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#b6bdc8",
        "axes.axisbelow": True,
        "grid.color": "#e4e7ec",
        "lines.linewidth": 1.8,
        "xtick.color": "#4a5362",
        "ytick.color": "#1c2430",
        "axes.labelcolor": "#4a5362",
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        yield
