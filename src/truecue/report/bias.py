"""What reports and pages of a bias share: tables of pictures, difference maps, a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from truecue.audit.show import MODEL, SIGNAL, as_words
from truecue.report.pictures import Picture, Tile, tiles
from truecue.report.view import count, interval, measure, percent

if TYPE_CHECKING:
    from torch import Tensor

    from truecue.audit.show import Grid
    from truecue.audit.shown import BiasPictures

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


def headline(numbers: Mapping[str, Any]) -> tuple[str, str]:
    """One sentence on how far the pictures can be trusted, and its tone."""
    if numbers.get("judge") == MODEL:
        return _headline_of_model(numbers)
    push = numbers["push"] or {}
    flips, stays = (measure(push.get("far"), key) for key in ("flips", "stays"))
    if flips.value is None or stays.value is None:
        return "There are no pictures of this bias", "unclear"
    shares, times = (percent(flips.value), percent(stays.value)), as_words(push["factor"])
    if flips.value >= CLEAR and stays.value >= KEPT:
        return (
            f"The bias can be changed by itself: with {times} the smallest change, {shares[0]} of"
            f" the pictures mislead the biased half and {shares[1]} leave the signal half's answer"
            " as it was",
            "good",
        )
    return (
        f"Read these pictures with care: with {times} the smallest change, {shares[0]} of them"
        f" mislead the biased half and {shares[1]} leave the signal half's answer as it was",
        "bad",
    )


def _headline_of_model(numbers: Mapping[str, Any]) -> tuple[str, str]:
    moved, kept = (measure(numbers[part], "flips") for part in ("swap", "control"))
    if moved.value is None or kept.value is None:
        return "There are no pictures of what goes with this model's answers", "unclear"
    said = (
        f"with the bias latent of another image, {percent(moved.value)} of the pictures change the"
        f" model's answer; with its signal latent, {percent(kept.value)}"
    )
    if moved.value >= CLEAR and kept.value <= 1 - KEPT:
        return f"What was changed moves the model: {said}", "good"
    return f"Read these pictures with care: {said}", "bad"


def columns(numbers: Mapping[str, Any]) -> list[str]:
    """What the columns of `measures` are."""
    if numbers.get("judge") == MODEL:
        longer = "until the model says it"
    else:
        longer = f"{as_words((numbers['push'] or {'factor': 2})['factor'])} that change"
    control = "control: whole signal latent instead"
    names = ("smallest change", longer, "whole bias latent of another image", control)
    return list(names[: len(_parts(numbers))])


def _parts(numbers: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    push = numbers["push"] or {}
    parts = {"push": push, "far": push.get("far") or {}, "swap": numbers["swap"] or {}}
    judged = numbers.get("judge") == MODEL
    return parts | ({"control": numbers["control"] or {}} if judged else {})


def measures(numbers: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """For each number its name, and what it is in each of the `columns`."""
    names = (
        {
            "flips": "the model says another class than before",
            "to_target": "the model says the class aimed at",
            "half_flips": "biased half says another class than before",
            "half_to_target": "biased half says the class aimed at",
        }
        if numbers.get("judge") == MODEL
        else {
            "flips": "biased half says another class than before",
            "to_target": "biased half says the class aimed at",
            "stays": "signal half says the same as before",
            "separated": "both: biased half says another, signal half the same",
        }
    )
    parts = list(_parts(numbers).values())

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
        made = plain_tiles(key, images, captions)
        rows.append(Row(name, list(zip(made, failed, strict=True))))
    return Table(grid.columns, rows)


def push_table(pictures: BiasPictures) -> Table | None:
    """The grid of the smallest move, with a row that shows where the pictures changed."""
    grid, heat = pictures.grids.get("push"), pictures.heat
    if grid is None or heat is None:
        return None
    made = table("push", grid)
    painted = plain_tiles("difference", coloured(heat.values), ("",) * len(heat.values))
    which = "smallest change" if pictures.judge == SIGNAL else "last change"
    row = Row(f"difference ({which})", [(tile, False) for tile in painted])
    return made._replace(rows=[*made.rows, row])


def shortcut(pictures: BiasPictures | None) -> dict[str, Any] | None:
    """What a report shows of a bias; None where there is nothing of it."""
    if pictures is None:
        return None
    numbers = pictures.to_dict()
    return {
        "headline": headline(numbers)[0],
        "notes": pictures.notes,
        "table": push_table(pictures),
        "top": percent(top_of(pictures.heat.values)) if pictures.heat else None,
        "times": as_words(pictures.pushed.factor) if pictures.pushed else None,
    }


def coloured(values: Tensor) -> Tensor:
    """Maps [n, h, w] as pictures uint8 [n, 3, h, w]: white is 0, dark the largest value of all."""
    scale = torch.tensor(_HEAT, dtype=torch.float32)
    place = values / max(top_of(values), 1e-12) * (len(_HEAT) - 1)
    low = place.long().clamp(max=len(_HEAT) - 2)
    share = (place - low)[..., None]
    painted = scale[low] * (1 - share) + scale[low + 1] * share
    return painted.round().to(torch.uint8).movedim(-1, 1)


def plain_tiles(key: str, images: Tensor, captions: tuple[str, ...]) -> list[Tile]:
    """Images with captions and without marks, encoded; `key` names them in errors."""
    return tiles(key, Picture(images, list(captions), [None] * len(captions)))


def top_of(values: Tensor) -> float:
    """The largest value of maps; 0 where there are none."""
    return float(values.max()) if values.numel() else 0.0
