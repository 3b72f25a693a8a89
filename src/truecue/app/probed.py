"""A folder that `truecue directions probe` wrote: directions to judge, with their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from truecue.audit.direction_answers import ProbedDirection
from truecue.errors import DataError


class Probed:
    """Directions of a generator, and what a classifier does along them.

    Args:
        folder: that the command wrote.

    Raises:
        DataError: it holds no `probe.json`, or one without what it takes to judge directions.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "probe.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} holds no probed directions ({error}); 'truecue directions probe' writes"
                " them"
            ) from None
        try:
            self._read(told)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise DataError(
                f"{path} lacks what it takes to judge directions: run 'truecue directions probe'"
                " again, by this version"
            ) from None

    def _read(self, told: dict[str, Any]) -> None:
        judged = told["to_judge"]
        self.about: dict[str, Any] = dict(told["about"])
        self.classifier = str(judged["classifier"])
        """Digest of the classifier."""
        self.ends: tuple[float, float] = (float(judged["steps"][0]), float(judged["steps"][1]))
        """The first and the last step."""
        self.shown: tuple[int, ...] = tuple(map(int, judged["shown"]))
        """Positions of the directions that have pictures, most interesting first."""
        self.rows: list[dict[str, Any]] = [dict(row) for row in told["directions"]]
        """What was measured of each direction."""
        real = told["real"] or {}
        self.gaps: dict[str, dict[str, Any]] = {
            row["direction"]: row for row in real.get("together", [])
        }
        """Mean gap of real images, by the direction's name."""
        names = ("space", "seed", "codes", "steps")
        shown = json.dumps({name: judged[name] for name in names})
        self.directions = tuple(
            ProbedDirection(
                row["name"], str(judged["generator"]), tuple(judged["vectors"][row["name"]]),
                self.classifier, shown,
            )
            for row in self.rows
        )  # fmt: skip
        for k in self.shown:
            self.directions[k].key, self.rows[k]["flagged"], self.rows[k]["q"]

    def file(self, k: int, kind: str) -> bytes:
        """A picture of a direction: `png` shows images along it, `svg` logits over steps.

        Raises:
            DataError: there is no such direction or picture.
        """
        if k not in self.shown:
            raise DataError(f"direction {k} has no pictures")
        path = self.folder / {"png": f"direction{k}.png", "svg": f"logits{k}.svg"}[kind]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
