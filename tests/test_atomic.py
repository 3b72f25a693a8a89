from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from truecue.atomic import atomic, locked, write_text
from truecue.errors import StorageError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write_half(path: Path, error: BaseException) -> None:
    with atomic(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_appears_whole_and_its_folders_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_error_leaves_what_was_there(tmp_path: Path, error) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(error):
        write_half(path, error())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with pytest.raises(StorageError) as error, atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(error.value) == f"could not write {path}: No space left on device"
    write_text(path, "old")
    with pytest.raises(StorageError, match=r"before is untouched$"):
        write_half(path, OSError(errno.ENOSPC, "No space left on device"))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_trouble_when_the_data_is_forced_to_disk(tmp_path: Path, monkeypatch) -> None:
    """Some file systems tell of a full disk only then."""
    write_text(tmp_path / "x.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_place_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        write_text(tmp_path / "file" / "x.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="could not write"):
        write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["file", "folder"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), atomic(tmp_path / "x.txt"):
        pass


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "Möwe – ±")
    assert (tmp_path / "x.txt").read_bytes().decode("utf-8") == "Möwe – ±"


_HOLDS = """
import sys
from pathlib import Path
from truecue.atomic import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_lock_is_of_one_process_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _HOLDS, str(path)], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(StorageError, match="in use"),
            locked(path, "in use"),
        ):
            pass
        other.kill()
        with locked(path):  # waits until it is gone
            pass
    with locked(path, "in use"):
        pass


def test_where_there_are_no_locks_nothing_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path / ".lock", "busy"), locked(tmp_path / ".lock", "busy"):
        assert names(tmp_path) == [".lock"]


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="could not write"), locked(tmp_path / "file" / ".lock"):
        pass
