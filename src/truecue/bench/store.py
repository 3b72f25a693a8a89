"""A bench's folder.

results/KEY.json   a finished cell; never written twice
errors/KEY.json    a cell that failed, and why; run again by the next call
work/KEY/          checkpoints of a cell that is under way
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from truecue.atomic import LOCK, locked, write_text
from truecue.bench.plan import Cell
from truecue.bench.pool import Outcome
from truecue.errors import DataError

_PARTS = {"task", "model", "val", "guesses", "records", "seconds", "device"}
"""What tables and rules look at in a result."""


class Store:
    """Where a bench keeps what it has.

    Args:
        folder: the bench's own.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell's result, or None.

        Raises:
            DataError: the file is damaged.
        """
        path = self._path("results", cell)
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}); remove it, and the cell is run again"
            ) from None
        if not isinstance(found, dict) or not found.keys() >= _PARTS:
            raise DataError(f"{path} is not a cell's result; remove it, and the cell is run again")
        return found

    def error(self, cell: Cell) -> str:
        """Why a cell failed; empty where it did not."""
        try:
            text = self._path("errors", cell).read_text(encoding="utf-8")
            return str(json.loads(text)["error"])
        except (OSError, ValueError, KeyError):
            return ""

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Cells without a result, each question once."""
        wanted = {cell.key(): cell for cell in cells}
        return [cell for cell in wanted.values() if not self._path("results", cell).exists()]

    def work(self, cell: Cell) -> Path:
        """The folder of a cell's checkpoints."""
        return self.folder / "work" / cell.key()

    def keep(self, outcome: Outcome) -> None:
        """Write what became of a cell.

        Raises:
            StorageError: it could not be written.
        """
        cell = outcome.cell
        error = self._path("errors", cell)
        if outcome.result is None:
            said = {"cell": str(cell), "error": outcome.error, "trace": outcome.trace}
            write_text(error, json.dumps(said | {"asked": cell.asked()}, indent=1, default=str))
            return
        text = json.dumps(outcome.result, allow_nan=False, separators=(",", ":"))
        write_text(self._path("results", cell), text + "\n")
        error.unlink(missing_ok=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running cells of this folder at the same time.

        Raises:
            StorageError: another process is at it, or the folder cannot be written.
        """
        with locked(
            self.folder / LOCK,
            f"another process is running this bench in {self.folder}; wait for it, or give another"
            " folder by --out",
        ):
            yield

    def _path(self, part: str, cell: Cell) -> Path:
        return self.folder / part / f"{cell.key()}.json"
