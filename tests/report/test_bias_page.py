"""The page of a bias: what it says, that it stands alone, and the files beside it."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from report_sample import sample_report
from test_report import Page

from truecue.audit.bias import bias_pictures
from truecue.audit.show import Gallery, Grid
from truecue.audit.shown import BiasPictures
from truecue.engine.device import Device
from truecue.errors import StorageError
from truecue.report import write_report
from truecue.report.bias import coloured, headline
from truecue.report.bias_page import write_bias_page
from truecue.report.sheet import sheet

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
from hand_made import BlueBlind, Halves, Painter, grey, painted, painted_splits

CPU = Device("cpu")
PNG = ["push", "strip", "swap", "pairs", "difference", "class_maps"]
FILES = {f"{n}.png" for n in [*PNG, "gallery_lowest", "gallery_highest"]} | {
    "histogram.svg", "bias.json", "index.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> BiasPictures:
    return bias_pictures(Painter(), painted_splits(), device=CPU)


@pytest.fixture(scope="module")
def folder(shown: BiasPictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bias") / "deep"
    write_bias_page(shown, out, {"data": "painted <b>", "seed": 3, "command": "truecue show"})
    return out


def test_everything_is_written(folder: Path, shown: BiasPictures) -> None:
    assert {p.name for p in folder.iterdir()} == FILES
    twin = json.loads((folder / "bias.json").read_text())
    assert twin["about"]["data"] == "painted <b>"
    assert set(twin["files"]) == FILES - {"bias.json", "index.html"}
    assert twin["push"] == json.loads(json.dumps(shown.to_dict()["push"]))
    for name in twin["files"]:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                assert min(image.size) > 80


def test_the_page_loads_nothing(folder: Path) -> None:
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert all((img["src"] or "").startswith("data:image/") for img in page.all("img"))
    assert all(img["alt"] for img in page.all("img"))
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert not re.search(r"https?:|url\(| on\w+=", text)
    links = {link["href"] for link in page.all("a")}
    assert links == FILES - {"index.html"}


def test_rows_and_columns_are_named(folder: Path, shown: BiasPictures) -> None:
    page = Page((folder / "index.html").read_text())
    assert len([t for t in page.all("table") if t.get("class") == "grid"]) == 4
    for grid in shown.grids.values():
        for name in (*grid.rows, *grid.columns):
            assert name in page.text
    for part in (
        "with twice the smallest change, 100 % of the pictures mislead the biased half and leave"
        " the signal half's answer as it was (100 % do the first, 100 % the second)",
        "of the validation images were pushed to another class",
        "whole bias latent of another image",
        "difference (smallest change)",
        "bias of low",
        "labelled top, biased half: middle, p",
        "conflicting",
        "of all such pairs (AUC)",
        "painted <b>",
    ):
        assert part in page.text.replace("\u00a0", " "), part
    assert "framed:" not in page.text
    assert "dashed:" not in page.text
    assert "The first ones are shown." in page.text


def marked(page: Page, mark: str) -> int:
    return sum(cell.get("class") == mark for cell in page.all("td"))


def test_pictures_that_failed_are_framed_and_explained(tmp_path: Path) -> None:
    shown = bias_pictures(Painter(unreachable=2), painted_splits(), device=CPU)
    page = Page(write_bias_page(shown, tmp_path).read_text())
    grids = shown.grids.values()
    assert marked(page, "failed") == sum(int(grid.failed.sum()) for grid in grids) > 0
    assert marked(page, "another") == 0, "a frame says more"
    assert page.text.count("framed:") == 1, "in the legend of the one grid that has some"
    assert "never came to where the biased half says the class of its column" in page.text
    assert shown.pushed is not None
    passed = shown.pushed.passed_over
    assert f"Those that got there are shown first, and {passed} others passed over." in page.text


def test_changes_that_did_not_get_into_the_picture_are_dashed(tmp_path: Path) -> None:
    shown = bias_pictures(BlueBlind(), painted_splits(), device=CPU)
    page = Page(write_bias_page(shown, tmp_path).read_text())
    grids = shown.grids.values()
    assert marked(page, "failed") == 0
    assert marked(page, "another") == sum(int(grid.another.sum()) for grid in grids) > 0
    said = "dashed: the biased half, shown the picture, does not say the class"
    assert page.text.count(f"{said} aimed at") == 2
    assert page.text.count(f"{said} of its column") == 1
    assert "framed:" not in page.text


@pytest.mark.parametrize(("both", "tone"), [(0.49, "bad"), (0.51, "good")])
def test_the_headline_goes_by_what_happens_in_one_picture(both: float, tone: str) -> None:
    numbers = bias_pictures(Painter(), painted_splits(), device=CPU).to_dict()
    for key, value in (("flips", 0.6), ("stays", 0.85), ("separated", both)):
        numbers["push"]["far"][key]["value"] = value
    text, found = headline(numbers)
    assert found == tone
    said = f"{round(100 * both)} % of the pictures mislead the biased half and leave the signal"
    assert said in text.replace("\u00a0", " ")
    assert text.replace("\u00a0", " ").endswith("(60 % do the first, 85 % the second)")


def test_a_pair_that_is_not_separated_is_said_so() -> None:
    shown = bias_pictures(Painter(mixed=1.0), painted_splits(), device=CPU)
    text, tone = headline(shown.to_dict())
    assert tone == "bad"
    assert text.startswith("Read these pictures with care")
    assert text.replace("\u00a0", " ").endswith("(100 % do the first, 0 % the second)")


def test_nothing_to_push_is_a_page_with_a_message(tmp_path: Path) -> None:
    shown = bias_pictures(Painter(), painted(30, 1.0, 0), device=CPU)
    page = Page(write_bias_page(shown, tmp_path).read_text())
    assert "There are no pictures of this bias" in page.text
    assert "None of the 30 images is one that both halves get right" in page.text
    assert not (tmp_path / "push.png").exists()
    assert (tmp_path / "pairs.png").exists()


def test_grey_images_of_two_classes(tmp_path: Path) -> None:
    shown = bias_pictures(Halves(), grey(), device=CPU)
    page = Page(write_bias_page(shown, tmp_path).read_text())
    assert "bright → bias of dark" in page.text
    assert "AUC" not in page.text
    assert "of the images given were pushed" in page.text


def test_hostile_names_are_harmless(shown: BiasPictures, tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script> $\\frac{$ \udc80 漢字'
    grid = shown.grids["push"]
    lowest = shown.gallery[0]
    named: Gallery = lowest._replace(captions=(evil,) * len(lowest.captions))
    bad = replace(
        shown,
        classes=(evil, "b", "c"),
        gallery=(named, shown.gallery[1]),
        grids={"push": grid._replace(columns=(evil,) * 5, rows=(evil, *grid.rows[1:]))},
        notes=(evil,),
    )
    page = Page(write_bias_page(bad, tmp_path, {"data": evil}).read_text())
    assert not page.all("script")
    assert "alert(1)" in page.text


def test_many_classes_stay_in_view(tmp_path: Path, shown: BiasPictures) -> None:
    images = torch.zeros(1, 14, 3, 28, 28, dtype=torch.uint8)
    names = tuple(f"bias of class {k}" for k in range(14))
    wide = Grid(images, ("cat",), names, (("",) * 14,), *torch.zeros(2, 1, 14, dtype=torch.bool))
    page = Page(write_bias_page(replace(shown, grids={"strip": wide}), tmp_path).read_text())
    own = [i for i in page.all("img") if (i["alt"] or "").startswith("cat, bias of class")]
    assert {i["width"] for i in own} == {"56"}


def test_a_write_that_fails_leaves_what_was_there(
    shown: BiasPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bias_page(shown, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="No space left"):
        write_bias_page(replace(shown, notes=("new",)), path.parent)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_same_pictures_give_the_same_bytes(shown: BiasPictures, tmp_path: Path) -> None:
    for name in "ab":
        write_bias_page(shown, tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_report_shows_the_main_grid(shown: BiasPictures, tmp_path: Path) -> None:
    page = Page(write_report(sample_report(), {}, tmp_path, bias=shown).read_text())
    assert "What the shortcut looks like" in page.text
    assert "difference (smallest change)" in page.text
    said = "100 % of the pictures mislead the biased half and leave the signal half's answer"
    assert said in page.text.replace("\u00a0", " ")
    assert "The first ones are shown." in page.text
    assert {link["href"] for link in page.all("a")} == {"report.json", "bias/index.html"}
    without = Page(write_report(sample_report(), {}, tmp_path).read_text())
    assert "What the shortcut looks like" not in without.text


# Drawing.


def test_a_sheet_keeps_the_pixels() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (2, 3, 3, 28, 28), dtype=torch.uint8)
    failed, dashed = torch.zeros(2, 2, 3, dtype=torch.bool)
    failed[1, 2] = dashed[0, 1] = True
    made = sheet(images, ("one", "two"), ("a", "b", "c"), failed, dashed=dashed)
    image = Image.open(io.BytesIO(made))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(image.height, image.width, 3)
    left, top = image.width - 12 - 3 * 90, image.height - 12 - 2 * 90
    for row in range(2):
        for column in range(3):
            y, x = top + 90 * row, left + 90 * column
            shown = pixels[y : y + 84 : 3, x : x + 84 : 3].permute(2, 0, 1)
            assert torch.equal(shown, images[row, column])
            frame = {tuple(pixel) for pixel in pixels[y - 1, x : x + 84].tolist()}
            assert (frame == {(194, 80, 15)}) == bool(failed[row, column])
            dashes = {(139, 148, 163), (255, 255, 255)}
            assert (frame == dashes) == bool(dashed[row, column])


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 8), (3, 224, 160), (5, 8, 8)])
def test_a_sheet_takes_any_pictures(shape: tuple[int, int, int]) -> None:
    images = torch.full((1, 2, *shape), 7, dtype=torch.uint8)
    image = Image.open(io.BytesIO(sheet(images, ("",), ("a long title that wraps", ""))))
    assert image.mode == "RGB"
    assert image.width < 400
    assert (7, 7, 7) in {colour for _, colour in image.getcolors(1 << 20) or []}


def test_maps_run_from_white_to_dark() -> None:
    painted_ = coloured(torch.tensor([[[0.0, 0.1]], [[0.2, 0.3]]]))
    assert painted_.shape == (2, 3, 1, 2)
    assert painted_[0, :, 0, 0].tolist() == [255, 255, 255]
    assert painted_[1, :, 0, 1].tolist() == [60, 16, 0]
    darkness = painted_.float().mean(1).flatten()
    assert darkness.tolist() == sorted(darkness.tolist(), reverse=True)
    assert (coloured(torch.zeros(1, 2, 2)) == 255).all()
