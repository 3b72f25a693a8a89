"""What the options of commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from truecue.cli import options
from truecue.data.sets import Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.gratings import Gratings


class Slow(Suite):
    """A suite that tells how far it is."""

    source: ClassVar[str] = "gratings"
    licence: ClassVar[str] = "none"
    self_made: ClassVar[bool] = True

    def load(
        self,
        root: Path | None = None,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Splits:
        if progress is not None:
            progress(seed, 7)
        return Gratings().load(root, seed=seed)


def test_progress_goes_to_suites_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
        yield None if quiet else lambda *done: seen.append(done)

    monkeypatch.setattr(options, "decoding", bar)
    assert len(options.load(Slow(), None, 3).train) == 1024
    assert len(options.load(Gratings(), None, 4).train) == 1024
    assert len(options.load(Slow(), None, 5, quiet=True).train) == 1024
    assert seen == [(3, 7)]
