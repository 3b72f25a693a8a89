"""The log of a run: JSON lines, one row for each report of the loop, rewound on resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from truecue.atomic import write_text
from truecue.errors import StorageError


class Log:
    """Rows of `log.jsonl`; each has a stage and a step.

    Args:
        path: the file, or None to keep the rows in memory only.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._torn = False
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines()
            self.rows = [row for row in map(_parse, lines) if row is not None]
            self._torn = len(self.rows) < len(lines) or not text.endswith("\n")

    def add(self, stage: str, step: int, **values: Any) -> None:
        """Append a row. Values that are not finite are written as null."""
        row = {"stage": stage, "step": step} | {k: _plain(v) for k, v in values.items()}
        self.rows.append(row)
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise StorageError(f"could not write {self._path}: {error.strerror}") from error

    def rewind(self, stage: str, step: int) -> None:
        """Forget rows of a stage beyond a step: they will be made again. Mends a torn last line."""
        kept = [row for row in self.rows if row["stage"] != stage or row["step"] <= step]
        if self._path is not None and (self._torn or len(kept) < len(self.rows)):
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
            self._torn = False
        self.rows = kept


def by_epoch(rows: Iterable[Mapping[str, Any]], terms: Sequence[str]) -> list[dict[str, Any]]:
    """Means of logged terms over each epoch of each stage, however often the loop looked.

    The loop looks every so many steps and at an epoch's end, so that a row can stand for two
    batches or for fifty. Rows of an epoch are averaged with their numbers of steps as weights.

    Args:
        rows: of a log, in its order; those that lack one of the terms are passed over.
        terms: names of what is averaged.

    Returns:
        Rows with `stage`, `epoch` (where its last step is, in epochs), `steps` and the terms.
    """
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    before: dict[str, int] = {}
    for row in rows:
        if any(name not in row for name in ("at", *terms)):
            continue
        stage = row["stage"]
        steps = row["step"] - before.get(stage, 0)
        before[stage] = row["step"]
        sums = merged.setdefault(
            (stage, math.ceil(row["at"])), {"stage": stage, "steps": 0} | dict.fromkeys(terms, 0.0)
        )
        sums["epoch"] = row["at"]
        sums["steps"] += steps
        for name in terms:
            sums[name] += steps * row[name]
    return [
        {"stage": row["stage"], "epoch": row["epoch"], "steps": row["steps"]}
        | {name: row[name] / row["steps"] for name in terms}
        for row in merged.values()
    ]


def _parse(line: str) -> dict[str, Any] | None:
    """A row, or None for a line that a kill cut off."""
    try:
        row: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
