"""The section of a report on pairs of images: who is similar to whom, and what FairKL saw of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from truecue.report.figures import Line, Panel
from truecue.report.svg import svg
from truecue.report.view import label, percent, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE = "#0b62a8", "#c2500f"
COLOURS = (POSITIVE, POSITIVE, NEGATIVE, NEGATIVE)
DOTS = ("#0b62a8", "#c2500f", "#12785a", "#7a4a9c", "#a67c00",
        "#c73a6b", "#3aa6a0", "#5b6472", "#8fb339", "#1c2430")  # fmt: skip
"""Colours of classes and bias values; further ones are grey."""
OTHER = "#c9ced6"
NAMES = {
    "PA": "same class, same {bias}",
    "PC": "same class, other {bias}",
    "NA": "other class, same {bias}",
    "NC": "other class, other {bias}",
}


class Row(NamedTuple):
    """A row of a table: a name and a text for each model."""

    name: str
    values: list[str]


def section(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template needs of pairs; None where the report says nothing of them."""
    found = report.get("pairs")
    if not found:
        return None
    bias = str(found.get("bias") or "guessed bias")
    titles = {side.name: side.short for side in shown(report)}
    models = {titles[k]: v for k, v in found["models"].items() if k in titles}
    history = found.get("history") or []
    return {
        "bias": bias,
        "guessed_by": found.get("guessed_by"),
        "trained_on_guesses": found.get("trained_on_guesses"),
        "images": f"{found['images']:,}",
        "sampled": f"{found['sampled']:,}",
        "histograms": [_histogram(name, m, bias) for name, m in models.items()],
        "training": (
            _training(history, bias, guessed=bool(found.get("trained_on_guesses")))
            if history
            else []
        ),
        "scatters": [_scatters(name, m, found["dots"]) for name, m in models.items()],
        "models": list(models),
        "means": _means(models, bias),
        "penalties": _penalties(models),
        "skipped": _skipped(found.get("skipped")),
    }


def _legend(bias: str) -> list[Line]:
    """The four sets: full colour for aligned pairs, stripes for conflicting ones."""
    lines = []
    for name, colour in zip(NAMES, COLOURS, strict=True):
        stripes = f"repeating-linear-gradient(45deg,{colour} 0 2px,#fff 2px 4px)"
        text = NAMES[name].format(bias=bias)
        lines.append(Line(text, colour if name.endswith("A") else stripes))
    return lines


def _histogram(title: str, model: Mapping[str, Any], bias: str) -> Panel:
    counts, bins = model["histogram"], len(model["histogram"][0])
    edges = [2 * k / bins - 1 for k in range(bins + 1)]

    def draw(axes: Axes) -> None:
        for k, (row, colour) in enumerate(zip(counts, COLOURS, strict=True)):
            total = sum(row)
            if not total:
                continue
            shares = [100 * n / total for n in row]
            conflicting = k % 2 == 1
            axes.stairs(
                shares, edges, fill=not conflicting, alpha=1 if conflicting else 0.3,
                color=colour, linewidth=1.1, hatch="////" if conflicting else None,
            )  # fmt: skip
            axes.axvline(
                model["means"][k], color=colour, linewidth=1.4,
                linestyle="--" if conflicting else "-",
            )  # fmt: skip
        axes.set(xlim=(-1, 1), xlabel="cosine similarity", ylabel="% of pairs")
        axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])

    means = ", ".join(f"{s} {m:.2f}" for s, m in zip(NAMES, model["means"], strict=True))
    alt = f"Histograms of similarities by kind of pair; means: {means}"
    note = "lines: means of all pairs (dashed: conflicting)"
    return Panel(title, note, svg(3.15, 2.3, draw), alt, _legend(bias), False)


def _training(
    history: Sequence[Mapping[str, Any]], bias: str, *, guessed: bool = False
) -> list[Panel]:
    epochs = [row["epoch"] for row in history]
    dots: dict[str, Any] = {"marker": "o", "markersize": 3} if len(history) <= 12 else {}

    def strip(axes: Axes) -> None:
        series = {k: [row["means"][k] for row in history] for k in NAMES}
        for a, c, colour in (("PA", "PC", POSITIVE), ("NA", "NC", NEGATIVE)):
            pairs = zip(epochs, series[a], series[c], strict=True)
            both = [(e, x, y) for e, x, y in pairs if x is not None and y is not None]
            if both:
                at, low, high = ([row[j] for row in both] for j in range(3))
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        for name, colour in zip(NAMES, COLOURS, strict=True):
            known = [(e, v) for e, v in zip(epochs, series[name], strict=True) if v is not None]
            style = "-" if name.endswith("A") else "--"
            xs, ys = zip(*known, strict=True) if known else ([], [])
            axes.plot(xs, ys, linestyle=style, color=colour, **dots)
        axes.set(xlabel="epoch", ylabel="mean similarity")
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")

    def counts(axes: Axes) -> None:
        for name, colour in (("PC", POSITIVE), ("NA", NEGATIVE)):
            style = "--" if name == "PC" else "-"
            values = [row["pairs"][name] for row in history]
            axes.plot(epochs, values, linestyle=style, color=colour, **dots)
        axes.set(xlabel="epoch", ylabel="pairs in a batch")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")

    def skipped(axes: Axes) -> None:
        for part, colour in (("pos", POSITIVE), ("neg", NEGATIVE)):
            shares = [100 * row["skipped"][part] for row in history]
            axes.plot(epochs, shares, color=colour, **dots)
        axes.set(xlabel="epoch", ylim=(-3, 103))
        axes.locator_params(axis="x", integer=True)
        axes.set_yticks(range(0, 101, 25), [f"{y} %" for y in range(0, 101, 25)])
        axes.grid(axis="y")

    legend = _legend(bias)
    parts = [Line("same class", POSITIVE), Line("other class", NEGATIVE)]
    last = history[-1]["means"]
    said = ", ".join(f"{k} {v:.2f}" for k, v in last.items() if v is not None)
    lacking = "that lacked a kind of pair" if guessed else "in which a part was skipped"
    return [
        Panel("Four means by epoch", "training batches; the shaded gaps are what FairKL closes",
              svg(3.15, 2.2, strip), f"Mean similarities by epoch; at the end: {said}",
              legend, False),
        Panel("Rare pairs in a batch", "ordered pairs, mean over batches",
              svg(3.15, 2.2, counts), "Numbers of rare pairs in a batch by epoch",
              [legend[1], legend[2]], False),
        Panel(f"Batches {lacking}",
              "by the biased network's answers" if guessed else "for lack of a pair",
              svg(3.15, 2.2, skipped), f"Share of batches {lacking}", parts, False),
    ]  # fmt: skip


def _scatters(title: str, model: Mapping[str, Any], dots: Mapping[str, Any]) -> list[Panel]:
    made = []
    for what, values, names in (
        ("class", dots["y"], dots["classes"]),
        ("bias", dots["bias"], dots["values"]),
    ):

        def draw(axes: Axes, values: Sequence[int] = values) -> None:
            places = model["scatter"]
            colours = [DOTS[v] if 0 <= v < len(DOTS) else OTHER for v in values]
            xs, ys = ([place[k] for place in places] for k in (0, 1))
            axes.scatter(xs, ys, c=colours, s=7, linewidths=0)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal", adjustable="datalim")

        lines = [Line(label(names, k), DOTS[k]) for k in range(min(len(names), len(DOTS)))]
        alt = f"Test images in the plane along which their embedding varies most, by {what}"
        source = svg(3.15, 2.6, draw, left=0.15, bottom=0.1)
        made.append(Panel(title, f"coloured by {what}", source, alt, lines, False))
    return made


def _means(models: Mapping[str, Mapping[str, Any]], bias: str) -> list[Row]:
    return [
        Row(NAMES[name].format(bias=bias), [
            f"{m['means'][k]:.3f} ± {m['stds'][k]:.3f}".replace("-", "−") if m["pairs"][k] else "–"
            for m in models.values()
        ])
        for k, name in enumerate(NAMES)
    ]  # fmt: skip


def _penalties(models: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    names = list(dict.fromkeys(v for m in models.values() for v in m["penalties"]))

    def said(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}".replace("-", "−")

    rows = []
    for variant in names:
        values = []
        for model in models.values():
            found = model["penalties"].get(variant) or {}
            parts = (said(found.get(part)) for part in ("pos", "neg"))
            values.append(f"{said(found.get('sum'))} ({' + '.join(parts)})")
        rows.append(Row(variant, values))
    return rows


def _skipped(shares: Mapping[str, float] | None) -> tuple[str, str] | None:
    """Share of batches in which the part of positives, and of negatives, was skipped."""
    return (percent(shares["pos"]), percent(shares["neg"])) if shares else None
