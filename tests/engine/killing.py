"""Child processes that train, to be killed and stopped from outside."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

LONGEST = 60.0
"""Seconds that a child may take."""


class Child:
    """A forked process that calls a function, which starts at once: nothing is imported again."""

    def __init__(self, work: Callable[[], object]):
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                work()
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def ended(self) -> bool:
        """Whether it has ended by itself, without waiting."""
        if not hasattr(self, "status"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return hasattr(self, "status")

    def wait(self) -> int:
        """Its exit status; minus the signal's number where it was killed."""
        start = time.monotonic()
        while not self.ended():
            if time.monotonic() - start > LONGEST:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.001)
        return os.waitstatus_to_exitcode(self.status)

    def send(self, which: signal.Signals, when: Callable[[], bool]) -> bool:
        """Send a signal as soon as `when` says so; False where it ended before."""
        while not self.ended():
            if when():
                os.kill(self.pid, which)
                return True
            time.sleep(0.0005)
        return False


def saves(folder: Path) -> Callable[[], int]:
    """Counts changes of the checkpoints below a folder, from when it is first called."""
    seen: set[tuple[str, int]] = set()

    def count() -> int:
        for pattern in ("*/stages/*.ckpt", "*/stages/*.done", "*/stages/.*.tmp"):
            for path in folder.glob(pattern):
                try:
                    seen.add((path.name, path.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue
        return len(seen)

    return count
