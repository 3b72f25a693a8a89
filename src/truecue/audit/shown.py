"""Pictures and numbers about a learned bias, as plain data and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from truecue.audit import show
from truecue.audit.deepfool import Moved
from truecue.audit.separation import Effect, Separation
from truecue.audit.show import Gallery, Grid, Histogram, Maps
from truecue.metrics.intervals import Estimate


class Pushed(NamedTuple):
    """The images that were pushed to another class's bias, and how that went."""

    ids: Tensor
    """int64 [n], positions in the split that they are from."""
    y: Tensor
    """int64 [n], labels."""
    target: Tensor
    """int64 [n]."""
    moved: Moved
    shift: Tensor
    """float [n], length of the move in the latent."""
    separation: Separation | Effect
    """Of those whose move reached its target."""
    far: Separation | Effect
    """The same with longer moves, in the same direction."""
    factor: float
    """How many times as long; where a classifier is followed, at most."""
    times: Tensor | None = None
    """float [n], how many times as long each is: the first length at which the classifier says the
    target; infinite where none does. None where no classifier is followed."""

    @property
    def reached(self) -> Tensor:
        """Whether it worked, bool [n].

        The biased half says the target at the end of the move; or, where a classifier is followed,
        that one says so of the picture of the longer move.
        """
        return self.moved.reached if self.times is None else self.times.isfinite()

    @property
    def order(self) -> Tensor:
        """In which order images are shown, int64 [n]: those for which it worked come first."""
        return self.reached.logical_not().sort(stable=True).indices

    @property
    def passed_over(self) -> int:
        """How many that come before a shown one are not shown, because it did not work for them."""
        first = self.order[: show.COLUMNS]
        return int(first.max()) + 1 - len(first)


@dataclass(frozen=True)
class BiasPictures:
    """Pictures and numbers about a learned bias."""

    classes: tuple[str, ...]
    split: str
    """The split that the pushed images are from."""
    gallery: tuple[Gallery, Gallery]
    """Training images with the lowest and the highest biased-half probability of their label."""
    histogram: Histogram
    auc: float | None
    """Chance that a conflicting training image has a lower probability than an aligned one; None
    without bias labels."""
    grids: Mapping[str, Grid] = field(default_factory=dict)
    """`push`, `strip`, `swap` and `pairs`, those that could be made."""
    heat: Maps | None = None
    """One map for each column of the grid `push`."""
    class_maps: Maps | None = None
    pushed: Pushed | None = None
    swapped: Separation | Effect | None = None
    """The same numbers where the whole bias latent of another image was put in."""
    judge: str = show.SIGNAL
    """Who judges the pictures beside the biased half: "signal", the signal half, or "model", the
    classifier that the biased half follows."""
    faithful: Estimate | None = None
    """Share of the pushed images of whose reconstruction the classifier says what it says of the
    image; None where no classifier is followed."""
    control: Effect | None = None
    """What it does to the classifier to put in the whole signal latent of the images that give
    their bias latents in a swap."""
    notes: tuple[str, ...] = ()
    """What could not be made or did not work, in sentences."""

    def summary(self) -> dict[str, Any]:
        """The numbers about all images together, for a report's JSON."""
        push = _pushed(self.pushed, self.classes) or {}
        return {
            "split": self.split,
            "push": {key: value for key, value in push.items() if key != "images"} or None,
            "swap": self.swapped and self.swapped.to_dict(),
            **self._judged(),
            "auc": self.auc,
            "notes": list(self.notes),
        }

    def to_dict(self) -> dict[str, Any]:
        """All numbers and captions, for JSON; the pictures themselves are left out."""
        return {
            "format": 1,
            "kind": "bias",
            "classes": list(self.classes),
            "split": self.split,
            "notes": list(self.notes),
            "push": _pushed(self.pushed, self.classes),
            "swap": self.swapped and self.swapped.to_dict(),
            **self._judged(),
            "auc": self.auc,
            "grids": {key: _grid(grid) for key, grid in self.grids.items()},
            "class_maps": self.class_maps and _maps(self.class_maps),
            "gallery": {
                key: _gallery(sheet)
                for key, sheet in zip(("lowest", "highest"), self.gallery, strict=True)
            },
            "histogram": {
                "bins": show.BINS,
                "counts": dict(
                    zip(self.histogram.classes, self.histogram.counts.tolist(), strict=True)
                ),
            },
        }

    def _judged(self) -> dict[str, Any]:
        return {
            "judge": self.judge,
            "faithful": self.faithful and self.faithful.to_dict(),
            "control": self.control and self.control.to_dict(),
        }


def _pushed(pushed: Pushed | None, classes: tuple[str, ...]) -> dict[str, Any] | None:
    if pushed is None:
        return None
    moved = pushed.moved
    columns = {
        "image": pushed.ids.tolist(),
        "label": [classes[y] for y in pushed.y.tolist()],
        "target": [classes[t] for t in pushed.target.tolist()],
        "reached": pushed.reached.tolist(),
        "rescued": moved.rescued.tolist(),
        "steps": moved.steps.tolist(),
        "shift": [round(s, 4) for s in pushed.shift.tolist()],
    }
    if pushed.times is not None:
        columns["half_reached"] = moved.reached.tolist()
        columns["times"] = [round(t, 3) if t < float("inf") else None
                            for t in pushed.times.tolist()]  # fmt: skip
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "tried": len(rows),
        "reached": int(pushed.reached.sum()),
        "rescued": int(moved.rescued.sum()),
        "passed_over": pushed.passed_over,
        **pushed.separation.to_dict(),
        "factor": pushed.factor,
        "far": pushed.far.to_dict(),
        "images": rows,
    }


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "rows": list(grid.rows),
        "columns": list(grid.columns),
        "captions": [list(row) for row in grid.captions],
        "failed": grid.failed.tolist(),
        "another": grid.another.tolist(),
    }


def _maps(maps: Maps) -> list[dict[str, Any]]:
    rows = zip(maps.titles, maps.counts, maps.values, strict=True)
    return [
        {"class": title, "pictures": n, "mean": float(v.mean()), "max": float(v.max())}
        for title, n, v in rows
    ]


def _gallery(sheet: Gallery) -> list[dict[str, Any]]:
    rows = zip(sheet.ids.tolist(), sheet.p.tolist(), sheet.captions, sheet.marks, strict=True)
    return [{"image": i, "p": p, "caption": c, "mark": m} for i, p, c, m in rows]
