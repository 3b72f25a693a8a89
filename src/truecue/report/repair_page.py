"""The page of a repair: before and after, by method, on images that nothing was chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from truecue.atomic import write_text
from truecue.report import facts
from truecue.report.gaps import Repair, repair_arrows
from truecue.report.page import environment
from truecue.report.ranked import accuracy_by_rank
from truecue.report.repair_words import (
    TUNED,
    between,
    commands,
    headline,
    moved,
    next_steps,
    outcome,
    settings_in_words,
    signed,
)
from truecue.report.report import sound
from truecue.report.svg import data_address
from truecue.report.view import Measure, count, interval, percent

PARTS = {
    "val": "the half of the validation images that nothing was chosen by",
    "test": "the test images",
}
_GROUPS = {
    "worst_group": "worst group",
    "conflicting": "bias-conflicting images",
    "aligned": "bias-aligned images",
}
_DONE = {
    "low": "the model's last layer was tuned on those that show them least",
    "random": "the model's last layer was tuned on random images, to see what tuning alone does",
    "error": "the model's last layer was tuned on those that it gets wrong",
    "spufix": "what these features add to the class's logit was taken off, without training",
}
_MOST_CLASSES = 40


def write_repair_page(told: Mapping[str, Any], out: Path | str) -> Path:
    """Write `repair.html` into a folder; it opens in any browser and loads nothing.

    Args:
        told: what repair.json holds.
        out: the folder; made if it does not exist.

    Returns:
        The path of the page.

    Raises:
        StorageError: the file could not be written.
    """
    page = Path(out) / "repair.html"
    write_text(page, sound(render(told)))
    return page


def render(told: Mapping[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        told: what repair.json holds.
    """
    repaired = told["repaired"]
    return environment().get_template("repair.html.j2").render(
        data=told["facts"].get("data"),
        created=facts.moment(told.get("created")),
        headline=headline(told),
        done=_DONE[told["first"]],
        notes=told["notes"],
        classes=len(told["classes"]),
        repaired=repaired[:_MOST_CLASSES],
        left_out=max(0, len(repaired) - _MOST_CLASSES),
        n_repaired=len(repaired),
        titles=[found["title"] for found in told["methods"].values()],
        parts=[part(told, name) for name in PARTS],
        bias=told["bias"],
        seeds=over_seeds(told),
        logs=logs(told),
        settings=told["settings"],
        sizes=told["sizes"],
        steps=next_steps(told),
        facts=_facts(told),
        models=[found["model"] for found in told["methods"].values()],
    )  # fmt: skip


def part(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Table and figures of one part of the images."""
    before, methods = told["before"][name], told["methods"]
    known = before["gap"]["value"] is not None
    rows = [("before", *(_share(before[key]) for key in ("accuracy", "low", "high")),
             _points(before["gap"]), ("", ""))]  # fmt: skip
    groups = [_groups("before", before)]
    curves, arrows = {"before": _curve(before)}, []
    for short, found in methods.items():
        scores, title = found["parts"][name], found["title"]
        shares = (_share(scores[key]) for key in ("accuracy", "low", "high"))
        rows.append((title, *shares, _points(scores["gap"]), _points(found["change"][name]["gap"])))
        groups.append(_groups(title, scores))
        curves[short] = _curve(scores)
        arrows.append(Repair(short, *((before[k]["value"], scores[k]["value"])
                                      for k in ("accuracy", "gap"))))  # fmt: skip
    return {
        "title": PARTS[name],
        "n": count(told["sizes"][name]),
        "rows": rows,
        "groups": groups if before["groups"] else [],
        "group_names": list(_GROUPS.values()),
        "known": known,
        "arrows": data_address(repair_arrows(arrows).encode())
        if known and moved(told, name)
        else None,
        "curves": data_address(accuracy_by_rank(curves).encode()) if known else None,
    }


def over_seeds(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Means over seeds by method: accuracy and gap on both parts."""
    rows = []
    for found in told["methods"].values():
        if found["over_seeds"]:
            cells = [
                f"{signed(m['value'])} ({between(m)})" if key == "gap" else _plain_share(m)
                for name in PARTS
                for key in ("accuracy", "gap")
                if (m := found["over_seeds"][name].get(key, {"value": None})) is not None
            ]
            rows.append((found["title"], *cells))
    return rows


def logs(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The epochs of the first seed's runs, by method."""
    made = []
    for name, found in told["methods"].items():
        if name not in TUNED:
            continue
        run = found["runs"][0]
        rows = [
            (e["epoch"], "–" if e["loss"] is None else f"{e['loss']:.3f}",
             *(percent(e[key], 1) for key in ("accuracy", "low", "high")), signed(e["gap"]))
            for e in run["log"]
        ]  # fmt: skip
        made.append({"title": found["title"], "rows": rows, "chosen": run["chosen"],
                     "said": outcome(told, name)})  # fmt: skip
    return made


def _share(found: Mapping[str, Any], digits: int = 0) -> tuple[str, str]:
    measure = Measure(*(found.get(field) for field in Measure._fields))
    return percent(measure.value, 1), interval(measure, digits)


def _plain_share(found: Mapping[str, Any]) -> str:
    value, limits = _share(found, 1)  # over seeds the interval may be narrow
    return f"{value} ({limits})" if limits else value


def _points(found: Mapping[str, Any]) -> tuple[str, str]:
    return signed(found["value"]), between(found)


def _groups(title: str, scores: Mapping[str, Any]) -> tuple[Any, ...]:
    return (title, *(_share((scores["groups"] or {}).get(name) or {}) for name in _GROUPS))


def _curve(scores: Mapping[str, Any]) -> torch.Tensor:
    return torch.tensor([float("nan") if v is None else v for v in scores["curve"]])


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = told["sizes"]
    found = {
        "Audit": told["audit"],
        "Command": commands(told) or None,
        "Images": f"to choose an epoch by {count(sizes['select'])}, to measure by"
        f" {count(sizes['val'])} validation and {count(sizes['test'])} test images",
        "Seeds": ", ".join(map(str, told["seeds"])),
        "Settings": settings_in_words(told),
        "Labels used": "class labels of training and validation images, and the audit's verdicts;"
        " no bias labels",
        "Device": told["device"],
        "truecue": told.get("truecue"),
    }
    return [(name, str(value)) for name, value in found.items() if value is not None]
