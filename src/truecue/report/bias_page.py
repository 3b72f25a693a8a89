"""The pictures of a learned bias: a page that explains itself, image files, and the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truecue.audit.show import BINS, MODEL, MOST_CLASSES, as_words
from truecue.report import facts
from truecue.report.bias import (
    coloured,
    columns,
    first_shown,
    headline,
    measures,
    plain_tiles,
    push_table,
    table,
    top_of,
)
from truecue.report.page import environment
from truecue.report.pictures import Picture, Tile, tiles
from truecue.report.report import twin_of, write_page
from truecue.report.sheet import sheet
from truecue.report.svg import svg, svg_file
from truecue.report.view import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from truecue.audit.show import Gallery, Maps
    from truecue.audit.shown import BiasPictures


def write_bias_page(
    pictures: BiasPictures, out: Path | str, about: Mapping[str, Any] | None = None
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
    out = Path(out)
    files = image_files(pictures)
    twin = twin_of({"about": dict(about or {}), **pictures.to_dict(), "files": sorted(files)})
    page = render(pictures, json.loads(twin))
    return write_page(out / "index.html", page, "bias.json", twin, files)


def render(pictures: BiasPictures, numbers: Mapping[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        pictures: what to show.
        numbers: what the JSON file holds.
    """
    heat, maps = pictures.heat, pictures.class_maps
    names = ("push", "strip", "swap", "pairs")
    grids = {key: table(key, grid, pictures.judge) for key, grid in pictures.grids.items()}
    tables = dict.fromkeys(names) | grids
    tables |= {"push": pushed} if (pushed := push_table(pictures)) else {}
    sheets = zip(("lowest", "highest"), pictures.gallery, strict=True)
    return environment().get_template("bias.html.j2").render(
        data=numbers["about"].get("data"),
        created=facts.moment(numbers["about"].get("created")),
        facts=facts_of(numbers["about"]),
        headline=headline(numbers),
        notes=pictures.notes,
        split=_SPLITS[pictures.split],
        push=numbers["push"],
        times=as_words(pictures.pushed.factor) if pictures.pushed else None,
        judged=pictures.judge == MODEL,
        faithful=None if pictures.faithful is None else percent(pictures.faithful.value),
        most=None if pictures.pushed is None else f"{pictures.pushed.factor:g}",
        first_shown=first_shown(numbers),
        columns=columns(numbers),
        rows=measures(numbers),
        auc=None if pictures.auc is None else percent(pictures.auc, 1),
        tables=tables,
        heat_top=None if heat is None else percent(top_of(heat.values)),
        maps=[] if maps is None else _map_tiles(maps),
        maps_top=None if maps is None else percent(top_of(maps.values)),
        galleries={key: tiles(key, _picture(gallery)) for key, gallery in sheets},
        histograms=histograms(pictures),
        left_out=max(0, len(pictures.histogram.classes) - MOST_CLASSES),
        files=numbers["files"],
    )  # fmt: skip


def image_files(pictures: BiasPictures) -> dict[str, bytes]:
    """Every picture as a file of its own, by file name."""
    files = {}
    for key, grid in pictures.grids.items():
        files[f"{key}.png"] = sheet(
            grid.images, grid.rows, grid.columns, grid.failed, dashed=grid.another & ~grid.failed
        )
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
        top = max(10, 2 * int(counts.max()))
        ticks = [0, *(10**k for k in range(len(str(top))))]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, top)
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
        gallery.images,
        [f"{text}, p\u00a0{percent(p, 1)}" for text, p in pairs],
        list(gallery.marks),
    )


def _map_tiles(maps: Maps) -> list[Tile]:
    rows = zip(maps.titles, maps.counts, strict=True)
    said = tuple(f"bias of {title} · {n} picture{'s' * (n > 1)}" for title, n in rows)
    return plain_tiles("maps", coloured(maps.values), said)


def facts_of(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How something was made, as names and values."""
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
