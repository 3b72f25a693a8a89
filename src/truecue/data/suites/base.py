"""What a suite is: settings that can load three splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from truecue.config import Config
from truecue.data.sets import Splits
from truecue.errors import DataError


class Suite(Config, ABC):
    """A data set with its settings, its source and its licence."""

    source: ClassVar[str]
    """Where the images come from: paper, address, or how they are made."""
    licence: ClassVar[str]
    obtain: ClassVar[str] = "nothing to get: made by the package"
    """Where to get the files, for a suite that reads files."""
    layout: ClassVar[str] = "made by the package; needs no files"
    """Which files to put where, for a suite that reads files."""
    counts: ClassVar[Mapping[str, int]] = {}
    """Images by split and, where they are known, by group; empty where settings decide."""
    checksums: ClassVar[Mapping[str, str]] = {}
    """Of the published files, where known: `md5:` or `sha256:` and hexadecimal digits."""
    self_made: ClassVar[bool] = False
    """Whether the suite needs no files."""
    folders: ClassVar[tuple[str, ...]] = ()
    """What the folder of the suite's files may be called inside the root."""
    marks: ClassVar[tuple[str, ...]] = ()
    """Patterns of file names: the suite's folder is the first in which one is found."""

    @classmethod
    def find(cls, root: Path) -> Path | None:
        """The folder of the suite's files, inside `root` or `root` itself; None: there is none."""
        for folder in (*(root / name for name in cls.folders), root):
            if any(next(folder.glob(mark), None) for mark in cls.marks):
                return folder
        return None

    @classmethod
    def folder(cls, root: Path | str | None) -> Path:
        """The folder of the suite's files.

        Raises:
            DataError: it is not there; the message says what to put where.
        """
        if root is None:
            raise DataError(
                f"{cls.__name__} needs a folder with its files (--root, or TRUECUE_DATA):"
                f" {cls.layout}. To get them: {cls.obtain}"
            )
        found = cls.find(Path(root))
        if found is None:
            raise DataError(
                f"the files of {cls.__name__} are not in {root}. Expected: {cls.layout}. To get"
                f" them: {cls.obtain}"
            )
        return found

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Settings that take the suite's own bias away, so that another can be planted."""

    @abstractmethod
    def load(self, root: Path | str | None = None, *, seed: int = 0) -> Splits:
        """Read or make the three splits.

        A suite that decodes files may take a third argument, `progress`: it is called with the
        number of images decoded and that of all.

        Args:
            root: the folder that holds the files; not used by suites that make their own images.
            seed: of what is random in making the data (colour noise, the split into training and
                validation images). The same seed gives the same splits.

        Raises:
            DataError: a file is absent or cannot be read; the message says what to put where.
        """
