"""Pages of directions: they load nothing, escape what users write, and have a twin in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from truecue.report.directions import (
    SHOWN,
    STARTS,
    Traversal,
    signed,
    turning,
    write_refined,
    write_traversal,
)

ABOUT = {"generator": "<i>mine</i>", "seed": 3, "created": "2026-11-23T00:00:00+00:00"}


def traversal(starts: int = 2, k: int = 3, steps: int = 5) -> Traversal:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (starts, k, steps, 3, 8, 8), generator=rng).to(torch.uint8)
    names = ["<b>smile</b>", *map(str, range(1, k))]
    return Traversal(images, [-2, -1, 0, 1, 2], names, ["change 0.1"] * k)


def report(k: int = 3, right: float = 0.9) -> dict:
    rows = [{"name": str(i), "ranked_right": right, "change": 0.1, "turned": 5.0 + i,
             "visible": i > 0} for i in range(k)]  # fmt: skip
    curve = [
        {"step": 25 * i, "scorer": 0.7 / (i + 1), "directions": float("nan")} for i in range(4)
    ]
    return {"directions": rows, "curve": curve, "warnings": ["Watch <out>"], "pairs": 1024}


def loads_nothing(page: str) -> bool:
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    outside = [link for link in links if not link.startswith("data:") and ":" in link]
    return not outside and "<script" not in page


def test_traversal_page(tmp_path: Path) -> None:
    page = write_traversal(traversal(), tmp_path, ABOUT, {"visible": [True]}).read_text()
    assert loads_nothing(page)
    assert "&lt;b&gt;smile&lt;/b&gt;" in page
    assert "<b>smile" not in page
    assert "&lt;i&gt;mine" in page
    # every picture twice: by start, and by direction; the start of each row is framed
    assert page.count("<img") == 2 * 2 * 3 * 5
    assert page.count('class="centre"') == 2 * 2 * 3
    assert page.count('type="radio"') == 2
    twin = json.loads((tmp_path / "traversal.json").read_text())
    assert twin["steps"] == [-2, -1, 0, 1, 2]
    assert twin["names"][0] == "<b>smile</b>"
    assert sorted(p.name for p in tmp_path.glob("*.png")) == twin["files"]
    for name in twin["files"]:
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 5 * 96


def test_refined_page(tmp_path: Path) -> None:
    shown = traversal()
    page = write_refined(shown, shown, report(), tmp_path, ABOUT).read_text()
    assert loads_nothing(page)
    assert "Watch &lt;out&gt;." in page
    assert "For 3 of 3 directions the scorer tells" in page
    assert page.count(">invisible<") == 1
    assert page.count(">before<") == page.count(">after<") == 3
    twin = json.loads((tmp_path / "refined.json").read_text())
    assert twin["curve"][0]["directions"] is None
    assert {"before-after.png", "start0.png"} == set(twin["files"])


def test_the_angle_over_training_is_drawn(tmp_path: Path) -> None:
    told = report()
    for i, row in enumerate(told["curve"]):
        row["turned"] = 7.0 * i
    still = turning([row | {"turned": 0.0} for row in told["curve"]])
    page = write_refined(traversal(), traversal(), told, tmp_path, ABOUT).read_text()
    assert turning(told["curve"]) in page
    assert still not in page


@pytest.mark.parametrize(("right", "tone"), [(0.9, "good"), (0.5, "bad")])
def test_headline_says_whether_it_worked(tmp_path: Path, right: float, tone: str) -> None:
    shown = traversal()
    page = write_refined(shown, shown, report(right=right), tmp_path, ABOUT).read_text()
    assert f'<h1 class="{tone}">' in page


def test_pages_stay_small(tmp_path: Path) -> None:
    many = traversal(starts=STARTS + 2, k=SHOWN + 5)
    page = write_traversal(many, tmp_path, ABOUT, {}).read_text()
    assert page.count("<img") == 2 * STARTS * SHOWN * 5
    assert len(json.loads((tmp_path / "traversal.json").read_text())["names"]) == SHOWN + 5


def test_steps_as_words() -> None:
    assert [signed(s) for s in (-2.25, 0, 3)] == ["\u22122.25", "start", "+3"]
