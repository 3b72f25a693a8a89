"""What a suite is: settings that can load three splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from truecue.config import Config
from truecue.data.sets import Splits


class Suite(Config, ABC):
    """A data set with its settings, its source and its licence."""

    source: ClassVar[str]
    """Where the images come from: paper, address, or how they are made."""
    licence: ClassVar[str]
    layout: ClassVar[str] = "made by the package; needs no files"
    """Which files to put where, for a suite that reads files."""
    self_made: ClassVar[bool] = False
    """Whether the suite needs no files."""
    neutral: ClassVar[Mapping[str, Any]] = {}
    """Settings that take the suite's own bias away, so that another can be planted."""

    @abstractmethod
    def load(self, root: Path | None = None, *, seed: int = 0) -> Splits:
        """Read or make the three splits.

        Args:
            root: the folder that holds the files; not used by suites that make their own images.
            seed: of what is random in making the data (colour noise, the split into training and
                validation images). The same seed gives the same splits.

        Raises:
            DataError: a file is absent or cannot be read; the message says what to put where.
        """
