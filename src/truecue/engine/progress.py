"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Where there is no terminal, a line at most this often."""


class Bar:
    """The progress of one stage."""

    def __init__(self, stage: str, steps: int, epochs: int, samples: float, show: _Show):
        self._stage, self._steps, self._epochs, self._show = stage, steps, epochs, show
        self._samples = samples  # in a step
        self._first: tuple[int, float] | None = None

    def update(self, step: int, loss: float) -> None:
        """Tell that `step` steps are done, and the mean loss of the latest."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        done, seconds = step - self._first[0], now - self._first[1]
        epoch = min(self._epochs, int(step * self._epochs / self._steps) + 1)
        text = f"epoch {epoch}/{self._epochs}  loss {loss:.4f}"
        if not done or not seconds:  # the speed is not known before the second call
            self._show(step, text, None)
            return
        rate = done * self._samples / seconds
        left = (self._steps - step) * self._samples / rate
        self._show(step, f"{text}  {rate:,.0f} img/s", left)


class _Show:
    """Where a bar's text goes."""

    def __call__(self, step: int, text: str, seconds_left: float | None) -> None:
        """Show the state after `step` steps; None: it is not known how long the rest takes."""


class _Silent(_Show):
    pass


class _Lines(_Show):
    def __init__(self, stage: str):
        self._stage, self._next = stage, time.monotonic() + LINE_SECONDS

    def __call__(self, step: int, text: str, seconds_left: float | None) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            left = "" if seconds_left is None else f"  {seconds_left:.0f} s left"
            print(f"{self._stage}: {text}{left}", file=sys.stderr, flush=True)


class _Rich(_Show):
    def __init__(self, stage: str, steps: int, progress: Progress):
        self._progress = progress
        self._task = progress.add_task(stage, total=steps, text="")

    def __call__(self, step: int, text: str, seconds_left: float | None) -> None:
        self._progress.update(self._task, completed=step, text=text)


@contextmanager
def stage_bar(stage: str, *, steps: int, epochs: int, samples: float, quiet: bool) -> Iterator[Bar]:
    """A bar for one stage of training.

    Args:
        stage: its name.
        steps: steps in all.
        epochs: epochs in all.
        samples: images in a step.
        quiet: show nothing.
    """
    if quiet:
        yield Bar(stage, steps, epochs, samples, _Silent())
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description:12}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
            yield Bar(stage, steps, epochs, samples, _Rich(stage, steps, progress))
    else:
        yield Bar(stage, steps, epochs, samples, _Lines(stage))


@contextmanager
def counter(what: str, *, quiet: bool, of: str = "images") -> Iterator[Callable[[int, int], None]]:
    """A bar for work on many things; call it with the number done and the number of all."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(escape(what), total=None)  # names of networks are people's own
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        lines = _Lines(what)
        began = time.monotonic()

        def tell(done: int, total: int) -> None:
            left = (time.monotonic() - began) * (total - done) / max(done, 1)
            lines(done, f"{done:,} of {total:,} {of}", left)

        yield tell
