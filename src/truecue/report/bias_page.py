"""The pictures of a learned bias: a page that explains itself, image files, and the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from truecue.atomic import atomic, write_text
from truecue.audit.show import BINS, MOST_CLASSES, as_words
from truecue.report import facts
from truecue.report.page import environment
from truecue.report.pictures import Picture, Tile, tiles
from truecue.report.report import finite, sound
from truecue.report.sheet import sheet
from truecue.report.svg import svg, svg_file
from truecue.report.view import count, interval, measure, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from truecue.audit.bias import BiasPictures
    from truecue.audit.show import Gallery, Grid, Maps

CLEAR, KEPT = 0.5, 0.8
"""Shares of changed pictures from which the biased half counts as misled, and the signal half as
left alone."""
_HEAT = ((255, 255, 255), (246, 196, 140), (194, 80, 15), (60, 16, 0))


class Row(NamedTuple):
    """A row of a table of pictures."""

    name: str
    cells: list[tuple[Tile, bool]]
    """Pictures, and whether each failed."""


class Table(NamedTuple):
    """Pictures in rows and columns, ready for the page."""

    columns: tuple[str, ...]
    rows: list[Row]

    @property
    def wide(self) -> bool:
        """Whether pictures must be smaller for all columns to be seen at once."""
        return len(self.columns) > 9

    @property
    def failed(self) -> bool:
        """Whether any picture failed."""
        return any(failed for row in self.rows for _, failed in row.cells)


def write_bias_page(
    pictures: BiasPictures, out: Path, about: Mapping[str, Any] | None = None
) -> Path:
    """Write `index.html`, `bias.json` and an image file of each picture into a folder.

    Everything is made before anything is written, and each file replaces the one of its name at
    once. The page opens in any browser, without a network, and loads nothing.

    Args:
        pictures: what to show.
        out: the folder; made if it does not exist.
        about: plain values on how the pictures were made, for the page and the JSON file: `data`,
            `model`, `command`, `seed`, `created`, `versions`, ...

    Returns:
        The path of the page.

    Raises:
        StorageError: a file could not be written.
    """
    files = image_files(pictures)
    numbers = finite({"about": dict(about or {}), **pictures.to_dict(), "files": sorted(files)})
    twin = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(pictures, json.loads(twin))
    for name, content in files.items():
        with atomic(out / name) as temporary:
            temporary.write_bytes(content)
    write_text(out / "bias.json", sound(twin))
    write_text(out / "index.html", sound(page))
    return out / "index.html"


def render(pictures: BiasPictures, numbers: Mapping[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        pictures: what to show.
        numbers: what the JSON file holds.
    """
    heat, maps = pictures.heat, pictures.class_maps
    tables = {key: table(key, grid) for key, grid in pictures.grids.items()}
    if heat is not None:
        painted = _tiles("difference", coloured(heat.values), ("",) * len(heat.values))
        tables["push"].rows.append(
            Row("difference (smallest change)", [(tile, False) for tile in painted])
        )
    sheets = zip(("lowest", "highest"), pictures.gallery, strict=True)
    return environment().get_template("bias.html.j2").render(
        about=numbers["about"],
        created=facts.moment(numbers["about"].get("created")),
        facts=_facts(numbers["about"]),
        headline=headline(numbers),
        notes=pictures.notes,
        split=_SPLITS[pictures.split],
        push=numbers["push"],
        times=as_words(pictures.pushed.factor) if pictures.pushed else None,
        rows=measures(numbers),
        auc=None if pictures.auc is None else percent(pictures.auc, 1),
        tables=tables,
        heat_top=None if heat is None else percent(_top(heat.values)),
        maps=[] if maps is None else _map_tiles(maps),
        maps_top=None if maps is None else percent(_top(maps.values)),
        galleries={key: tiles(key, _picture(gallery)) for key, gallery in sheets},
        histograms=histograms(pictures),
        left_out=max(0, len(pictures.histogram.classes) - MOST_CLASSES),
        files=numbers["files"],
    )  # fmt: skip


def headline(numbers: Mapping[str, Any]) -> tuple[str, str]:
    """One sentence on how far the pictures can be trusted, and its tone."""
    push = numbers["push"] or {}
    flips, stays = (measure(push.get("far"), key) for key in ("flips", "stays"))
    if flips.value is None or stays.value is None:
        return "There are no pictures of this bias", "unclear"
    shares, times = (percent(flips.value), percent(stays.value)), as_words(push["factor"])
    if flips.value >= CLEAR and stays.value >= KEPT:
        return (
            f"The bias can be changed by itself: with {times} the smallest change,"
            f" {shares[0]} of the pictures mislead the biased half and {shares[1]} leave the signal"
            " half's answer as it was",
            "good",
        )
    return (
        f"Read these pictures with care: with {push['factor']:g} times the smallest change, only"
        f" {shares[0]} of them mislead the biased half, and {shares[1]} leave the signal half's"
        " answer as it was",
        "bad",
    )


def measures(numbers: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """For each number its name, and what it is for the smallest move, a longer one, and a swap."""
    names = {
        "flips": "biased half says another class than before",
        "to_target": "biased half says the class aimed at",
        "stays": "signal half says the same as before",
        "separated": "both: biased half says another, signal half the same",
    }
    push = numbers["push"] or {}
    parts = [push, push.get("far") or {}, numbers["swap"] or {}]

    def said(part: Mapping[str, Any], key: str) -> str:
        found = measure(part, key)
        return f"{percent(found.value)} ({interval(found)})" if part else percent(None)

    rows = [(name, [said(part, key) for part in parts]) for key, name in names.items()]
    return [
        *rows,
        ("mean change of a pixel", [percent(part.get("change"), 1) for part in parts]),
        ("pictures judged", [count(part.get("n", 0)) for part in parts]),
    ]


def table(key: str, grid: Grid) -> Table:
    """A grid with its pictures encoded."""
    rows = []
    for name, images, captions, failed in zip(
        grid.rows, grid.images, grid.captions, grid.failed.tolist(), strict=True
    ):
        made = _tiles(key, images, captions)
        rows.append(Row(name, list(zip(made, failed, strict=True))))
    return Table(grid.columns, rows)


def image_files(pictures: BiasPictures) -> dict[str, bytes]:
    """Every picture as a file of its own, by file name."""
    files = {}
    for key, grid in pictures.grids.items():
        files[f"{key}.png"] = sheet(grid.images, grid.rows, grid.columns, grid.failed)
    if pictures.heat is not None:
        images = coloured(pictures.heat.values)[None]
        files["difference.png"] = sheet(images, ("difference",), pictures.heat.titles)
    if pictures.class_maps is not None and len(pictures.class_maps.values):
        titles = tuple(f"bias of {t}" for t in pictures.class_maps.titles)
        files["class_maps.png"] = sheet(coloured(pictures.class_maps.values)[None], ("",), titles)
    for key, gallery in zip(("lowest", "highest"), pictures.gallery, strict=True):
        if len(gallery.images):
            files[f"gallery_{key}.png"] = _gallery_sheet(gallery)
    files["histogram.svg"] = svg_file(2.6, 1.7, _bars(pictures.histogram.counts.sum(0)))
    return files


def coloured(values: Tensor) -> Tensor:
    """Maps [n, h, w] as pictures uint8 [n, 3, h, w]: white is 0, dark the largest value of all."""
    scale = torch.tensor(_HEAT, dtype=torch.float32)
    place = values / max(_top(values), 1e-12) * (len(_HEAT) - 1)
    low = place.long().clamp(max=len(_HEAT) - 2)
    share = (place - low)[..., None]
    painted = scale[low] * (1 - share) + scale[low + 1] * share
    return painted.round().to(torch.uint8).movedim(-1, 1)


def histograms(pictures: BiasPictures) -> list[tuple[str, str]]:
    """Of all classes, and of each: title, and the figure as a data address."""
    counts, classes = pictures.histogram
    every = [("all classes", counts.sum(0)), *zip(classes, counts, strict=True)]
    return [(title, svg(2.6, 1.5, _bars(row))) for title, row in every[: MOST_CLASSES + 1]]


def _bars(counts: Tensor) -> Any:
    def draw(axes: Axes) -> None:
        places = [(b + 0.5) / BINS for b in range(BINS)]
        axes.bar(places, counts.tolist(), 0.9 / BINS, color="#c2500f")
        axes.set(xlim=(0, 1), xlabel="probability of the label")
        # a handful of exceptions must be visible beside thousands
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, max(10, 2 * int(counts.max())))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(axis="y")

    return draw


def _gallery_sheet(gallery: Gallery) -> bytes:
    columns = 8
    n = len(gallery.images) // columns * columns or len(gallery.images)
    width = min(columns, n)
    images = gallery.images[:n].unflatten(0, (n // width, width))
    low, high = float(gallery.p[:n].min()), float(gallery.p[:n].max())
    title = f"label's probability {percent(low, 1)} to {percent(high, 1)}"
    return sheet(images, (title, *[""] * (n // width - 1)), ("",) * width)


def _picture(gallery: Gallery) -> Picture:
    pairs = zip(gallery.captions, gallery.p.tolist(), strict=True)
    return Picture(
        gallery.images, [f"{text} · p {percent(p, 1)}" for text, p in pairs], list(gallery.marks)
    )


def _map_tiles(maps: Maps) -> list[Tile]:
    rows = zip(maps.titles, maps.counts, strict=True)
    said = tuple(f"bias of {title} · {n} picture{'s' * (n > 1)}" for title, n in rows)
    return _tiles("maps", coloured(maps.values), said)


def _tiles(key: str, images: Tensor, captions: tuple[str, ...]) -> list[Tile]:
    return tiles(key, Picture(images, list(captions), [None] * len(captions)))


def _top(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "data": "Data", "model": "Model", "command": "Command", "seed": "Seed of the choices",
        "device": "Device", "truecue": "truecue",
    }  # fmt: skip
    return [(name, str(about[key])) for key, name in names.items() if about.get(key) is not None]


_SPLITS = {
    "val": "validation images",
    "train": "training images (there are no validation images)",
    "images": "images given",
}
