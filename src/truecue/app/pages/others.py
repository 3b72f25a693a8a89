"""Pages of what other commands have left in the folder: repairs and candidate cues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truecue.app.pages.base import Next, Number, View, finite
from truecue.app.source import Source
from truecue.errors import DataError
from truecue.report import repair_words as words


class RepairRow(View):
    """The model before repairs, or after one."""

    name: str
    accuracy: Number
    low: Number
    high: Number
    gap: Number
    change: Number
    """Of the gap, on the same images."""


class RepairPage(View):
    """The page."""

    folder: str
    there: bool
    models: list[str]
    """Repaired models in the folder, where there are no numbers about them."""
    since: list[str]
    """What has changed since the repair, in words."""
    split: str
    """`val`: the half of the validation images that no epoch was chosen by."""
    splits: list[str]
    n: int
    """Images that were measured."""
    rows: list[RepairRow]
    repaired: list[str]
    """Names of the classes that were repaired."""
    notes: list[str]
    headline: str
    """What the repair that was meant came to, on the half of the validation images that no epoch
    was chosen by."""
    tone: str
    """`good`, `bad` or `unclear`."""
    outcomes: list[tuple[str, str]]
    """For each method which epoch is kept."""
    moved: bool
    """Whether any repair changed the accuracy or the gap on these images."""
    settings: str
    command: str
    next: list[Next]


def repair_page(source: Source, split: str) -> RepairPage:
    """The repairs of the audited model, on a part of the images.

    Raises:
        DataError: repair.json is not what `truecue repair` writes, or has no such part.
    """
    told, folder = source.repair(), str(source.audit.folder)
    if told is None:
        models = sorted(path.name for path in (Path(folder) / "repair").glob("*.safetensors"))
        return RepairPage(folder=folder, there=False, models=models, since=[], split=split,
                          splits=[], n=0, rows=[], repaired=[], notes=[], headline="", tone="",
                          outcomes=[], moved=False, settings="", command="", next=[])  # fmt: skip
    try:
        splits = list(told["before"])
        split = split or splits[-1]
        rows = [_repair_row("before", told["before"][split], None)]
        rows += [
            _repair_row(m["title"], m["parts"][split], m["change"][split]["gap"])
            for m in told["methods"].values()
        ]
        return RepairPage(
            folder=folder, there=True, models=[], since=source.since(told), split=split,
            splits=splits, n=told["sizes"][split], rows=rows,
            repaired=[row["name"] for row in told["repaired"]], notes=told["notes"],
            headline=words.headline(told)[0], tone=words.headline(told)[1],
            outcomes=[(m["title"], words.outcome(told, name))
                      for name, m in told["methods"].items()],
            moved=words.moved(told, split), settings=words.settings_in_words(told),
            command=words.commands(told),
            next=[Next(text=step.text, command=step.command) for step in words.next_steps(told)],
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{folder}/repair/repair.json has no {error}: it is not what this version of truecue"
            f" writes, or has no images '{split}'; repair again"
        ) from None


def _repair_row(name: str, state: dict[str, Any], change: dict[str, Any] | None) -> RepairRow:
    ends = {key: Number.of(state[key]) for key in ("accuracy", "low", "high", "gap")}
    return RepairRow(name=name, change=Number.of(change), **ends)


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
    chance: float
    """Accuracy of guessing."""


def cues_page(source: Source) -> CuesPage:
    """The table of candidate cues."""
    found = source.cues()
    rows = [_cue(row) for row in (found or {}).get("cues", [])]
    verdicts = [row.verdict for row in rows]
    return CuesPage(
        folder=str(source.audit.folder), there=found is not None, rows=rows,
        counts={v: verdicts.count(v) for v in dict.fromkeys(verdicts)},
        level=(found or {}).get("level"), least=(found or {}).get("least"),
        notes=(found or {}).get("notes", []),
        chance=(found or {}).get("chance") or 1 / len(source.classes),
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
