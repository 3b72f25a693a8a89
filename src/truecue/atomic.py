"""Files that are either wholly written or not there at all, and folders with one writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from truecue.errors import StorageError

LOCK = ".lock"
"""Name of the file in a folder that its writer holds; it stays there, and is empty."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an error.

    Folders above it are made. If anything fails, the temporary file is removed and whatever
    `path` held before is untouched.

    Raises:
        StorageError: the file could not be written (a full disk, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        before = "; what it held before is untouched" if os.path.exists(path) else ""
        reason = error.strerror or str(error)
        raise StorageError(f"could not write {path}: {reason}{before}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        StorageError: the file could not be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a lock on a file, which is made; a process lets go of it however it ends.

    Nothing is held where the system (Windows) or the file system has no such locks.

    Args:
        path: of the file.
        busy: what to say where another process holds it; None: wait for it.

    Raises:
        StorageError: another process holds it, or the file could not be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror}") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
        except BlockingIOError:
            raise StorageError(busy) from None
        except (ImportError, OSError):  # no such locks here: two at once are then not noticed
            pass
        yield
