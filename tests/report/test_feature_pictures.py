"""Pictures of features: what is in them, when they are drawn, when they are found again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from truecue.audit.attack import amplified
from truecue.audit.maps import heat, stored_maps
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.report import features
from truecue.report.features import FeaturePictures, Shown
from truecue.report.sheet import RIGHT, WRONG, Caption, media_type, sheet

CPU = Device("cpu")
SIDE = 72
"""Pixels a side: large enough to be shown as they are."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images() -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (12, 3, 6, 6), generator=rng, dtype=torch.uint8)
    x = coarse.repeat_interleave(SIDE // 6, 2).repeat_interleave(SIDE // 6, 3)
    return ImageSet(x, torch.arange(12) % 2, ("a", "b"))


@pytest.fixture
def net() -> Classifier:
    torch.manual_seed(0)
    return build("conv3", channels=3, size=SIDE, n_classes=2).eval()


def shown(*ids: int) -> Shown:
    return Shown(torch.tensor(ids), torch.tensor([float(i) / 7 for i in ids]))


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What `sheet` is asked to draw, in order."""
    calls: list[dict] = []
    real = features.sheet

    def note(x, rows, columns, **others):
        calls.append({"images": x, "rows": rows, **others})
        return real(x, rows, columns, **others)

    monkeypatch.setattr(features, "sheet", note)
    return calls


@pytest.mark.parametrize("robust", [True, False])
def test_the_rows_of_a_picture(
    net: Classifier, images: ImageSet, robust: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = laid_out(monkeypatch)
    drawn = FeaturePictures(net, images, CPU, robust=robust)
    made = drawn.picture(0, 5, shown(3, 8), shown(1))
    ((call),) = calls
    top, five = torch.tensor([3, 8]), torch.tensor([5, 5])
    maps = stored_maps(drawn.source, images, top, five, CPU)
    expected = {"most activating": images.images[top], "heat map": heat(images.images[top],
                                                                       maps / 255)}  # fmt: skip
    if robust:
        expected["amplified"] = amplified(net, images.images[top], five)
    white = torch.full((1, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    expected["least activating"] = torch.cat([images.images[1:2], white])
    assert call["rows"] == list(expected)
    for row, tiles in zip(call["images"], expected.values(), strict=True):
        assert torch.equal(row, tiles)
    captions = call["captions"]
    assert [[c.lines[0] for c in row] for row in captions] == [
        ["0.429", "1.14"], *([] for _ in range(len(expected) - 2)), ["0.143"],
    ]  # fmt: skip
    assert media_type(made) == "image/webp"
    # margins, rows with gaps, and a line of text below two of them
    assert pixels(made).shape[0] == 2 * 12 + len(expected) * (SIDE + 6) + 2 * 15
    assert ("adversarially robust" in " ".join(drawn.notes)) == (not robust)
    assert drawn.notes[0] == drawn.source.note


def test_without_least_activating_images(net: Classifier, images: ImageSet) -> None:
    drawn = FeaturePictures(net, images, CPU, robust=False)
    with_row = pixels(drawn.picture(0, 5, shown(3), shown(1)))
    none = pixels(drawn.picture(0, 5, shown(3)))
    empty = pixels(drawn.picture(0, 5, shown(3), shown()))
    assert none.shape == empty.shape
    assert none.shape[0] < with_row.shape[0] - SIDE


def test_what_is_no_feature_has_no_heat_maps(
    net: Classifier, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = laid_out(monkeypatch)
    drawn = FeaturePictures(net, images, CPU, robust=True)
    drawn.picture(0, None, shown(3, 8), shown(1, 2))
    ((call),) = calls
    assert call["rows"] == ["most activating", "least activating"]
    assert torch.equal(call["images"][0], images.images[[3, 8]])
    drawn.picture(0, None, shown(3, 8), shown(1, 2))
    drawn.picture(0, 5, shown(3, 8), shown(1, 2))
    assert len(calls) == 2  # the first one was kept, and is not that of a feature


def test_pictures_are_drawn_once_and_again_when_anything_changes(
    net: Classifier, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    first = FeaturePictures(net, images, CPU, robust=False)
    real = FeaturePictures._drawn

    def counted(*args) -> bytes:
        nonlocal count
        count += 1
        return real(*args)

    monkeypatch.setattr(FeaturePictures, "_drawn", counted)
    made = first.picture(0, 5, shown(3, 8), shown(1))
    assert count == 1
    assert first.picture(0, 5, shown(3, 8), shown(1)) == made
    assert FeaturePictures(net, images, CPU, robust=False).picture(
        0, 5, shown(3, 8), shown(1)
    ) == made  # fmt: skip
    assert count == 1
    first.picture(1, 5, shown(3, 8), shown(1))
    first.picture(0, 6, shown(3, 8), shown(1))
    first.picture(0, 5, shown(8, 3), shown(1))
    first.picture(0, 5, shown(3, 8), shown(2))
    first.picture(0, 5, Shown(torch.tensor([3, 8]), torch.ones(2)), shown(1))
    FeaturePictures(net, images, CPU, robust=True).picture(0, 5, shown(3, 8), shown(1))
    assert count == 7
    # other pixels under the same positions, and other weights
    other = replace(images, images=255 - images.images)
    FeaturePictures(net, other, CPU, robust=False).picture(0, 5, shown(3, 8), shown(1))
    with torch.no_grad():
        net.encoder.conv1.weight.mul_(1.01)
    FeaturePictures(net, images, CPU, robust=False).picture(0, 5, shown(3, 8), shown(1))
    assert count == 9


def test_without_a_place_for_the_cache(
    net: Classifier, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "file"))
    made = FeaturePictures(net, images, CPU, robust=False).picture(0, 5, shown(3))
    assert media_type(made) == "image/webp"


def test_bad_requests(net: Classifier, images: ImageSet) -> None:
    drawn = FeaturePictures(net, images, CPU, robust=False)
    with pytest.raises(DataError, match="12 images"):
        drawn.picture(0, 5, shown(12))
    with pytest.raises(DataError, match="64 features"):
        drawn.picture(0, 64, shown(1))
    with pytest.raises(DataError, match="class 0, feature 5: there is no image"):
        drawn.picture(0, 5, shown())
    with pytest.raises(DataError, match="2 images and 1 activations"):
        drawn.picture(0, 5, Shown(torch.tensor([1, 2]), torch.ones(1)))
    encoded = ImageSet(torch.zeros(2, 64, 1, 1), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(DataError, match="need the images"):
        FeaturePictures(net, encoded, CPU, robust=False)
    torch.nn.init.constant_(net.encoder.bn3.bias, float("nan"))
    with pytest.raises(DataError, match="1 of 1 maps hold values that are not finite"):
        drawn.picture(0, 5, shown(1))
    with pytest.raises(DataError, match="features of conv3 are not finite"):
        FeaturePictures(net, images, CPU, robust=False)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_number_of_channels(channels: int) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (3, channels, 12, 20), dtype=torch.uint8)
    net = build("conv3", channels=channels, size=12, n_classes=2).eval()
    data = ImageSet(x, torch.tensor([0, 1, 0]), ("a", "b"))
    made = FeaturePictures(net, data, CPU, robust=True).picture(0, 5, shown(0, 2), shown(1))
    assert pixels(made).shape[2] == 3


# Captions of a sheet.


def ink(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).sum(2) < 30).sum())


def test_right_and_wrong_captions_have_their_own_colours() -> None:
    x = torch.full((1, 2, 3, 80, 80), 128, dtype=torch.uint8)
    right, wrong = Caption(("s = 1", "cat"), True), Caption(("s = 2", "cat"), False)

    def drawn(*captions: Caption) -> np.ndarray:
        return pixels(sheet(x, ["row"], ["", ""], captions=[captions]))

    assert ink(drawn(right, right), RIGHT) > 20
    assert ink(drawn(right, right), WRONG) == 0
    assert ink(drawn(wrong, wrong), WRONG) > 20
    assert ink(drawn(wrong, wrong), RIGHT) == 0
    both = drawn(right, wrong)
    assert 0 < ink(both, RIGHT) < ink(drawn(right, right), RIGHT)
    assert ink(both, WRONG) > 0
    bare = drawn(Caption(), Caption())
    assert both.shape[0] - bare.shape[0] == 30  # two lines


def test_long_captions_stay_below_their_picture() -> None:
    x = torch.full((1, 2, 3, 80, 80), 128, dtype=torch.uint8)
    long = Caption(("a class with a name that is far too long to stand below its picture",))
    picture = pixels(sheet(x, [""], ["", ""], captions=[[long, Caption()]]))
    left, right = 12, 12 + 80 + 6
    below = (picture[12 + 80 + 1 :] < 200).any((0, 2))
    assert below[left:right].any()
    assert not below[right + 2 :].any()


def test_no_rows_with_captions_leaves_a_sheet_as_it_was() -> None:
    x = torch.randint(0, 256, (2, 2, 3, 80, 80), dtype=torch.uint8)
    assert sheet(x, ["a", "b"], ["c", "d"]) == sheet(x, ["a", "b"], ["c", "d"], captions=[[], []])
