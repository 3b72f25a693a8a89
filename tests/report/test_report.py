from __future__ import annotations

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_sample import sample_pictures, sample_report, without_bias

from truecue.errors import DataError, StorageError
from truecue.report import Picture, write_report
from truecue.report.figures import curves
from truecue.report.page import render
from truecue.report.tables import matrices, metric_rows, worst_groups
from truecue.report.view import shown

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html() -> str:
    return render(sample_report(), sample_pictures())


def test_writes_a_page_and_its_twin(tmp_path: Path):
    report = sample_report()
    path = write_report(report, sample_pictures(), tmp_path / "deep" / "out")
    assert path == tmp_path / "deep" / "out" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]
    assert json.loads(path.with_suffix(".json").read_text()) == report
    assert path.stat().st_size < 2_000_000


def test_numbers_that_are_not_finite_become_null(tmp_path: Path):
    report = sample_report()
    report["models"]["erm"]["test"]["worst_group"]["value"] = float("nan")
    report["models"]["erm"]["losses"][0]["loss"] = float("inf")
    report["task"]["sizes"] = {"train": (1, 2)}
    report["task"]["sizes"] = {"train": 5}
    path = write_report(report, {}, tmp_path)
    twin = json.loads(path.with_suffix(".json").read_text())
    assert twin["models"]["erm"]["test"]["worst_group"]["value"] is None
    assert twin["models"]["erm"]["losses"][0]["loss"] is None
    assert "nan" not in Page(path.read_text()).text.split()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    paths = [write_report(sample_report(), sample_pictures(), tmp_path / k) for k in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_page_loads_nothing(html: str):
    page = Page(html)
    assert all((img["src"] or "").startswith("data:image/") for img in page.all("img"))
    assert all(img["alt"] for img in page.all("img"))
    assert [link["href"] for link in page.all("a")] == ["report.json"]
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert not re.search(r" on\w+=", html)
    svgs = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)
    for svg in map(base64.b64decode, svgs):
        assert b"<script" not in svg
        assert not re.search(rb'(href|src)="(?!#)', svg)


def test_the_page_says_what_matters(html: str):
    text = Page(html).text.replace("\u00a0", " ")
    for part in (
        "Plain training mostly looked at the colour",
        "bias-aligned",
        "bias-conflicting",
        "worst group is the field with the lowest number",
        "labelled",
        "deep (biased)",
        "measured on training images",
        "29 % (24–34 %) of the suspected images really are conflicting (precision; of all training"
        " images it is 2 %)",
        "class labels only",
        "class 0 with red; 1 with green",
        "truecue train denetdm digits --seed 1",
        "shallow gives the label for 120, which are the surer choice: precision 75 %",
        "cpu, 2 threads (AMD EPYC)",
        "plan.epochs",
    ):
        assert part in text, part


def test_hostile_names_are_harmless(tmp_path: Path):
    evil = "<script>alert(1)</script>"
    report = sample_report()
    report["task"].update(data=evil, bias=evil, classes=[evil] * 10, bias_values=["$x_$'\"&"] * 10)
    report["task"]["notes"] = [evil]
    report["warnings"] = [evil, "{{ 7 * 7 }}"]
    report["models"]["denetdm"]["title"] = f'"><img src=x onerror="a()">{evil}'
    report["models"]["denetdm"]["settings"] = {evil: {"{bias}": "$\\frac{$ \udc80 漢字"}}
    report["models"]["denetdm"]["branches"][evil] = {"role": evil, "test": None}
    report["models"]["denetdm"]["curves"][0].update(branch=evil, stage="_$\\frac{$ 漢字")
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    page = Page(
        write_report(report, {"examples": Picture(images, [evil], [None])}, tmp_path).read_text()
    )
    assert not page.all("script")
    assert not [img for img in page.all("img") if "onerror" in img]
    assert evil in page.text
    assert "{{ 7 * 7 }}" in page.text


@pytest.mark.parametrize("part", ["task", "models", "before", "suspects", "versions", "sizes"])
def test_any_part_may_be_missing(part: str):
    report = sample_report()
    report.pop(part, None)
    report.get("task", {}).pop(part, None)
    Page(render(report, {}))


@pytest.mark.parametrize("part", ["test", "curves", "branches", "losses", "stages", "settings"])
@pytest.mark.parametrize("value", ["absent", None])
def test_any_part_of_a_model_may_be_missing(part: str, value: str | None):
    report = sample_report()
    for model in report["models"].values():
        model.pop(part) if value == "absent" else model.update({part: None})
    Page(render(report, sample_pictures()))


def test_almost_nothing_is_enough(tmp_path: Path):
    text = Page(write_report({"task": {}, "models": {}}, {}, tmp_path).read_text()).text
    assert "This report holds no test results." in text
    assert "How this was measured" in text


def test_without_bias_labels_classes_are_shown():
    report = without_bias(sample_report())
    (matrix,) = matrices(report)
    assert matrix.columns == ["Plain training", "DeNetDM"]
    assert len(matrix.rows) == 10
    text = Page(render(report, {})).text
    assert "Numbers for groups need bias labels" in text
    assert "How many of them really are exceptions is not known" in text


def test_groups_in_the_heat_map():
    report = sample_report()
    before, after = matrices(report)
    assert (before.title, after.title) == ("Plain training (ERM)", "DeNetDM")
    cells = report["models"]["erm"]["test"]["cells"]
    name, row = before.rows[4]
    assert name == "4"
    assert row[7].text == "–"
    assert row[7].style == ""
    assert row[3].text == f"{100 * cells['hits'][4][3] / cells['total'][4][3]:.0f}"
    assert [cell.aligned for cell in row] == [k == 4 for k in range(10)]
    assert worst_groups(report)[0].startswith("Plain training: class 2, colour orange (0 of 20")


def test_of_very_many_classes_the_worst_are_shown():
    report = sample_report()
    hits = [[k % 50, 50] for k in range(500)]
    report["task"].update(classes=[], bias_values=["a", "b"], aligned=None)
    for model in report["models"].values():
        model["test"]["cells"] = {"hits": hits, "total": [[50, 50]] * 500}
    rows = matrices(report)[0].rows
    assert len(rows) == 40
    assert all(int(cells[0].text) < 10 for _, cells in rows)
    assert "40 of 500 classes" in Page(render(report, {})).text


def test_dark_fields_carry_light_numbers():
    def brightness(red: int, green: int, blue: int) -> float:
        parts = [c / 255 for c in (red, green, blue)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    report = sample_report()
    for model in report["models"].values():
        hits = [list(range(10 * k, 10 * k + 10)) for k in range(10)]
        model["test"]["cells"] = {"hits": hits, "total": [[99] * 10] * 10}
    for _, cells in matrices(report)[0].rows:
        for cell in cells:
            back, ink = cell.style.removeprefix("background:rgb(").split(");color:")
            low, high = sorted(
                (
                    brightness(*map(int, back.split(","))),
                    brightness(*bytes.fromhex(2 * ink[1:])),
                )
            )
            assert (high + 0.05) / (low + 0.05) > 4.5, cell


def test_suspects_are_called_the_surer_choice_where_they_are():
    report = sample_report()
    for precision, surer in ((0.75, True), (0.2, False), (None, True)):
        report["suspects"]["strict"]["precision"]["value"] = precision
        assert ("which are the surer choice" in Page(render(report, {})).text) == surer


def test_a_measured_model_may_have_been_trained_on_the_test_images():
    report, said = sample_report(), "used once, after training"
    assert said in Page(render(report, {})).text
    assert said not in Page(render(report | {"kind": "evaluate"}, {})).text


def test_one_panel_for_each_stage_and_split():
    report = sample_report()
    for point in report["models"]["denetdm"]["curves"]:
        if point["split"] == "val":
            point.update(aligned=None, conflicting=None)
    panels = curves(shown(report)[1])
    assert [(p.title, p.note, p.grouped) for p in panels] == [
        ("Stage “experts”", "measured on training images", True),
        ("Stage “target”", "measured on training images", True),
        ("Stage “experts”", "measured on validation images", False),
        ("Stage “target”", "measured on validation images", False),
    ]
    assert [line.name for line in panels[0].lines] == ["deep (biased)", "shallow (debiased)"]


def test_numbers_stay_under_their_model_where_the_other_has_none():
    rows = metric_rows(sample_report(), "val")
    assert [len(row.values) for row in rows] == [2] * 6
    assert [row.values[0] for row in rows] == [("–", "")] * 6
    report = sample_report()
    report["models"]["denetdm"]["val"] = None
    assert metric_rows(report, "val") == []


def test_warnings_stand_above_the_numbers():
    report = sample_report()
    report["models"]["denetdm"]["warnings"] = ["the branches did not part"]
    report["models"]["denetdm"]["selection"] = "oracle_test"
    text = Page(render(report, {})).text
    assert text.index("DeNetDM: the branches did not part") < text.index("The worst group")
    assert "chosen by its accuracy on the test images" in text
    assert "used to choose the model as well" in text


@pytest.mark.parametrize(
    ("shape", "start", "pixelated"),
    [
        ((2, 1, 8, 8), "data:image/png", True),
        ((2, 3, 28, 40), "data:image/png", True),
        ((2, 5, 32, 32), "data:image/png", True),
        ((2, 3, 224, 300), "data:image/webp", False),
    ],
)
def test_pictures_of_any_shape(shape: tuple[int, ...], start: str, pixelated: bool):
    images = torch.zeros(shape, dtype=torch.uint8)
    html = render({}, {"examples": Picture(images, ["a", "b"], [None, "aligned"])})
    shown = Page(html).all("img")
    assert len(shown) == 2
    assert all((img["src"] or "").startswith(start) for img in shown)
    assert all((img.get("class") == "pixels") == pixelated for img in shown)


@pytest.mark.parametrize(
    ("picture", "fragment"),
    [
        (Picture(torch.zeros(1, 3, 8, 8), ["a"], [None]), "must be uint8"),
        (Picture(torch.zeros(3, 8, 8, dtype=torch.uint8), ["a"], [None]), "must be uint8"),
        (
            Picture(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["a"], [None]),
            "2 images, 1 captions",
        ),
    ],
)
def test_pictures_that_do_not_fit_leave_the_old_report(
    tmp_path: Path, picture: Picture, fragment: str
):
    path = write_report(sample_report(), {}, tmp_path)
    before = path.read_bytes()
    with pytest.raises(DataError, match=fragment):
        write_report({}, {"suspects": picture}, tmp_path)
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_report(sample_report(), {}, tmp_path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="No space left"):
        write_report({"task": {}, "models": {}}, {}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert path.read_bytes() == before


def test_a_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StorageError, match=r"could not write .*report\.html"):
        write_report({}, {}, tmp_path)


def test_importing_the_package_loads_no_plotting():
    import subprocess
    import sys

    code = "import sys, truecue.report; print({'matplotlib', 'jinja2', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
