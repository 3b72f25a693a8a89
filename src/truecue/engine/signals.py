"""Stopping politely: the first SIGINT or SIGTERM asks, the second one insists."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self


class StopSignal:
    """While entered, notes SIGINT and SIGTERM in `came` instead of dying of them.

    Outside the main thread Python delivers no signals, and this does nothing. A signal that the
    process ignores stays ignored: the one that started it decides.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(which) is not signal.SIG_IGN:
                    self._before[which] = signal.signal(which, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _note(self, which: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
