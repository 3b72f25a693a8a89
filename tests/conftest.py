"""What all tests share: one torch thread, Ctrl-C, and where the real data lies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it sends behind
    signal.signal(signal.SIGINT, signal.default_int_handler)

_DATA = Path(
    os.environ.get("TRUECUE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and weights; tests that need it are skipped where it is absent."""
    if not _DATA.is_dir():
        pytest.skip(f"no real data at {_DATA}; set TRUECUE_DATA to its folder")
    return _DATA
