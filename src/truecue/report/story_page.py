"""The demo's page: what was found, judged, repaired, removed and asked again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truecue.atomic import write_text
from truecue.audit.audit import Audit
from truecue.data.sets import ImageSet
from truecue.report.audit_page import ends_strip, sentence
from truecue.report.page import environment
from truecue.report.report import sound
from truecue.report.view import SPACE, percent, points

_NAMES = {
    "plain": ("Plain training", "class labels"),
    "repaired": ("The same, last layer tuned by the verdicts", "class labels and the verdicts"),
    "denetdm": ("Trained anew by DeNetDM", "class labels"),
}


def write_story(
    story: Mapping[str, Any], cues: Mapping[str, Any], test: ImageSet, audit: Audit, out: Path
) -> Path:
    """Write index.html into the demo's folder.

    Args:
        story: what story.json holds.
        cues: what cues.json of the first audit holds.
        test: the test images.
        audit: the first audit.
        out: the folder.

    Returns:
        The path of the page.

    Raises:
        StorageError: the page could not be written.
    """
    loud = [c for c in cues.get("cues", ()) if c["verdict"] == "alarm"]
    strip = ends_strip(cues["ends"].get(loud[0]["name"]), test, audit) if loud else None
    models, gap = story["models"], story["repair_gap"]
    page = environment().get_template("story.html.j2").render(
        headline=_headline(models, story["bias"]),
        bias=story["bias"],
        alarms=[(c["name"], sentence(c["why"])) for c in loud],
        strip=strip,
        shown=loud[0]["name"] if loud else None,
        judged=story["judged"],
        gap=_gap(story["gap"]),
        moved=(_gap(gap["before"]), _gap(gap["after"])),
        left=gap["epoch"] == 0,
        models=[
            {"name": name, "labels": labels,
             "cells": [_cell(models[key][part]) for part in ("conflicting", "aligned")]}
            for key, (name, labels) in _NAMES.items()
        ],
        cues=[
            (row["name"], *((_used(row[side]["used"]), row[side]["verdict"])
                            for side in ("before", "after")))
            for row in story["cues"]
        ],
        pages=story["pages"],
        seconds=f"{story['seconds']:.0f}",
        device=story["device"],
        seed=story["seed"],
    )  # fmt: skip
    write_text(out / "index.html", sound(page))
    return out / "index.html"


def _headline(models: Mapping[str, Any], bias: str) -> tuple[str, str]:
    before, after = (models[key]["conflicting"] for key in ("plain", "denetdm"))
    good = after["low"] > before["high"]
    text = (
        f"Where the {bias} misleads, the model was right on {percent(before['value'])} of the"
        f" images; now it is right on {percent(after['value'])}."
    )
    return text, "good" if good else "unclear"


def _cell(found: Mapping[str, Any]) -> tuple[str, str]:
    low, high = (f"{100 * found[key]:.0f}" for key in ("low", "high"))
    return percent(found["value"]), f"{low}–{high}{SPACE}%"


def _gap(found: Mapping[str, Any]) -> tuple[str, str]:
    if found["value"] is None:
        return "–", ""
    return points(found["value"]), f"{points(found['low'])} to {points(found['high'])}"


def _used(used: Mapping[str, Any] | None) -> str:
    return "–" if used is None else points(used["value"])
