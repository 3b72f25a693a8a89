"""The log of a run: JSON lines, one row for each report of the loop, rewound on resuming."""

from __future__ import annotations

import json
import math
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
