"""Every example runs as it stands, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
SAID = {
    "own_method.py": ("focal, on test images: ",),
    "own_suite.py": ("Cramér's V", "worst_group", "cells [["),
    "train_and_report.py": ("erm (mlp-5", "denetdm (mlp-5", "report: "),
}
"""What must be in the output."""


def test_there_is_an_expectation_for_every_example() -> None:
    assert sorted(SAID) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_is_short(script: str) -> None:
    lines = (EXAMPLES / script).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_example_runs(script: str, tmp_path: Path) -> None:
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    kept = {"TRUECUE_CACHE": str(tmp_path / "cache"), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script)],
        cwd=tmp_path,
        env=os.environ | one_thread | kept,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for words in SAID[script]:
        assert words in done.stdout
    assert done.stderr == ""
