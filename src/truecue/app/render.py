"""How templates are filled in, and how they write numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from truecue.app.pages import directions, judge, labels, overview

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """How templates are filled in: whatever a value holds, it is text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"percent": percent, "points": points, "plain": plain, "count": count,
                     "chance": chance}  # fmt: skip
    made.globals |= {
        "ANSWERS": judge.ANSWERS, "CONFIDENCE": judge.CONFIDENCE, "SORTS": overview.SORTS,
        "FINDINGS": labels.FINDINGS, "DIRECTION_ANSWERS": directions.WORDS,
        "stale_form": False, "wrong": False,
    }  # fmt: skip
    return made


def percent(value: float | None, digits: int = 0) -> str:
    """A share of 1 as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of shares in points, with its sign."""
    return "–" if value is None else f"{round(100 * value) or 0:+d}".replace("-", "−")


def plain(value: float | None, digits: int = 2) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def chance(value: float | None) -> str:
    """A p-value."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int) -> str:
    """A whole number with thousands set apart."""
    return f"{value:,}"
