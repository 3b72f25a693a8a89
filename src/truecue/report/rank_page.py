"""Ranks of models' features as a page, figures and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truecue.report import facts
from truecue.report import rank_figures as draw
from truecue.report.bias_page import facts_of
from truecue.report.figures import Panel
from truecue.report.page import environment
from truecue.report.report import twin_of, write_page
from truecue.report.svg import data_address, svg_file
from truecue.report.view import count, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from truecue.audit.rank import FeatureRank, RankComparison

MOST = 24
"""Heat maps on a page, at most."""
ERROR_OF = 2500
"""Shares of conflicting images count as the same if they differ by no more than the standard error
of a share of so many images: 1 % and 1.2 %, 5 % and 5.4 %, 20 % and 20.8 %."""


def write_rank_page(
    found: RankComparison, out: Path | str, about: Mapping[str, Any] | None = None
) -> Path:
    """Write `index.html`, `rank.json` and an SVG file of each figure into a folder.

    Everything is made before anything is written, and each file replaces the one of its name at
    once.

    Args:
        found: what to show.
        out: the folder; made if it does not exist.
        about: plain values on how it was made: `data`, `command`, `seed`, `created`, ...

    Returns:
        The path of the page.

    Raises:
        StorageError: a file could not be written.
    """
    out = Path(out)
    files = figures(found)
    twin = twin_of({"about": dict(about or {}), **found.to_dict(), "files": sorted(files)})
    page = render(found, files, json.loads(twin))
    return write_page(out / "index.html", page, "rank.json", twin, files)


def render(found: RankComparison, files: Mapping[str, bytes], numbers: Mapping[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        found: what to show.
        files: the figures by file name.
        numbers: what the JSON file holds.
    """
    models = numbers["models"]
    return environment().get_template("rank.html.j2").render(
        headline=headline(numbers),
        created=facts.moment(numbers["about"].get("created")),
        data=numbers["about"].get("data"),
        facts=facts_of(numbers["about"]),
        split=_SPLITS.get(found.split, found.split),
        center=found.center,
        n=count(found.n),
        rows=rows(numbers),
        unknown=any("–" in row for row in rows(numbers)),
        biased=any(model["conflicting"] is not None for model in models),
        few=any(model["n"] < 2 * model["n_features"] for model in models),
        dead=[(m["name"], m["dead"]) for m in models if m["dead"]],
        panels=[
            Panel(title, note, data_address(files[name]), title, draw.legend(
                [f"{m['name']}: H {m['entropy']:.2f}" for m in models] if name == "spectra.svg"
                else _AGAINST), False)
            for name, (title, note) in _PANELS.items() if name in files
        ],
        maps=[
            (model.name, data_address(files[f"correlation-{k}.svg"]))
            for k, model in enumerate(found.models[:MOST])
        ],
        left_out=max(0, len(found.models) - MOST),
        files=numbers["files"],
    )  # fmt: skip


def headline(numbers: Mapping[str, Any]) -> str:
    """One sentence: how many directions the features use, or how models differ in that."""
    models = numbers["models"]
    ranks = [(model["effective_rank"], model["name"]) for model in models]
    if len(models) == 1:
        return f"Of {count(models[0]['n_features'])} features, about {ranks[0][0]:.1f} are used"
    low, high = min(ranks), max(ranks)
    return (
        f"Effective ranks from {low[0]:.1f} ({low[1]}) to {high[0]:.1f} ({high[1]})"
        f" in {len(models)} models"
    )


def rows(numbers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model: name, H, exp(H), features, L_reg, bias, strength, accuracies."""
    return [
        (
            m["name"],
            f"{m['entropy']:.3f}",
            f"{m['effective_rank']:.2f}",
            count(m["n_features"]),
            f"{m['penalty']:.3f}",
            percent(m["conflicting_share"], 1),
            "–" if m["strength"] is None else f"{m['strength']:.4g}",
            percent(m["aligned"], 1),
            percent(m["conflicting"], 1),
        )
        for m in numbers["models"]
    ]


def figures(found: RankComparison) -> dict[str, bytes]:
    """Every figure as the content of an SVG file, by file name."""
    shares = [(m.sizes / m.sizes.sum().clamp(min=1e-300)).tolist() for m in found.models]
    files = {"spectra.svg": svg_file(4.6, 2.9, draw.spectra(shares), left=0.75)}
    for name, key in _PROPERTIES.items():
        points = [m for m in found.models if getattr(m, key) is not None]
        if len(alike(points, key)) > 1:
            files[name] = svg_file(4.8, 2.9, against(points, key), right=0.8)
    for k, model in enumerate(found.models[:MOST]):
        files[f"correlation-{k}.svg"] = draw.map_file(model.correlation.tolist())
    return files


def alike(models: list[FeatureRank], key: str) -> list[list[FeatureRank]]:
    """Models of about the same share of conflicting images, or of the same strength, ascending.

    A suite's share is not exact: it differs a little from seed to seed.
    """
    groups: list[list[FeatureRank]] = []
    for model in sorted(models, key=lambda m: float(getattr(m, key))):
        first = getattr(groups[-1][0], key) if groups else math.nan
        share = key == "conflicting_share"
        near = math.sqrt(first * (1 - first) / ERROR_OF) if share else 0.0
        if getattr(model, key) - first <= near:
            groups[-1].append(model)
        else:
            groups.append([model])
    return groups


def against(models: list[FeatureRank], key: str, *, legend: bool = False) -> Any:
    """H against one property of the models, with accuracies on a second axis; means over alike.

    A page has the legend beside its figures; `legend` puts it below one that stands alone.
    """
    groups = alike(models, key)
    places = [float(k) for k in range(len(groups))]  # even distances: often chosen by factors

    def mean(name: str, group: list[FeatureRank]) -> float:
        known = [getattr(m, name) for m in group if getattr(m, name) is not None]
        return sum(known) / len(known) if known else math.nan

    def draw_it(axes: Axes) -> None:
        second = axes.twinx()
        for name, colour in (("aligned", draw.colour_of(1)), ("conflicting", draw.colour_of(2))):
            values = [100 * mean(name, group) for group in groups]
            second.plot(places, values, color=colour, linestyle="--", marker="s", markersize=3)
        axes.plot(places, [mean("entropy", group) for group in groups], color=draw.colour_of(0),
                  marker="o", markersize=4)  # fmt: skip
        for place, group in zip(places, groups, strict=True):
            every = [m.entropy for m in group]
            axes.scatter([place] * len(every), every, color=draw.colour_of(0), s=8, alpha=0.5)
        share = key == "conflicting_share"
        xs = [mean(key, group) for group in groups]
        axes.set_xticks(places, [f"{float(f'{100 * x:.2g}'):g} %" if share else f"{x:g}"
                                 for x in xs])  # fmt: skip
        axes.set(xlabel="conflicting training images" if share else "strength of the regulariser",
                 ylabel="H")  # fmt: skip
        second.set(ylim=(-3, 103), ylabel="accuracy on test images")
        second.set_yticks(range(0, 101, 25), [f"{y} %" for y in range(0, 101, 25)])
        axes.grid(axis="y")
        if legend:
            handles = [*axes.lines, *second.lines]
            axes.legend(handles, ["H (dots: single models)", "accuracy, aligned",
                                  "accuracy, conflicting"], frameon=False, ncols=3,
                        loc="upper center", bbox_to_anchor=(0.5, -0.17))  # fmt: skip

    return draw_it


_AGAINST = ["H (left axis; dots: single models)", "accuracy on aligned test images",
            "accuracy on conflicting test images"]  # fmt: skip
_PROPERTIES = {"against_bias.svg": "conflicting_share", "against_strength.svg": "strength"}
_PANELS = {
    "spectra.svg": ("Singular values over their sum", "largest first"),
    "against_bias.svg": ("Effective rank against bias", "H, and accuracy (dashed, right axis)"),
    "against_strength.svg": (
        "Effective rank against the regulariser", "H, and accuracy (dashed, right axis)"
    ),
}  # fmt: skip
_SPLITS = {"train": "training images", "val": "validation images", "test": "test images"}
