"""The page of directions and known factors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from truecue.report.factors import MEANING, followed, write_factors
from truecue.report.probe_figures import rescoring

TOLD = {
    "metrics": {name: 0.101 * (i + 1) for i, name in enumerate(MEANING)},
    "importance": [[0.9, 0.1, 0.3], [0.1, 0.9, 0.3], [0.0, 0.0, 0.4]],
    "factors": ["x", "<y>", "hue"],
    "encoder": {"error": 0.25},
    "directions": {"names": ["0", "tilt", "2"]},
}


def test_the_factor_that_each_code_follows() -> None:
    found = followed(TOLD["importance"], TOLD["factors"])
    assert [name for name, _ in found] == ["x", "<y>", "hue"]
    assert [share for _, share in found] == pytest.approx([0.9 / 1.3, 0.9 / 1.3, 1])
    assert followed([[0.0, 0.0]], ["a", "b"]) == [("a", 0.0)]


def test_page_map_and_twin(tmp_path: Path) -> None:
    page = write_factors(TOLD, tmp_path, {"seed": 3}).read_text()
    assert "3 of 3 directions follow mostly one factor." in page
    for name, (title, meaning) in MEANING.items():
        assert f'<th>{title}</th><td class="number">{TOLD["metrics"][name]:.3f}</td>' in page
        assert meaning in page
    assert "&lt;y&gt;" in page
    assert "<y>" not in page
    assert "that no direction" not in page
    assert json.loads((tmp_path / "metrics.json").read_text())["about"] == {"seed": 3}
    picture = (tmp_path / "importance.svg").read_text()
    assert picture.count(">0.90<") == 2
    assert ">tilt<" in picture
    some = TOLD | {"importance": [[1, 0, 0], [0.5, 0.5, 0.2], [0, 0.4, 0.8]]}
    page = write_factors(some, tmp_path, {}).read_text()
    assert "2 of 3 directions follow mostly one factor." in page
    assert "Factors that no direction follows most of all: &lt;y&gt;." in page


def test_long_names_have_room_in_a_heat_map() -> None:
    names, attributes = ["green or purple", "red or blue"], ["landbird", "a sea bird"]
    rows = [[0.1, 0.2], [0.3, 0.4]]
    picture = rescoring({"before": rows, "after": rows}, dict.fromkeys(("before", "after"), names),
                        attributes).decode()  # fmt: skip
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)[0])
    found = re.findall(r"<text [^>]*translate\(([\d.-]+) ([\d.-]+)\)[^>]*>([^<]*)</text>", picture)
    found += re.findall(r'<text [^>]*x="([\d.-]+)" y="([\d.-]+)"[^>]*>([^<]*)</text>', picture)
    places: dict[str, list[tuple[float, float]]] = {}
    for x, y, text in found:
        places.setdefault(text, []).append((float(x), float(y)))
    letter = 5.2  # points, of 9-point letters
    ends = sorted(x for x, _ in places["green or purple"])  # set flush right
    cells = sorted(x for x, _ in places["0.20"])
    assert ends[0] - letter * 15 > 0
    assert ends[1] - letter * 15 > cells[0]  # right of the first map
    for x, y in places["a sea bird"]:  # at 45 degrees
        assert y - 0.7 * letter * 10 > 0
        assert x + 0.7 * letter * 10 < width
    assert 0 < min(y for _, y in places["before"]) < height
