"""What is shown of long work where there is no terminal."""

from __future__ import annotations

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
