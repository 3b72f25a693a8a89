"""Running what is missing of a bench."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from truecue.bench.plan import Cell
from truecue.bench.pool import Job, Outcome, work
from truecue.bench.store import Store


@dataclass
class Tally:
    """What a run of a bench came to."""

    kept: int = 0
    """Cells that had a result already."""
    done: int = 0
    failed: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    """Wall time."""
    cell_seconds: float = 0.0
    """Time of all cells, one after the other."""


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    *,
    processes: int = 1,
    accelerator: str = "cpu",
    quiet: bool = True,
    said: Callable[[str], None] = print,
) -> Tally:
    """Run the cells that have no result, and keep each as it is finished.

    Args:
        cells: all that are wanted.
        store: the bench's folder.
        processes: cells at a time.
        accelerator: see `pool.work`.
        quiet: show no progress.
        said: takes a line about each cell.

    Returns:
        How many were there, done and failed. A cell that fails does not stop the others.

    Raises:
        Interrupted: a signal came; finished cells are kept, others go on from their checkpoints.
        StorageError: a result could not be written, or another process is running these cells.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(store.locked())
        missing = store.missing(cells)  # another process may have run some until now
        tally = Tally(kept=len({cell.key() for cell in cells}) - len(missing))
        jobs = [Job(cell, store.work(cell)) for cell in missing]
        progress = stack.enter_context(_Progress(len(jobs), quiet=quiet, said=said))
        outcomes = work(
            jobs, processes=processes, accelerator=accelerator, started=progress.started
        )
        for outcome in stack.enter_context(closing(outcomes)):  # no worker outlives the lock
            store.keep(outcome)
            tally.cell_seconds += outcome.seconds
            if outcome.result is None:
                tally.failed.append(outcome)
            else:
                tally.done += 1
            progress.finished(outcome)
    tally.seconds = time.monotonic() - began
    return tally


class _Progress:
    """A bar on a terminal, a line for each cell elsewhere."""

    def __init__(self, total: int, *, quiet: bool, said: Callable[[str], None]):
        self._total, self._done, self._said = total, 0, said
        self._running: dict[str, float] = {}
        self._quiet, self._began = quiet, time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and self._total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (  # fmt: skip
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar is not None:
            self._bar.stop()

    def started(self, cell: Cell) -> None:
        self._running[str(cell)] = time.monotonic()
        self._describe()

    def finished(self, outcome: Outcome) -> None:
        self._done += 1
        self._running.pop(str(outcome.cell), None)
        if self._quiet:
            return
        spent = f"{outcome.seconds:.0f} s"
        what = f"{outcome.cell}: {spent}"
        if outcome.result is None:
            what = f"{outcome.cell}: FAILED after {spent}: {outcome.error}"
        if self._bar is not None:
            self._bar.console.print(what, markup=False, highlight=False)
            self._bar.advance(self._task)
            self._describe()
            return
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        self._said(f"[{self._done}/{self._total}] {what}; about {left / 60:.0f} min left")

    def _describe(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=" · ".join(self._running))
