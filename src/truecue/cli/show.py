"""A report on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("average", "unbiased", "aligned", "conflicting", "worst_group", "worst_class")


def show_report(report: dict[str, Any], out: Path | None) -> None:
    """Print the test accuracies of all models, warnings, and where the page is."""
    from truecue.report.words import verdict

    console = Console(highlight=False)
    console.print(verdict(report).headline, soft_wrap=True, markup=False)
    rows = _rows(report)
    shown = [
        c for c in COLUMNS if any(measures[c]["value"] is not None for measures in rows.values())
    ]
    table = Table(title="Test accuracy in %, with 95 % intervals", title_justify="left")
    table.add_column("model")
    for column in shown:
        table.add_column(column.replace("_", "\n"), justify="right", no_wrap=True)
    for name, measures in rows.items():
        table.add_row(name, *(_cell(measures, column) for column in shown))
    console.print(table)
    for model in report["models"].values():
        for warning in model.get("warnings", []):
            console.print(f"Warning: {warning}", style="yellow", soft_wrap=True, markup=False)
    if out is not None:
        console.print(f"Report: {out / 'report.html'}", soft_wrap=True, markup=False)


def show_story(story: dict[str, Any], out: Path) -> None:
    """Print what the demo found and removed, and where its page is."""
    console = Console(highlight=False)
    table = Table(title="Test accuracy in %, with 95 % intervals", title_justify="left")
    table.add_column("model")
    for name in (f"{story['bias']} misleads", f"{story['bias']} helps"):
        table.add_column(name, justify="right", no_wrap=True)
    titles = {"plain": "plain training", "repaired": "last layer repaired", "denetdm": "DeNetDM"}
    for key, title in titles.items():
        table.add_row(title, *(_cell(story["models"][key], c) for c in ("conflicting", "aligned")))
    console.print(table)
    for cue in story["cues"]:
        used = [cue[side]["used"] for side in ("before", "after")]
        said = ["–" if u is None else f"{100 * u['value']:+.0f}" for u in used]
        console.print(
            f"Accuracy that hangs on the {cue['name']}: {said[0]} points, with DeNetDM {said[1]}",
            soft_wrap=True,
        )
    console.print(f"The story: {out / 'index.html'}", soft_wrap=True, markup=False)


def _rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = {}
    for name, model in report["models"].items():
        rows[name] = model["test"]
        for branch, made in model.get("branches", {}).items():
            rows[f"  {branch}"] = made["test"]
    return rows


def _cell(measures: dict[str, Any], column: str) -> str:
    m = measures[column]
    if m["value"] is None:
        return "–"
    return f"{100 * m['value']:.1f}\n{100 * m['low']:.0f}–{100 * m['high']:.0f}"
