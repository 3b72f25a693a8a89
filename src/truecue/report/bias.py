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
"""Shares of changed pictures from which a change counts as seen by a half or a model, and as left
alone by it."""
FAILED, ANOTHER = "failed", "another"
"""Marks of pictures: the change did not work; it did in the latent, but not in the picture."""
_HEAT = ((255, 255, 255), (246, 196, 140), (194, 80, 15), (60, 16, 0))


class Row(NamedTuple):
    """A row of a table of pictures."""

    name: str
    cells: list[tuple[Tile, str]]
    """Pictures, and the mark of each: `FAILED`, `ANOTHER` or none."""


class Table(NamedTuple):
    """Pictures in rows and columns, ready for the page."""

    columns: tuple[str, ...]
    rows: list[Row]
    legend: list[tuple[str, str]]
    """Each mark that there is, and what it means."""

    @property
    def wide(self) -> bool:
        """Whether pictures must be smaller for all columns to be seen at once."""
        return len(self.columns) > 9


def headline(numbers: Mapping[str, Any]) -> tuple[str, str]:
    """One sentence on how far the pictures can be trusted, and its tone."""
    if numbers.get("judge") == MODEL:
        return _headline_of_model(numbers)
    push = numbers["push"] or {}
    both, flips, stays = (measure(push.get("far"), k) for k in ("separated", "flips", "stays"))
    if both.value is None:
        return "There are no pictures of this bias", "unclear"
    said = (
        f"with {as_words(push['factor'])} the smallest change, {percent(both.value)} of the"
        " pictures mislead the biased half and leave the signal half's answer as it was"
        f" ({percent(flips.value)} do the first, {percent(stays.value)} the second)"
    )
    if both.value >= CLEAR:
        return f"The bias can be changed by itself: {said}", "good"
    return f"Read these pictures with care: {said}", "bad"


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


def table(key: str, grid: Grid, judge: str) -> Table:
    """A grid with its pictures encoded.

    Args:
        key: its name among the grids.
        grid: what to show.
        judge: see `BiasPictures`.
    """
    rows = []
    for name, images, captions, failed, another in zip(
        grid.rows, grid.images, grid.captions, grid.failed.tolist(), grid.another.tolist(),
        strict=True,
    ):  # fmt: skip
        made = plain_tiles(key, images, captions)
        marks = (
            FAILED if f else ANOTHER if a else "" for f, a in zip(failed, another, strict=True)
        )
        rows.append(Row(name, list(zip(made, marks, strict=True))))
    aim = "the class of its column" if key == "strip" else "the class aimed at"
    meaning = {
        FAILED: f"framed: the bias latent never came to where the biased half says {aim}; do not"
        " read these"
        if judge == SIGNAL
        else f"framed: the model, shown the picture, does not say {aim}; do not read these",
        ANOTHER: f"dashed: the biased half, shown the picture, does not say {aim}",
    }
    found = {mark for row in rows for _, mark in row.cells}
    return Table(grid.columns, rows, [item for item in meaning.items() if item[0] in found])


def push_table(pictures: BiasPictures) -> Table | None:
    """The grid of the smallest move, with a row that shows where the pictures changed."""
    grid, heat = pictures.grids.get("push"), pictures.heat
    if grid is None or heat is None:
        return None
    made = table("push", grid, pictures.judge)
    painted = plain_tiles("difference", coloured(heat.values), ("",) * len(heat.values))
    which = "smallest change" if pictures.judge == SIGNAL else "last change"
    row = Row(f"difference ({which})", [(tile, "") for tile in painted])
    return made._replace(rows=[*made.rows, row])


def first_shown(numbers: Mapping[str, Any]) -> str:
    """Which of the pushed images are the first ones, as a sentence."""
    passed = (numbers["push"] or {"passed_over": 0})["passed_over"]
    if not passed:
        return "The first ones are shown."
    rest = f"{count(passed)} other{'s' * (passed > 1)} passed over"
    if numbers.get("judge") == MODEL:
        return f"Those that it followed are shown first, and {rest}."
    return f"Those that got there are shown first, and {rest}."


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
        "first_shown": first_shown(numbers),
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
