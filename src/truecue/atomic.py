"""Files that are either wholly written or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from truecue.errors import StorageError


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
