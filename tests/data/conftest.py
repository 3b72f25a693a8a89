"""A cache of its own for every test, and pictures to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "the cache"
    monkeypatch.setenv("TRUECUE_CACHE", str(folder))
    return folder


@pytest.fixture
def draw() -> Callable[..., Path]:
    """Writes a random image: draw(path, seed, width, height)."""

    def write(path: Path, seed: int = 0, width: int = 12, height: int = 12) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        kind = "JPEG" if path.suffix.lower().startswith(".jp") else "PNG"
        Image.fromarray(pixels).save(path, kind)
        return path

    return write


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Writes an image of one colour, whatever its name ends with: paint(path, red, green, blue)."""

    def write(path: Path, *colour: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), colour).save(path, "PNG")
        return path

    return write


@pytest.fixture
def zoo(tmp_path: Path, draw: Callable[..., Path]) -> Path:
    """20 cats and 20 dogs, all different, in two class folders."""
    for k, kind in enumerate(("cat", "dog")):
        for i in range(20):
            draw(tmp_path / "zoo" / kind / f"{i}.png", 100 * k + i)
    return tmp_path / "zoo"
