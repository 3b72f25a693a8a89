"""What is shown of long work, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from truecue.engine import progress


def test_no_speed_is_shown_before_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.stage_bar("fit", steps=40, epochs=4, samples=50, quiet=False) as bar:
        for step in (10, 20):
            now[0] += 20.0
            bar.update(step, 0.5)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "fit: epoch 2/4  loss 0.5000"
    assert second == "fit: epoch 3/4  loss 0.5000  25 img/s  40 s left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_names_in_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with progress.counter("mine [/red], train", quiet=False) as tell:
        tell(1, 2)
    with progress.stage_bar("[/fit]", steps=4, epochs=1, samples=5, quiet=False) as bar:
        bar.update(1, 0.5)
    assert "mine [/red], train" in screen.getvalue()
    assert "[/fit]" in screen.getvalue()
    assert "epoch 1/1  loss 0.5000" in screen.getvalue()
