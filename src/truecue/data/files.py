"""Image files: finding out what they show, decoding them once, and a cache for what was decoded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from truecue.data.sets import ArrayFile
from truecue.errors import DataError, StorageError

if TYPE_CHECKING:
    from PIL import Image

_Source = TypeVar("_Source")

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
"""What the name of an image file may end with, in lower case."""

_LOG = logging.getLogger(__name__)
_BLOCK = 1 << 20  # bytes
_BLOCKS = 64  # of a file are looked at, at most, when it is checked
_BATCH = 256  # images decoded before they are written
_STALE = 24 * 3600  # seconds after which a half-made cache belongs to no living process
_ORIENTATION = 0x0112  # EXIF tag
_DECODING = 2  # raise it when `read_image` gives other pixels, so that old caches are not used


def cache_folder() -> Path:
    """Where decoded data is kept: `$TRUECUE_CACHE`, or `~/.cache/truecue`.

    Raises:
        StorageError: the user has no home folder.
    """
    try:
        return Path(os.environ.get("TRUECUE_CACHE") or "~/.cache/truecue").expanduser()
    except RuntimeError as error:
        raise StorageError(
            "there is no home folder for a cache; set the environment variable TRUECUE_CACHE to a"
            " folder with room"
        ) from error


def fingerprint(paths: Iterable[Path]) -> str:
    """A short text that changes when a file's path, size or time of change does.

    Raises:
        OSError: a file is absent.
    """
    digest = hashlib.sha256()
    for path in paths:
        found = path.stat()
        digest.update(f"{path}\x1f{found.st_size}\x1f{found.st_mtime_ns}\n".encode(*_ANY_NAME))
    return digest.hexdigest()


_ANY_NAME = ("utf-8", "surrogateescape")  # file names need not be valid UTF-8


def cached_folder(name: str, key: Sequence[object], fill: Callable[[Path], None]) -> Path:
    """A folder in the cache, made at the first call with a key and found again at later ones.

    The folder appears under its name only when it is complete, so a process that is killed leaves
    no half of it, and two processes may make it at once. A folder whose files are damaged is made
    again. Files up to 64 MiB are checked in full; of larger ones, 64 MiB spread over the file are.

    Args:
        name: what it holds, for people who look into the cache.
        key: everything that its contents depend on.
        fill: writes the files into the (temporary) folder that it is given.

    Raises:
        StorageError: the files could not be written.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode(*_ANY_NAME)).hexdigest()
    place = cache_folder() / f"{name}-{digest[:24]}"
    if _intact(place):
        return place
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        _remove_stale(place.parent)
        temporary.mkdir(parents=True)
        fill(temporary)
        sums = {file.name: _sum(file) for file in sorted(temporary.iterdir())}
        (temporary / "sums.json").write_text(json.dumps(sums), encoding="utf-8")
        try:
            temporary.rename(place)
        except OSError:  # there is one; if it is whole, another process was faster
            if not _intact(place):
                shutil.rmtree(place, ignore_errors=True)
                temporary.rename(place)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"decoded images could not be written to {place.parent}: {error.strerror or error};"
            " set the environment variable TRUECUE_CACHE to a folder with room"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def cached_arrays(
    name: str, key: Sequence[object], make: Callable[[], Mapping[str, npt.NDArray[Any]]]
) -> dict[str, npt.NDArray[Any]]:
    """Arrays that are made at the first call with a key and read from the cache at later ones.

    Where the cache cannot be written, the arrays are made at every call.

    Args:
        name: what they hold, see `cached_folder`.
        key: everything that they depend on.
        make: the arrays by name.

    Returns:
        The arrays by name, memory-mapped and read-only where they come from the cache.
    """
    made: dict[str, npt.NDArray[Any]] = {}

    def fill(folder: Path) -> None:
        made.update(make())
        for array_name, array in made.items():
            np.save(folder / f"{array_name}.npy", array, allow_pickle=False)

    try:
        folder = cached_folder(name, key, fill)
    except StorageError as error:
        _LOG.info("%s", error)
        return made or dict(make())
    return made or {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}


class Decoded(NamedTuple):
    """Images in the cache, with what was found out while they were decoded."""

    images: ArrayFile
    """uint8 [n, 3, size, size]; black where an image could not be read."""
    sizes: npt.NDArray[np.int32]
    """int32 [n, 2], width and height of the files' images, upright; 0 where unreadable."""
    reasons: tuple[str, ...]
    """For each image, why it could not be read; empty where it could."""


def decode(
    files: Sequence[Path | bytes],
    size: int,
    progress: Progress | None = None,
    *,
    key: str | None = None,
) -> Decoded:
    """Decode image files into one array in the cache, or find the array there.

    Args:
        files: one for each image, or what it holds; absent files count as unreadable.
        size: height and width of the result, see `read_image`.
        progress: called after every few hundred images; not called where the cache has them.
        key: a text that changes when an image does; None: made from the files. With a key nothing
            in `files` is looked at where the cache has the images.

    Raises:
        StorageError: the cache could not be written.
    """

    def read(source: Path | bytes) -> _Read:
        return _reading(source, size)

    what = known(files) if key is None else key
    return _decoded(len(files), size, (what,), lambda: _pooled(files, read), progress)


def decode_column(table: Path, column: str, size: int, progress: Progress | None = None) -> Decoded:
    """Decode the image files in a column of a Parquet table into the cache, or find them there.

    Args:
        table: the table.
        column: its column with the bytes of one image file in each row.
        size: height and width of the result, see `read_image`.
        progress: called after every few hundred images; not called where the cache has them.

    Raises:
        DataError: the table is absent, is no Parquet table, or has no such column of bytes.
        StorageError: the cache could not be written.
    """
    from pyarrow import ArrowException, parquet, types

    try:
        with parquet.ParquetFile(table) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
            key = (fingerprint([table]), column)
            if column not in schema.names or not types.is_binary(schema.field(column).type):
                raise DataError(f"{table} has no column '{column}' of image files (bytes)")

            def read(data: bytes | None) -> _Read:
                return _reading(b"" if data is None else data, size)

            def images() -> Iterator[_Read]:
                batches = file.iter_batches(_BATCH, columns=[column])
                while (rows := _next_rows(batches, table)) is not None:
                    yield from _pooled(rows, read)

            return _decoded(count, size, key, images, progress)
    except FileNotFoundError:
        raise DataError(f"there is no table {table}") from None
    except ArrowException as error:
        raise DataError(f"{table} cannot be read as a Parquet table: {error}") from error


def _next_rows(batches: Iterator[Any], table: Path) -> list[bytes | None] | None:
    """The next rows of a table's only column; None at its end.

    Raises:
        DataError: the file is damaged; pyarrow's error could be taken for one of the cache's.
    """
    try:
        batch = next(batches, None)
    except OSError as error:
        raise DataError(f"{table} cannot be read as a Parquet table: {error}") from error
    return None if batch is None else batch.column(0).to_pylist()


def read_image(source: Path | bytes, size: int) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """One image file as pixels.

    The image is turned upright as its EXIF data says, its short side is resized to `size` (Lanczos
    filter) and the middle square is kept. Grey, palette and CMYK images become RGB, 16-bit images
    keep their upper 8 bits, transparent images are laid on white, of animations the first picture
    is taken. Large JPEG files are decoded at half, quarter or eighth scale where that leaves at
    least twice `size`.

    Args:
        source: the file, or its bytes.
        size: height and width of the result.

    Returns:
        uint8 [3, size, size], and the width and height of the upright image before resizing.

    Raises:
        DataError: the file is absent, is no image, is cut off, or its pixels are floating-point
            numbers or beyond 16 bits.
    """
    from PIL import Image, ImageOps

    where = _place(source)
    try:
        if isinstance(source, Path) and not S_ISREG(source.stat().st_mode):
            raise DataError("it is no file")  # to open a pipe would wait for ever
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
            stored = opened.size
            drafted = opened.draft("RGB", (2 * size, 2 * size))
            image = _eight_bit(ImageOps.exif_transpose(opened))
            found = image.size
            if drafted:  # a JPEG, perhaps at a smaller scale, which rounds its sides
                turned = opened.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
                found = stored[::-1] if turned else stored
        square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise DataError(f"{where}: there is no such file") from None
    # Pillow's readers raise many kinds of errors on damaged files
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error)
        reason = "it is not an image of a known kind" if "identify" in said else said
        raise DataError(f"{where}: {reason or type(error).__name__}") from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), found


def _place(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "the image"


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB."""
    from PIL import Image

    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers without a known range")
    if image.mode.startswith("I"):  # "I" is how 16-bit PNG files look in older versions of Pillow
        pixels = np.asarray(image)
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > 65535:
            raise DataError(
                f"its pixels are whole numbers from {low} to {high}; beyond 0 to 65535 their range"
                " is not known"
            )
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        front = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), front).convert("RGB")
    return image.convert("RGB")


_Read = tuple[bytes, tuple[int, int], str]  # pixels, width and height, why it could not be read


def _decoded(
    count: int,
    size: int,
    key: Sequence[object],
    read: Callable[[], Iterator[_Read]],
    progress: Progress | None,
) -> Decoded:
    """What `read` gives, written to the cache at the first call and found there at later ones."""

    def fill(folder: Path) -> None:
        reasons: list[str] = []
        sizes: list[tuple[int, int]] = []
        shape = (count, 3, size, size)
        # written piece by piece: a full disk is then an error, where a memory map would crash
        with (folder / "images.npy").open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            # filters of warnings belong to the whole process, so they are set outside the threads
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd metadata; what cannot be read is reported
                for pixels, found, reason in read():
                    out.write(pixels)
                    sizes.append(found)
                    reasons.append(reason)
                    done = len(reasons)
                    if progress is not None and (done % _BATCH == 0 or done == count):
                        progress(done, count)
        np.save(folder / "sizes.npy", np.array(sizes, dtype=np.int32).reshape(-1, 2))
        (folder / "reasons.json").write_text(json.dumps(reasons), encoding="utf-8")

    place = cached_folder("images", (_DECODING, size, *key), fill)
    reasons = json.loads((place / "reasons.json").read_text(encoding="utf-8"))
    return Decoded(ArrayFile(place / "images.npy"), np.load(place / "sizes.npy"), tuple(reasons))


def _reading(source: Path | bytes, size: int) -> _Read:
    """One image; black with a reason where it cannot be read."""
    try:
        pixels, found = read_image(source, size)
    except DataError as error:
        where = _place(source)
        return bytes(3 * size * size), (0, 0), str(error).removeprefix(f"{where}: ")
    return pixels.tobytes(), found, ""


def _pooled(sources: Sequence[_Source], read: Callable[[_Source], _Read]) -> Iterator[_Read]:
    """What `read` gives for each source, in their order, by several threads."""
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(sources), _BATCH):
            yield from pool.map(read, sources[start : start + _BATCH])


def workers() -> int:
    """Threads for decoding: Pillow lets go of the interpreter's lock while it decodes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, cores or 1))


def known(files: Sequence[Path | bytes]) -> str:
    """A fingerprint of images in files, of which some may be absent, or in memory."""
    digest = hashlib.sha256()
    for path in files:
        if isinstance(path, bytes):
            digest.update(hashlib.sha256(path).digest())
            continue
        try:
            digest.update(fingerprint([path]).encode())
            if not os.access(path, os.R_OK):  # a later permission changes nothing else
                digest.update(b"unreadable")
        except (OSError, ValueError):  # the latter: a name that no file can have
            digest.update(f"{path} absent".encode(*_ANY_NAME))
    return digest.hexdigest()


def _sum(path: Path) -> list[int]:
    """Size and checksum of a file, or of 64 blocks spread evenly over a large one."""
    size, crc = path.stat().st_size, 0
    step = max(_BLOCK, size // _BLOCKS)
    with path.open("rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            crc = zlib.crc32(file.read(_BLOCK), crc)
    return [size, crc]


def _intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / "sums.json").read_text(encoding="utf-8"))
        return all(_sum(folder / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _remove_stale(folder: Path) -> None:
    """Remove what processes that were killed long ago left half made."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # another process may be finishing or removing it
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path)
