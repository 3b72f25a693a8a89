"""Worker processes for cells: each runs many cells, and may die without taking others along."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple

from truecue.bench.plan import Cell
from truecue.engine.signals import StopSignal
from truecue.errors import Interrupted, TruecueError

_CONTEXT = get_context("spawn")  # a fork would copy torch's threads in an undefined state


class Outcome(NamedTuple):
    """What became of a cell."""

    cell: Cell
    result: dict[str, Any] | None
    error: str = ""
    """A sentence, where there is no result."""
    trace: str = ""
    """Where an unforeseen error arose."""
    seconds: float = 0.0


class Job(NamedTuple):
    """A cell and the folder of its checkpoints."""

    cell: Cell
    folder: Path


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    job: Job | None = None
    began: float = field(default_factory=time.monotonic)


def work(
    jobs: Sequence[Job], *, processes: int, accelerator: str, started: Callable[[Cell], None]
) -> Generator[Outcome, None, None]:
    """Run jobs in worker processes and give their outcomes as they come.

    A job whose process dies becomes an outcome with an error, and another process takes its place.
    The first SIGINT or SIGTERM lets the workers save checkpoints, then ends the iteration.

    Args:
        jobs: in the order in which they are begun.
        processes: how many at a time.
        accelerator: "auto", "cpu", "cuda" or "mps"; CUDA devices are dealt out in turn.
        started: called with each cell when a worker gets it.

    Raises:
        Interrupted: a signal came.
    """
    waiting, workers = (
        list(jobs),
        [_start(k, accelerator) for k in range(min(processes, len(jobs)))],
    )
    try:
        with StopSignal() as stop:
            for worker in workers:
                _give(worker, waiting, started)
            while any(worker.job for worker in workers):
                if stop.came:
                    raise Interrupted(
                        "stopped; finished cells are kept, and the same command goes on from there"
                    )
                ready = connection.wait([w.pipe for w in workers if w.job], timeout=0.5)
                for k, worker in enumerate(workers):
                    if worker.job is None or worker.pipe not in ready:
                        continue
                    outcome = _outcome(worker)
                    if stop.came:  # it may have come to the workers too, and is no failure
                        worker.job = None
                        if outcome.result is not None:
                            yield outcome
                        continue
                    if not worker.process.is_alive() and waiting:
                        workers[k] = _start(k, accelerator)
                    _give(workers[k], waiting, started)
                    yield outcome
    finally:
        _dismiss(workers)


def _start(number: int, accelerator: str) -> _Worker:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(
        target=_serve, args=(theirs, number, accelerator, os.getpid()), daemon=True
    )
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Job], started: Callable[[Cell], None]) -> None:
    worker.job = waiting.pop(0) if waiting else None
    if worker.job is not None:
        worker.began = time.monotonic()
        started(worker.job.cell)
        with suppress(OSError):  # it died while idle: `_outcome` finds out and says so
            worker.pipe.send(worker.job)


def _outcome(worker: _Worker) -> Outcome:
    assert worker.job is not None
    cell, seconds = worker.job.cell, time.monotonic() - worker.began
    try:
        result, error, trace = worker.pipe.recv()
    except (EOFError, OSError):  # a reset, where it died before it took the job
        worker.process.join(5)
        code = worker.process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        hint = "; was there enough memory?" if code == -signal.SIGKILL else ""
        return Outcome(cell, None, f"its process died ({name}){hint}", "", seconds)
    return Outcome(cell, result, error, trace, seconds)


def _dismiss(workers: Sequence[_Worker]) -> None:
    """Ask all to stop; those that train save a checkpoint first. Then make sure."""
    for worker in workers:
        if worker.job is not None and worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGTERM)
        worker.pipe.close()
    end = time.monotonic() + 30
    for worker in workers:
        worker.process.join(max(0.1, end - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _serve(pipe: connection.Connection, number: int, accelerator: str, parent: int) -> None:
    """A worker's life: take a job, run it, send what came of it, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    device = None
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            from truecue.bench.work import run_cell

            device = device or _device(number, accelerator)
            answer: tuple[Any, str, str] = (run_cell(job.cell, job.folder, device), "", "")
        except Interrupted:
            return
        except TruecueError as error:
            answer = (None, str(error), "")
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            answer = (None, said, traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            return


def _device(number: int, accelerator: str) -> Any:
    import torch

    from truecue.engine.device import Device, keep_freed_memory

    keep_freed_memory()
    if accelerator in {"auto", "cuda"} and (count := torch.cuda.device_count()) > 1:
        # CUDA looks at this when it is first used in a process, which is after this line
        shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = shown.split(",")[number % count]
    return Device(accelerator)


def _die_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
