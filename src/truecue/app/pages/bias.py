"""What spurious cues cost: gaps by class and over classes, and models side by side."""

from __future__ import annotations

import shlex
from typing import Any

from truecue.app.pages.base import Next, Number, View, finite
from truecue.app.source import Source
from truecue.metrics.agreement import Robustness, agreement, effective_robustness
from truecue.metrics.ranking import EndHits
from truecue.report.audit_page import place


class ClassGap(View):
    """One class."""

    index: int
    name: str
    n: int
    k: int
    low: Number
    high: Number
    gap: Number
    null: tuple[float, float]
    """Between these, 95 % of the gaps of random orders lie."""
    p: float
    correlation: float | None
    """Of spuriosity with being right, where two ends mean little."""


class ModelGap(View):
    """One model, over all classes that have a ranking."""

    name: str
    family: str
    low: float
    high: float
    gap: float
    robustness: float | None
    """Accuracy of the low end above the line through all models."""


class BiasPage(View):
    """The page."""

    split: str
    splits: list[str]
    measured: bool
    """Whether any class has a ranking by the verdicts."""
    judged: int
    spurious: int
    macro: Number
    pooled: Number
    null: Number
    low: float | None
    high: float | None
    classes: list[ClassGap]
    missing: int
    """Classes without a gap."""
    models: list[ModelGap]
    line: tuple[float, float] | None
    """Slope and intercept through the models."""
    stale: bool
    next: list[Next]


def bias_page(source: Source, split: str) -> BiasPage:
    """Gaps on a split."""
    split = source.measured(split)
    found = source.by_verdicts(split)
    judged = source.judged()
    rows = [_class(row) for row in (found or {}).get("classes", [])]
    rows.sort(key=lambda row: -(row.gap.value or 0))
    ends = source.ends(split)
    models, line = _models(source, ends) if ends is not None and len(ends.classes) else ([], None)
    null = (found or {}).get("null") or {}
    return BiasPage(
        split=split, splits=[s for s in source.audit.splits if s != "train"],
        measured=bool(rows), judged=len(judged.pairs),
        spurious=sum(map(len, judged.spurious().values())),
        macro=Number.of(found and found["macro"]), pooled=Number.of(found and found["pooled"]),
        null=Number(value=null.get("mean"), low=null.get("low"), high=null.get("high")),
        low=found and found["low"], high=found and found["high"], classes=rows,
        missing=len(source.classes) - len(rows), models=models,
        line=line and (line.slope, line.intercept), stale=source.is_stale(),
        next=_next(source) if rows else [],
    )  # fmt: skip


def _next(source: Source) -> list[Next]:
    """Commands that act on the gap, and what they may cost."""
    folder = shlex.quote(str(source.audit.folder))
    repair = Next(
        text="Repair the model's last layer on training images without these cues. It takes seconds"
        " and may cost some accuracy on images that have them; the page Repair says how much:",
        command=f"truecue repair {folder}",
    )
    told = source.repair()
    if told is not None and not source.since(told):
        repair = Next(text="The model has been repaired: see the page Repair.")
    return [
        repair,
        Next(
            text="Train anew by a method that needs no bias labels, and compare. It takes about"
            " twice the time of plain training, and may cost accuracy on images that follow the"
            " cue:",
            command=f"truecue train lff {place(source.audit)}",
        ),
    ]


def _class(row: dict[str, Any]) -> ClassGap:
    parts = {name: Number.of(row[name]) for name in ("low", "high", "gap")}
    plain = {name: row[name] for name in ("name", "n", "k", "null", "p")}
    return ClassGap(index=row["class"], correlation=row.get("correlation"), **parts, **plain)


def accuracies(ends: EndHits) -> tuple[list[float], list[float]]:
    """Accuracy of each model at the low and the high ends, mean over classes."""
    return tuple((end.double() / ends.k).mean(1).tolist() for end in (ends.low, ends.high))  # type: ignore[return-value]


def fitted(ends: EndHits) -> Robustness | None:
    """The line through models; None with fewer than three, or where there is none."""
    import torch

    low, high = (torch.tensor(v) for v in accuracies(ends))
    if len(low) < 3 or float((high - high.mean()).abs().max()) < 1e-9:
        return None
    return effective_robustness(high, low)


def _models(source: Source, ends: EndHits) -> tuple[list[ModelGap], Robustness | None]:
    low, high = accuracies(ends)
    line = fitted(ends)
    rest = line.residuals.tolist() if line else [None] * len(low)
    rows = zip(source.models(), source.families(), low, high, rest, strict=True)
    return [
        ModelGap(
            name=name,
            family=family,
            low=a,
            high=b,
            gap=b - a,
            robustness=None if r is None else round(r, 9),
        )
        for name, family, a, b, r in rows
    ], line


class ModelsPage(View):
    """How alike the gaps of several models are."""

    split: str
    splits: list[str]
    measured: bool
    models: list[str]
    r: list[list[float | None]]
    mean: float | None
    mean_null: Number
    ratio: float | None
    ratio_null: Number
    n_classes: int
    draws: int
    a: int
    b: int
    """The two models whose gaps are drawn against each other."""


def models_page(source: Source, split: str, a: int, b: int) -> ModelsPage:
    """Agreement between models on a split, against random orders."""
    split = source.measured(split)
    names, ends = source.models(), source.ends(split)
    a, b = (min(max(i, 0), len(names) - 1) for i in (a, b))
    nothing = ModelsPage(
        split=split, splits=[s for s in source.audit.splits if s != "train"],
        measured=ends is not None and len(ends.classes) > 0, models=names, r=[], mean=None,
        mean_null=Number(), ratio=None, ratio_null=Number(), n_classes=0, draws=0, a=a, b=b,
    )  # fmt: skip
    if ends is None or len(names) < 2 or len(ends.classes) < 2:
        return nothing
    found = agreement(ends.gaps)
    null = source.null(split)
    bands = {}
    for name in ("r", "ratio"):
        mean, low, high = (float(v) for v in null.band(name))
        bands[name] = Number(value=finite(mean), low=finite(low), high=finite(high))
    return nothing.model_copy(update={
        "r": [[finite(v) for v in row] for row in found.r.tolist()], "mean": finite(found.mean),
        "mean_null": bands["r"], "ratio": finite(found.ratio), "ratio_null": bands["ratio"],
        "n_classes": len(ends.classes), "draws": len(null.r),
    })  # fmt: skip
