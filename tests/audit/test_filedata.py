"""What is read from files without decoding them."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from truecue.audit.filedata import file_columns, files_of, read_facts
from truecue.data.sets import ImageSet


def jpeg(width: int = 40, height: int = 20, quality: int = 90, exif: bool = False) -> bytes:
    out, camera = BytesIO(), Image.Exif()
    camera[0x0110] = "a camera"
    Image.effect_noise((width, height), 40).convert("RGB").save(
        out, "JPEG", quality=quality, **({"exif": camera} if exif else {})
    )
    return out.getvalue()


def png() -> bytes:
    out = BytesIO()
    Image.new("L", (16, 16)).save(out, "PNG")
    return out.getvalue()


def test_facts_of_a_photo(tmp_path: Path) -> None:
    data = jpeg(exif=True)
    (tmp_path / "a.jpg").write_bytes(data)
    facts = read_facts(tmp_path / "a.jpg")
    assert facts == read_facts(data)
    assert facts[:4] == (40, 20, len(data), "JPEG")
    assert facts.exif == 1
    assert read_facts(jpeg()).exif == 0


def test_coarser_compression_has_larger_steps() -> None:
    fine, coarse = (read_facts(jpeg(quality=q)).quantisation for q in (95, 30))
    assert 1 <= fine < coarse <= 255
    assert math.isnan(read_facts(png()).quantisation)


def test_what_is_missing_is_nan_and_stops_nothing(tmp_path: Path) -> None:
    absent, broken = read_facts(tmp_path / "absent.jpg"), read_facts(b"no image")
    assert math.isnan(absent.size)
    assert broken.size == 8
    assert broken.format == ""
    assert math.isnan(broken.width)


def test_columns_are_in_the_order_of_the_images() -> None:
    train = [jpeg(40, 20), png(), b"no image"]
    columns = file_columns(train, [png()])
    assert all(c.kind == "metadata" and len(c.train) == 3 and len(c.test) == 1
               for c in columns.values())  # fmt: skip
    assert columns["file: width and height"].train[:2].tolist() == [[40, 20], [16, 16]]
    assert columns["file: aspect"].train[:2].tolist() == [1, 0]
    assert columns["file: bytes"].train[2] == pytest.approx(3)  # log2 of 8 bytes
    kinds = columns["file: format"]
    assert kinds.train[0] != kinds.train[1] == kinds.test[0]
    assert bool(kinds.train[2].isnan())


def test_files_are_found_by_the_names_of_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(png())
    part = ImageSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0]), ("cat", "dog"),
                    names=("cat/1.png",))  # fmt: skip
    assert files_of(part, tmp_path) == [tmp_path / "cat" / "1.png"]
    assert files_of(part, tmp_path / "elsewhere") is None
