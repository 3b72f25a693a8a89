"""What an earlier repair has left in the folder: kept where its numbers stand beside new ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from truecue.audit.audit import Audit
from truecue.audit.measure import verdicts_digest
from truecue.errors import RunMismatch
from truecue.repair.tune import TuneSettings

UNTUNED = ("spufix",)
"""What has no settings of tuning, no seed and no epochs."""


class Earlier(NamedTuple):
    """What of an earlier repair stays beside a new one."""

    methods: dict[str, Any]
    """By name, as in repair.json; without those that are done again."""
    settings: TuneSettings
    """Those of the tuned methods: the new ones, unless nothing is tuned now."""
    seeds: list[int]
    """The same of the seeds."""


def compared(audit: Audit, stats_from: str) -> dict[str, Any]:
    """What two repairs must have in common for their numbers to be of the same thing."""
    parts = audit.facts["splits"]
    return {
        "images": {name: part["digest"] for name, part in parts.items()},
        "verdicts": verdicts_digest(audit.verdicts().aggregate()),
        "scaling": stats_from,
    }


def earlier(
    folder: Path,
    model: str,
    of: Mapping[str, Any],
    chosen: Sequence[str],
    settings: TuneSettings,
    seeds: list[int],
) -> Earlier:
    """The methods of an earlier repair that are not done again, if their numbers can be kept.

    Args:
        folder: where the earlier repair is, if there was one.
        model: digest of the audited model.
        of: what `compared` gives now.
        chosen: methods that are done now.
        settings: of the tuning now.
        seeds: now.

    Raises:
        RunMismatch: the earlier numbers are of something else, and would be lost.
    """
    path = folder / "repair.json"
    if not path.exists():
        return Earlier({}, settings, seeds)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        left = {name: found for name, found in told["methods"].items() if name not in chosen}
        was = {"model": told["model"], **told.get("of", {})}
        before, seeds_before = TuneSettings(**told["settings"]), [int(s) for s in told["seeds"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunMismatch(
            f"{path} cannot be read ({error}), so that a new repair cannot stand beside it; give"
            " --fresh to start over, or another folder with --out"
        ) from None
    if not left:
        return Earlier({}, settings, seeds)
    now = {"model": model, **of}
    changed = [f"other {name}" for name in now if now[name] != was.get(name)]
    changed += _changed({"ends": before.ends}, {"ends": settings.ends})
    tuned = any(name not in UNTUNED for name in left)
    tuning = any(name not in UNTUNED for name in chosen)
    if seeds_before[:1] != seeds[:1]:
        changed.append(f"first seed {seeds_before[0]} (now {seeds[0]})")
    elif tuned and tuning:
        changed += _changed({"seeds": seeds_before}, {"seeds": seeds})
    if tuned and tuning:
        changed += _changed(before.to_dict() | {"ends": 0}, settings.to_dict() | {"ends": 0})
    if changed:
        raise RunMismatch(
            f"{folder} holds a repair by {', '.join(left)} with {', '.join(changed)}: the two"
            " cannot be compared. Name all methods to do them again, give --fresh to start over"
            " without the earlier ones, or another folder with --out"
        )
    return Earlier(left, settings, seeds) if tuning else Earlier(left, before, seeds_before)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {before.get(name)} (now {now.get(name)})"
        for name in sorted(now.keys() | before.keys())
        if before.get(name) != now.get(name)
    ]


def remove_left(folder: Path, names: Sequence[str]) -> None:
    """Remove models that no numbers are about."""
    for name in names:
        for suffix in (".safetensors", ".json"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
