from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from truecue.data import files
from truecue.data.files import (
    cache_folder,
    cached_arrays,
    cached_folder,
    decode,
    fingerprint,
    read_image,
)
from truecue.errors import DataError, StorageError


def made_by(calls: list[int]) -> Callable[[], dict[str, np.ndarray]]:
    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(6).reshape(2, 3), "b": np.array([True])}

    return make


def test_arrays_are_made_once(cache: Path) -> None:
    calls: list[int] = []
    first = cached_arrays("x", (1, "k"), made_by(calls))
    again = cached_arrays("x", (1, "k"), made_by(calls))
    assert len(calls) == 1
    assert cache_folder() == cache
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    cached_arrays("x", (2, "k"), made_by(calls))
    assert len(calls) == 2
    assert not list(cache.glob(".*"))  # nothing temporary is left


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "sums", "listed"])
def test_damaged_cache_is_made_again(cache: Path, damage: str) -> None:
    calls: list[int] = []
    cached_arrays("x", (1,), made_by(calls))
    (folder,) = cache.iterdir()
    file = folder / "a.npy"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "remove":
        file.unlink()
    else:
        (folder / "sums.json").write_text("{" if damage == "sums" else "[]")
    again = cached_arrays("x", (1,), made_by(calls))
    assert len(calls) == 2
    np.testing.assert_array_equal(again["a"], [[0, 1, 2], [3, 4, 5]])
    cached_arrays("x", (1,), made_by(calls))
    assert len(calls) == 2


def test_large_files_are_checked_at_their_ends(tmp_path: Path) -> None:
    file = tmp_path / "big"
    with file.open("wb") as out:
        out.truncate(100 << 20)  # a hole, no room needed
    before = files._sum(file)
    with file.open("r+b") as out:
        out.write(b"x")
    assert files._sum(file) != before


def test_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "file"))
    calls: list[int] = []
    assert cached_arrays("x", (1,), made_by(calls))["b"].all()
    assert cached_arrays("x", (1,), made_by(calls))["b"].all()
    assert len(calls) == 2
    with pytest.raises(StorageError, match="set the environment variable TRUECUE_CACHE"):
        decode([zoo / "cat" / "0.png"], 8)


def test_no_home_for_the_cache(monkeypatch: pytest.MonkeyPatch, zoo: Path) -> None:
    pwd = pytest.importorskip("pwd")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "TRUECUE_CACHE"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cached_arrays("x", (1,), made_by([]))["b"].all()
    with pytest.raises(StorageError, match=r"no home folder for a cache; set .* TRUECUE_CACHE"):
        decode([zoo / "cat" / "0.png"], 8)


def test_error_while_filling_leaves_nothing(cache: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise DataError("no")

    with pytest.raises(DataError):
        cached_folder("x", (1,), fill)
    assert not list(cache.iterdir())


def test_the_slower_of_two_processes_uses_what_the_faster_made(cache: Path) -> None:
    def fast(folder: Path) -> None:
        (folder / "who").write_text("fast")

    def slow(folder: Path) -> None:
        (folder / "who").write_text("slow")
        cached_folder("x", (1,), fast)

    place = cached_folder("x", (1,), slow)
    assert (place / "who").read_text() == "fast"
    assert list(cache.iterdir()) == [place]


def test_many_at_once(cache: Path) -> None:
    """Nobody ever sees a folder that is not whole."""

    def one(i: int) -> int:
        return int(cached_arrays("x", (i % 3,), lambda: {"a": np.full(10000, i % 3)})["a"].sum())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(60))) == [10000 * (i % 3) for i in range(60)]
    assert len(list(cache.iterdir())) == 3


def test_old_half_made_caches_are_removed(cache: Path) -> None:
    old, young = cache / ".x-1.ab.tmp", cache / ".x-2.ab.tmp"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (time.time() - 1e6,) * 2)
    cached_arrays("x", (1,), made_by([]))
    assert not old.exists()
    assert young.exists()


def test_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "é.bin"
    file.write_bytes(b"1")
    before = fingerprint([file])
    assert before == fingerprint([file])
    os.utime(file, (1, 1))
    assert before != fingerprint([file])
    with pytest.raises(FileNotFoundError):
        fingerprint([tmp_path / "absent"])


def save(image: Image.Image, path: Path, **settings: object) -> Path:
    image.save(path, **settings)
    return path


RED = Image.new("RGB", (16, 16), (255, 0, 0))


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (RED, "a.PNG", (255, 0, 0)),
        (RED.convert("P"), "a.gif", (255, 0, 0)),
        (RED.convert("CMYK"), "a.tiff", (254, 0, 0)),
        (Image.new("L", (16, 16), 77), "a.png", (77, 77, 77)),
        (Image.new("1", (16, 16), 1), "a.png", (255, 255, 255)),
        (Image.new("RGBA", (16, 16), (255, 0, 0, 0)), "a.png", (255, 255, 255)),
        (Image.new("RGBA", (16, 16), (255, 0, 0, 255)), "a.webp", (255, 0, 0)),
        (Image.new("LA", (16, 16), (10, 0)), "a.png", (255, 255, 255)),
        (Image.fromarray(np.full((16, 16), 0x8012, np.uint16)), "a.png", (128, 128, 128)),
        (Image.fromarray(np.full((16, 16), 0x8012, np.uint16)), "a.tif", (128, 128, 128)),
        (Image.fromarray(np.full((16, 16), 0x8012, np.int32)), "a.tif", (128, 128, 128)),
        (Image.fromarray(np.full((16, 16), 65535, np.int32)), "a.tif", (255, 255, 255)),
    ],
)
def test_modes_become_rgb(
    tmp_path: Path, image: Image.Image, name: str, expected: tuple[int, ...]
) -> None:
    pixels, size = read_image(save(image, tmp_path / name), 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    assert size == (16, 16)
    np.testing.assert_allclose(pixels[:, 4, 4].astype(int), expected, atol=1)


def test_transparent_palette(tmp_path: Path) -> None:
    path = save(RED.convert("P"), tmp_path / "a.png", transparency=bytes([0] * 256))
    assert (read_image(path, 8)[0] == 255).all()


def test_short_side_and_middle(tmp_path: Path) -> None:
    """A 30 x 10 image in three colours keeps its middle third."""
    wide = np.zeros((10, 30, 3), np.uint8)
    for k in range(3):
        wide[:, 10 * k : 10 * k + 10, k] = 255
    pixels, size = read_image(save(Image.fromarray(wide), tmp_path / "a.png"), 10)
    assert size == (30, 10)
    np.testing.assert_array_equal(pixels[1], 255)
    assert (pixels[0] == 0).all()


def test_exif_orientation(tmp_path: Path) -> None:
    """Orientation 6: the file's rows are the upright image's columns."""
    upright = np.zeros((20, 12, 3), np.uint8)
    upright[:10] = 255  # bright above
    stored = Image.fromarray(np.rot90(upright).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, size = read_image(save(stored, tmp_path / "a.jpg", exif=exif, quality=95), 12)
    assert size == (12, 20)
    assert pixels[:, :3].mean() > 240
    assert pixels[:, -3:].mean() < 15


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_of_the_upright_image(
    tmp_path: Path, name: str, orientation: int
) -> None:
    """They differ by less than the scale that a large JPEG is decoded at."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for width, height in ((205, 201), (201, 205)):
        path = save(Image.new("RGB", (width, height)), tmp_path / name, exif=exif)
        turned = orientation >= 5
        assert read_image(path, 12)[1] == ((height, width) if turned else (width, height))


def test_bad_files(tmp_path: Path, draw: Callable[..., Path]) -> None:
    cut = draw(tmp_path / "cut.png", width=64, height=64)
    cut.write_bytes(cut.read_bytes()[:500])
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    empty = tmp_path / "empty.png"
    empty.touch()
    floats = save(Image.new("F", (8, 8), 0.5), tmp_path / "float.tiff")
    good = draw(tmp_path / "good.png")
    result = decode([cut, text, empty, floats, tmp_path / "absent.png", good], 8)
    assert "truncated" in result.reasons[0]
    assert result.reasons[1:3] == ("it is not an image of a known kind",) * 2
    assert "floating-point" in result.reasons[3]
    assert result.reasons[4:] == ("there is no such file", "")
    assert result.sizes.tolist() == [[0, 0]] * 5 + [[12, 12]]
    assert not result.images[:5].any()
    with pytest.raises(DataError, match=r"text\.jpg: it is not an image"):
        read_image(text, 8)


def test_permission_to_read_makes_another_cache(
    tmp_path: Path, draw: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that might not be read stayed unreadable when it might be."""
    image = draw(tmp_path / "1.png")
    readable = files.known([image])
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert files.known([image]) != readable
    assert files.known([image]) == readable


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, draw: Callable[..., Path]) -> None:
    """To open a pipe that nobody writes to never ends."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    good = draw(tmp_path / "good.png")
    result = decode([tmp_path / "pipe.png", tmp_path / "folder.png", Path("a\0b.png"), good], 8)
    assert result.reasons[:2] == ("it is no file",) * 2
    assert "null byte" in result.reasons[2]
    assert result.reasons[3] == ""


@pytest.mark.parametrize("outside", [-1, 65536, -(2**31)])
def test_whole_numbers_outside_16_bits_are_refused(tmp_path: Path, outside: int) -> None:
    """They came out black or white."""
    pixels = np.full((16, 16), 300, np.int32)
    pixels[3, 3] = outside
    path = save(Image.fromarray(pixels), tmp_path / "a.tif")
    found = f"{min(300, outside)} to {max(300, outside)}"
    with pytest.raises(DataError, match=f"whole numbers from {found}; beyond 0 to 65535"):
        read_image(path, 8)


def test_odd_metadata_is_no_warning(tmp_path: Path) -> None:
    path = save(RED, tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05junk")
    assert decode([path], 8).reasons == ("",)


def test_decoding_happens_once(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BATCH", 16)
    paths = sorted(zoo.rglob("*.png"))
    seen: list[tuple[int, int]] = []
    first = decode(paths, 8, lambda *done: seen.append(done))
    assert seen == [(16, 40), (32, 40), (40, 40)]
    monkeypatch.setattr(files, "read_image", None)
    again = decode(paths, 8)
    np.testing.assert_array_equal(first.images[:], again.images[:])
    expected = np.stack([np.asarray(Image.open(p).resize((8, 8), 1)) for p in paths])
    np.testing.assert_array_equal(first.images[:].permute(0, 2, 3, 1), expected)
    with pytest.raises(TypeError):
        decode(paths[::-1], 8)  # another order is another array


def test_decoding_again_after_a_change(tmp_path: Path, draw: Callable[..., Path]) -> None:
    path = tmp_path / "a.png"
    assert decode([path], 8).reasons == ("there is no such file",)
    draw(path, 1)
    first = decode([path], 8)
    assert first.reasons == ("",)
    draw(path, 2, 13, 13)
    assert not (decode([path], 8).images[:] == first.images[:]).all()
