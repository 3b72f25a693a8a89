"""Pages of what other commands have left in the folder: repairs and candidate cues."""

from __future__ import annotations

from typing import Any

from truecue.app.pages.base import Number, View, finite
from truecue.app.source import Source


class Ends(View):
    """One state of a model."""

    accuracy: float | None
    low: float | None
    high: float | None
    gap: float | None


class RepairRow(View):
    """One repair."""

    name: str
    before: Ends
    after: Ends
    note: str


class RepairPage(View):
    """The page."""

    folder: str
    rows: list[RepairRow]
    curves: bool
    """Whether accuracy by rank is known."""


def repair_page(source: Source) -> RepairPage:
    """All repairs of the audited model."""
    found = source.repairs()
    rows = [
        RepairRow(name=str(r.get("title") or r["name"]), before=_ends(r.get("before")),
                  after=_ends(r.get("after")), note=str(r.get("note") or ""))
        for r in found
    ]  # fmt: skip
    curves = any("curve" in (r.get(when) or {}) for r in found for when in ("before", "after"))
    return RepairPage(folder=str(source.audit.folder), rows=rows, curves=curves)


def _ends(state: dict[str, Any] | None) -> Ends:
    """Numbers, or estimates whose value counts."""
    values = {}
    for name in ("accuracy", "low", "high", "gap"):
        value = (state or {}).get(name)
        values[name] = finite(value.get("value") if isinstance(value, dict) else value)
    return Ends(**values)


class Effect(View):
    """The answer to one question about a cue."""

    effect: Number
    p: float | None
    q: float | None


class CueRow(View):
    """One candidate cue."""

    name: str
    kind: str
    about: str
    verdict: str
    why: str
    available: Effect | None
    used: Effect | None
    how: str | None
    q: float | None
    classes: list[dict[str, Any]]
    next: list[str]


class CuesPage(View):
    """The page."""

    folder: str
    there: bool
    rows: list[CueRow]
    counts: dict[str, int]
    level: float | None
    least: float | None
    notes: list[str]
    n_classes: int


def cues_page(source: Source) -> CuesPage:
    """The table of candidate cues."""
    found = source.cues()
    rows = [_cue(row) for row in (found or {}).get("cues", [])]
    verdicts = [row.verdict for row in rows]
    return CuesPage(
        folder=str(source.audit.folder), there=found is not None, rows=rows,
        counts={v: verdicts.count(v) for v in dict.fromkeys(verdicts)},
        level=(found or {}).get("level"), least=(found or {}).get("least"),
        notes=(found or {}).get("notes", []), n_classes=len(source.classes),
    )  # fmt: skip


def _cue(row: dict[str, Any]) -> CueRow:
    plain = {name: row.get(name) or "" for name in ("name", "kind", "about", "verdict", "why")}
    return CueRow(
        **plain, available=_effect(row.get("available")), used=_effect(row.get("used")),
        how=row.get("how"), q=row.get("q"), classes=row.get("classes") or [],
        next=row.get("next") or [],
    )  # fmt: skip


def _effect(found: dict[str, Any] | None) -> Effect | None:
    if not found:
        return None
    return Effect(effect=Number.of(found), p=finite(found.get("p")), q=finite(found.get("q")))
