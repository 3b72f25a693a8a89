"""What all pages have, and the values that several of them show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from truecue.app.source import Source
from truecue.audit.audit import Feature

State = Literal["core", "spurious", "undecided", "not judged"]


class View(BaseModel):
    """A page."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(View):
    """A number with its interval, as shares of 1; None: not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, estimate: Mapping[str, Any] | None) -> Number:
        """From an estimate as JSON has it."""
        if estimate is None:
            return cls()
        return cls(**{key: finite(estimate.get(key)) for key in ("value", "low", "high")})


class Next(View):
    """What to do next."""

    text: str
    command: str | None = None


class Named(View):
    """A feature of a class, with what was said about it."""

    class_index: int
    class_name: str
    feature: int
    name: str
    is_cue: bool
    state: State
    top: int | None = None
    """The training image that shows it most."""


def named(source: Source, feature: Feature, *, picture: bool = False) -> Named:
    """A feature as pages show it."""
    verdict = source.verdict(feature)
    shown = source.shown(feature.class_index, feature.feature) if picture else None
    return Named(
        class_index=feature.class_index,
        class_name=source.classes[feature.class_index],
        feature=feature.feature,
        name=feature.name,
        is_cue=source.is_cue(feature.feature),
        state=verdict.verdict if verdict else "not judged",
        top=shown.top[0] if shown and shown.top else None,
    )


def finite(value: Any) -> float | None:
    """A number, or None where it is not one."""
    return None if value is None or not math.isfinite(value) else float(value)
