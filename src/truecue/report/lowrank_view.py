"""DeFund's section of a report's page, from what the JSON file holds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from truecue.report import rank_figures as draw
from truecue.report.figures import Line, Panel
from truecue.report.svg import data_address, svg
from truecue.report.view import count, interval, measure, percent, sides


def lowrank_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values that the template uses; None where the report is not about DeFund."""
    found = report.get("lowrank")
    if not found:
        return None
    classes = (report.get("task") or {}).get("classes") or []
    by_class = [
        f"{name} {count(n)}" for name, n in zip(classes, found["errors"]["by_class"], strict=False)
    ]
    singles = [(f"strength {row['strength']:g}", row) for row in found["single"]]
    table = [
        (row["name"], row["labels"], [_cell(row["test"], key) for key in _COLUMNS])
        for row in found["table"]
    ]
    return {
        "labelled": count(found["labelled"]),
        "of": count(found["of"]),
        "cutoff": found["cutoff"],
        "strengths": ", ".join(f"{k:g}" for k in found["strengths"]),
        "upweight": f"{found['upweight']:g}",
        "errors": _found(found["errors"]),
        "by_class": by_class,
        "single": [(name, _found(row), _number(row["auprc"], 3)) for name, row in singles],
        "known": found["errors"]["precision"] is not None,
        "spectrum": found["spectra"],
        "ranks": [
            (f"strength {row['strength']:g}", _number(row["entropy"], 3),
             _number(row["effective_rank"], 1))
            for row in found["spectra"]["of"]
        ],
        "panels": _panels(found),
        "bars": _bars(report, found),
        "columns": [name.replace("_", " ") for name in _COLUMNS],
        "table": table,
    }  # fmt: skip


_COLUMNS = ("aligned", "conflicting", "unbiased", "worst_group", "average")


def _cell(test: Mapping[str, Any], key: str) -> tuple[str, str]:
    found = measure(test, key)
    return percent(found.value, 1), interval(found)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _found(row: Mapping[str, Any]) -> dict[str, Any]:
    pair = {key: measure(row, key) for key in ("precision", "recall")}
    shares = {key: (percent(m.value, 1), interval(m)) for key, m in pair.items()}
    return {"count": count(row["count"]), "share": percent(row["share"], 1), **shares}


def _bars(report: Mapping[str, Any], found: Mapping[str, Any]) -> Panel | None:
    """What each way of drawing images is worth beside plain training, as bars."""
    before, _ = sides(report)
    tests = [(before.short, before.model.get("test"))] if before else []
    for row in found["table"]:
        name = row["name"].partition(":")[0].removesuffix(" drawn more often")
        if name == "plain" and found["variant"] != "supervised":
            name = "plain last layer"
        tests.append((name, row["test"]))
    known = [kind for kind in ("conflicting", "aligned")
             if any(measure(test, kind).value is not None for _, test in tests)]  # fmt: skip
    if not tests:
        return None
    names = {kind: kind for kind in known} or {"all": "average"}
    rows = [
        (textwrap.fill(name, 23), {kind: measure(test, key) for kind, key in names.items()})
        for name, test in tests
    ]
    height = 0.4 + 0.26 * len(rows) * len(names)
    source = svg(5.2, height, draw.worth(rows), left=1.55, bottom=0.3)
    said = ", ".join(f"{name} {percent(next(iter(m.values())).value)}" for name, m in rows)
    return Panel(
        "Accuracy by what was drawn more often", "test images", source,
        f"Accuracy on {next(iter(names))} test images: {said}",
        [Line(f"{kind} images", draw.KINDS[kind]) for kind in names], False,
    )  # fmt: skip


def _panels(found: Mapping[str, Any]) -> list[Panel]:
    """Scores, how well they find conflicting images, ranks, and how training went."""
    kinds, panels = found["histogram"], []
    panels.append(
        Panel(
            "Bias scores", "training images whose labels are used",
            svg(3.15, 2.2, draw.histogram(kinds, found["cutoff"]), left=0.75),
            "Histogram of bias scores", [Line(k, draw.KINDS[k]) for k in kinds if k != "all"],
            False,
        )
    )  # fmt: skip
    curves = [(f"strength {row['strength']:g}", row) for row in found["single"]]
    curves += [("mean score", found["mean"])] if found["mean"] else []
    if any(row["pr"] for _, row in curves):
        names = [f"{name}: area {_number(row['auprc'], 2)}" for name, row in curves]
        source = svg(3.15, 2.2, draw.precision_recall([row["pr"] for _, row in curves]))
        panels.append(
            Panel("Finding conflicting images", "by going down the scores", source,
                  "Precision against recall", draw.legend(names), False)
        )  # fmt: skip
    rows = found["spectra"]["of"]
    names = [f"strength {r['strength']:g}: H {_number(r['entropy'], 2)}" for r in rows]
    source = svg(3.15, 2.2, draw.spectra([r["sizes"] for r in rows]), left=0.75)
    note = f"features of {count(found['spectra']['n'])} training images"
    title = "Singular values over their sum"
    panels.append(Panel(title, note, source, title, draw.legend(names), False))
    for row in found["correlations"]:
        title, strength = "Which features go together", f"strength {row['strength']:g}"
        picture = data_address(draw.map_file(row["absolute"]))
        note = f"{strength}: absolute correlations"
        panels.append(Panel(title, note, picture, f"{title}, {strength}", [], False))
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["training"]:
        stages.setdefault(row["stage"], []).append(row)
    kept = list(stages.values())
    names = [name.replace("pretrain-", "strength ").replace("biased-", "strength ")
             for name in stages]  # fmt: skip
    if kept:
        label = "Cross-entropy" if found["variant"] == "supervised" else "Self-supervised loss"
        titles = {"rank_penalty": "Mean squared correlation of features", "task": label}
        for key, title in titles.items():
            source = svg(3.15, 2.0, draw.over_epochs(kept, key))
            panels.append(Panel(title, "while the encoders are trained", source,
                                f"{title} by epoch", draw.legend(names), False))  # fmt: skip
    return panels
