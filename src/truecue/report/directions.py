"""Pages and pictures of directions: what each does to an image, before and after refining."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from truecue.report import facts
from truecue.report.bias import plain_tiles
from truecue.report.figures import AFTER, POINTS, ROLES
from truecue.report.page import environment
from truecue.report.pictures import MOST, Tile
from truecue.report.report import twin_of, write_page
from truecue.report.sheet import sheet
from truecue.report.svg import svg
from truecue.report.view import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

SHOWN = 20
"""Directions that a page shows; the others are in the JSON file."""
STARTS = 6
"""Starts that a page shows."""


class Strip(NamedTuple):
    """One row of pictures."""

    name: str
    about: str
    tiles: list[Tile]


class Traversal(NamedTuple):
    """Images of every step along every direction, from several starts."""

    images: Tensor
    """uint8 [starts, k, steps, c, h, w]."""
    steps: Sequence[float]
    names: Sequence[str]
    """Of the k directions."""
    about: Sequence[str]
    """What is known of each direction, in a few words."""


def write_traversal(
    shown: Traversal, out: Path, about: Mapping[str, Any], values: Mapping[str, Any]
) -> Path:
    """Write `index.html`, `traversal.json` and a picture for each start into a folder.

    Args:
        shown: the images.
        out: the folder; made if it does not exist.
        about: how it was made, for page and JSON file.
        values: what the JSON file holds besides.

    Returns:
        The path of the page.

    Raises:
        StorageError: a file could not be written.
    """
    starts = min(len(shown.images), STARTS)
    files = {f"start{i}.png": picture(shown, i) for i in range(starts)}
    numbers = {"about": dict(about), "steps": list(shown.steps), "names": list(shown.names),
               **values, "files": sorted(files)}  # fmt: skip
    context = {
        "title": "Traversals",
        "headline": (f"What {len(shown.names)} directions do to an image", "unclear"),
        "lead": "Each row moves one code along one direction; the framed picture is where it"
        " starts. A good direction changes one thing, the same from every start. Beside its number:"
        " how much it changes the image and, where that is known, the share of pairs that the"
        " scorer orders rightly along it, and the strength that it was found by.",
        "columns": [signed(s) for s in shown.steps],
        "by_start": by_start(shown),
        "by_direction": by_direction(shown),
    }
    return _write(out, "traversal.json", numbers, files, context)


def write_refined(
    before: Traversal, after: Traversal, report: Mapping[str, Any], out: Path,
    about: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write `index.html`, `refined.json` and pictures of what refining did into a folder.

    Args:
        before: the directions to begin with, from the same starts.
        after: the refined ones.
        report: what `refine` says, as plain values.
        out: the folder; made if it does not exist.
        about: how it was made, for page and JSON file.

    Returns:
        The path of the page.

    Raises:
        StorageError: a file could not be written.
    """
    files = {"before-after.png": before_after_picture(before, after)}
    files |= {"start0.png": picture(after, 0)}
    rows = sorted(report["directions"], key=lambda row: -row["ranked_right"])
    accuracy = [row["ranked_right"] for row in rows]
    told = sum(a > 0.75 for a in accuracy)
    context = {
        "title": "Refined directions",
        "headline": (
            f"For {told} of {len(rows)} directions the scorer tells in more than three of four"
            " pairs which image was moved further",
            "good" if told == len(rows) else "unclear" if told else "bad",
        ),
        "lead": "A scorer sees two images of the same code, moved by different steps along all"
        " directions at once, and says for each direction which was moved further. Directions were"
        " turned so that this gets easier: one whose effect does not mix with the others' is"
        " easier to tell. No labels were used.",
        "warnings": report["warnings"],
        "pairs": list(zip(strips(before, 0), strips(after, 0), strict=True)),
        "columns": [signed(s) for s in after.steps],
        "by_start": by_start(after),
        "by_direction": by_direction(after),
        "panels": [
            ("Loss in training", training(report["curve"])),
            ("Mean angle from where directions began", turning(report["curve"])),
            ("Pairs ordered rightly, by direction", bars(accuracy)),
        ],
        "rows": [
            (
                row["name"],
                percent(row["ranked_right"], 1),
                f"{row['change']:.3f}",
                f"{row['turned']:.1f}°",
                "" if row["visible"] else "invisible",
            )
            for row in rows
        ],
        "judged": f"{report['pairs']:,}",
    }
    numbers = {"about": dict(about), **report, "files": sorted(files)}
    return _write(out, "refined.json", numbers, files, context)


def picture(shown: Traversal, start: int) -> bytes:
    """One start's traversal as a PNG file: directions in rows, steps in columns."""
    import torch

    k, m = min(len(shown.names), SHOWN), len(shown.steps)
    framed = torch.zeros(k, m, dtype=torch.bool)
    framed[:, m // 2] = True
    names = [
        f"{name} ({about})" if about else name
        for name, about in zip(shown.names[:k], shown.about[:k], strict=True)
    ]
    return sheet(shown.images[start, :k], names, [signed(s) for s in shown.steps], framed)


def before_after_picture(before: Traversal, after: Traversal) -> bytes:
    """Two rows for each direction, before and after, from the first start."""
    import torch

    k, m = min(len(after.names), SHOWN), len(after.steps)
    rows = torch.stack([before.images[0, :k], after.images[0, :k]], 1).flatten(0, 1)
    names = [f"{name} {when}" for name in after.names[:k] for when in ("before", "after")]
    framed = torch.zeros(2 * k, m, dtype=torch.bool)
    framed[:, m // 2] = True
    return sheet(rows, names, [signed(s) for s in after.steps], framed)


def strips(shown: Traversal, start: int) -> list[Strip]:
    """The rows of one start, one for each direction."""
    said = zip(shown.names, shown.about, shown.images[start], strict=True)
    return [_strip(name, about, images) for name, about, images in list(said)[:SHOWN]]


def by_start(shown: Traversal) -> list[tuple[str, list[Strip]]]:
    """For each start its rows."""
    return [(f"start {i + 1}", strips(shown, i)) for i in range(min(len(shown.images), STARTS))]


def by_direction(shown: Traversal) -> list[tuple[str, list[Strip]]]:
    """For each direction a row from every start."""
    starts = min(len(shown.images), STARTS)
    return [
        (name, [_strip(f"start {i + 1}", "", shown.images[i, k]) for i in range(starts)])
        for k, name in enumerate(shown.names[:SHOWN])
    ]


def training(curve: Sequence[Mapping[str, Any]]) -> str:
    """Both losses over training, with what a scorer without knowledge has, as a data address."""

    def draw(axes: Axes) -> None:
        for name, colour in (("scorer", ROLES["biased"]), ("directions", AFTER)):
            known = [row for row in curve if row.get(name) is not None]
            known = known[:: -(-len(known) // POINTS) or 1]
            places = [row["step"] for row in known]
            axes.plot(places, [row[name] for row in known], color=colour, label=name)
        axes.axhline(math.log(2), color="#8b94a3", linestyle="--", linewidth=1)
        axes.text(1, math.log(2) - 0.02, "chance: ln 2", ha="right", va="top", fontsize=8,
                  transform=axes.get_yaxis_transform(), color="#4a5362")  # fmt: skip
        axes.set(xlabel="step", ylabel="ranking loss", ylim=(0, 0.8))
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        axes.grid(axis="y")

    return svg(3.6, 2.3, draw)


def turning(curve: Sequence[Mapping[str, Any]]) -> str:
    """How far directions have turned over training, as a data address."""

    def draw(axes: Axes) -> None:
        known = [row for row in curve if row.get("turned") is not None]
        known = known[:: -(-len(known) // POINTS) or 1]
        axes.plot([row["step"] for row in known], [row["turned"] for row in known], color=AFTER)
        axes.set(xlabel="step", ylabel="degrees")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")

    return svg(3.6, 2.3, draw)


def bars(accuracy: Sequence[float]) -> str:
    """The accuracy of each direction, best first, as a data address."""

    def draw(axes: Axes) -> None:
        places = range(1, len(accuracy) + 1)
        axes.bar(places, [100 * a for a in accuracy], 0.8, color=AFTER)
        axes.axhline(50, color="#8b94a3", linestyle="--", linewidth=1)
        axes.set(xlabel="directions, best first", ylim=(40, 102))
        axes.set_yticks([50, 75, 100], ["50 % (chance)", "75 %", "100 %"])
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")

    return svg(3.6, 2.3, draw, left=1.0)


def signed(step: float) -> str:
    """A step as a column's name."""
    return "start" if step == 0 else f"{step:+.3g}".replace("-", "\u2212")


def _strip(name: str, about: str, images: Tensor) -> Strip:
    return Strip(name, about, plain_tiles("traversal", images[:MOST], ("",) * len(images)))


def _write(
    out: Path, twin_name: str, numbers: Mapping[str, Any], files: Mapping[str, bytes],
    context: dict[str, Any],
) -> Path:  # fmt: skip
    twin = twin_of(numbers)
    about = json.loads(twin)["about"]
    empty: dict[str, Any] = {"warnings": [], "pairs": [], "panels": [], "rows": [], "judged": ""}
    page = environment().get_template("directions.html.j2").render(
        empty | context | {
            "created": facts.moment(about.get("created")),
            "facts": facts_of(about),
            "twin": twin_name,
            "files": sorted(files),
        }
    )  # fmt: skip
    return write_page(out / "index.html", page, twin_name, twin, files)


def facts_of(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a page was made: names and values."""
    names = {"generator": "Generator", "found_by": "Directions", "step": "Step", "seed": "Seed",
             "command": "Command", "device": "Device", "truecue": "truecue"}  # fmt: skip
    return [(name, str(about[key])) for key, name in names.items() if about.get(key) is not None]
