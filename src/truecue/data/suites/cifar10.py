"""Reading CIFAR-10 in the forms in which people have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from truecue.data.files import SUFFIXES, Progress, cached_arrays, fingerprint
from truecue.data.suites.batches import Batch, read_binary, read_python
from truecue.data.suites.listing import natural
from truecue.errors import DataError

LAYOUT = (
    "the official cifar-10-batches-bin/ (data_batch_1.bin to data_batch_5.bin, test_batch.bin) or"
    " cifar-10-batches-py/ (data_batch_1 to data_batch_5, test_batch); or images of 32 x 32 in"
    " class folders (train/airplane/1.png, test/..); or cifar10_jpeg.parquet with the columns"
    " split, label and jpeg. They may lie in the folder itself, in cifar10/ or in CIFAR10/"
)
"""What to put where."""

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

Arrays = dict[str, npt.NDArray[Any]]

_BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
PLACES = ("cifar10", "CIFAR10")
"""What the folder with the files may be called inside the root."""
MARKS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar10_jpeg.parquet", "train/airplane")
"""By which a folder with the files is known."""
_PARQUET = "cifar10_jpeg.parquet"
_BLOCK = 256  # images decoded before progress is told
_LOSSY = frozenset((".jpg", ".jpeg", ".jpe"))
_READING = 1  # raise it when the same files give other arrays, so that old caches are not used


class Cifar10(NamedTuple):
    """CIFAR-10, and what it was read from."""

    x_train: npt.NDArray[np.uint8]
    """uint8 [n, 32, 32, 3]."""
    y_train: npt.NDArray[np.int64]
    """int64 [n], index into `CLASSES`."""
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    key: str
    """A text that changes when the files do."""
    notes: tuple[str, ...]
    """What a reader of results must know about the pixels."""


class _Form(NamedTuple):
    """Files of one form, and how to read them."""

    files: tuple[Path, ...]
    read: Callable[[Progress | None], Arrays]
    lossy: bool = False


def read_cifar10(root: Path | str | None, progress: Progress | None = None) -> Cifar10:
    """The images as arrays, in the order of the files; read once and then taken from the cache.

    Args:
        root: a folder that holds the files as `LAYOUT` says.
        progress: called with (images done, images in all) while compressed images are decoded.

    Raises:
        DataError: the files are absent, damaged, or do not hold CIFAR-10.
    """
    if root is None:
        raise DataError(
            f"CIFAR-10 needs a folder with its files (--root, or TRUECUE_DATA): {LAYOUT}"
        )
    form = next(_forms(Path(root)), None)
    if form is None:
        raise DataError(f"there is no CIFAR-10 in {root}. Expected: {LAYOUT}")
    key = fingerprint(form.files)
    arrays = cached_arrays("cifar10", (_READING, key), lambda: form.read(progress))
    notes = (
        ("CIFAR-10 was read from JPEG files: its pixels are not those of the original",)
        if form.lossy
        else ()
    )
    return Cifar10(**arrays, key=key, notes=notes)


def _forms(root: Path) -> Iterator[_Form]:
    """The forms that are there, those with the original pixels first."""
    for place in (root, *(root / name for name in PLACES)):
        for folder in (place / "cifar-10-batches-bin", place):
            if files := _complete(folder, ".bin"):
                yield _Form(_all(files), partial(_read_batches, files, read_binary))
        for folder in (place / "cifar-10-batches-py", place):
            if files := _complete(folder, ""):
                yield _Form(_all(files), partial(_read_batches, files, read_python))
        if (place / "train" / CLASSES[0]).is_dir():
            parts = [_images(place / part, part) for part in _BATCHES]
            files = {part.name: tuple(part.sources) for part in parts}
            lossy = any(path.suffix.lower() in _LOSSY for path in _all(files))
            yield _Form(_all(files), partial(_decode, parts, str), lossy)
        if (place / _PARQUET).is_file():
            yield _Form((place / _PARQUET,), partial(_read_parquet, place / _PARQUET), lossy=True)


def _all(files: dict[str, tuple[Path, ...]]) -> tuple[Path, ...]:
    return tuple(path for part in files.values() for path in part)


def _complete(folder: Path, suffix: str) -> dict[str, tuple[Path, ...]]:
    """The six batches by split, or nothing.

    Raises:
        DataError: some are there and some are not.
    """
    files = {
        part: tuple(folder / f"{name}{suffix}" for name in names)
        for part, names in _BATCHES.items()
    }
    missing = [path.name for path in _all(files) if not path.is_file()]
    if missing and len(missing) < len(_all(files)):
        raise DataError(f"{folder} holds only a part of CIFAR-10; {missing[0]} is not there")
    return {} if missing else files


def _read_batches(
    files: dict[str, tuple[Path, ...]],
    read: Callable[[Path], Batch],
    progress: Progress | None = None,
) -> Arrays:
    """Batches of a split, one after the other."""
    del progress  # they are not compressed
    arrays: Arrays = {}
    for part, paths in files.items():
        batches = [read(path) for path in paths]
        planes = np.concatenate([x for x, _ in batches]).reshape(-1, 3, 32, 32)
        arrays[f"x_{part}"] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        labels = [_labels(path, y) for path, (_, y) in zip(paths, batches, strict=True)]
        arrays[f"y_{part}"] = np.concatenate(labels)
    return arrays


class _Part(NamedTuple):
    """Compressed images of a split."""

    name: str
    sources: Sequence[Any]
    """For each image its file, or its row in a table and its bytes."""
    y: npt.NDArray[np.int64]


def _images(folder: Path, part: str) -> _Part:
    """The image files in the class folders of a split, in natural order."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(CLASSES):
        if not (folder / name).is_dir():
            raise DataError(f"{folder} holds only a part of CIFAR-10; {name}/ is not there")
        found = [p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES]
        paths += sorted(found, key=lambda path: natural(path.name))
        labels += [label] * len(found)
    return _Part(part, paths, np.array(labels))


def _read_parquet(table: Path, progress: Progress | None) -> Arrays:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        read = parquet.read_table(table, columns=["split", "label", "jpeg"])
        split = np.array(read["split"].to_pylist())
        y = _labels(table, read["label"].to_numpy())
        files = read["jpeg"].to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{table} cannot be read as CIFAR-10: {error}") from error
    rows = {part: np.flatnonzero(split == part).tolist() for part in _BATCHES}
    parts = [_Part(part, [(i, files[i]) for i in ids], y[ids]) for part, ids in rows.items()]
    return _decode(parts, lambda source: f"{table}, row {source[0]}", progress)


def _decode(
    parts: Sequence[_Part], name: Callable[[Any], str], progress: Progress | None
) -> Arrays:
    """Decode the images of each split; `name` says which image a source is."""
    arrays: Arrays = {}
    total, done = sum(len(part.sources) for part in parts), 0

    # in one thread: for images as small as these the interpreter does most of the work
    for part, sources, y in parts:
        x = np.empty((len(sources), 32, 32, 3), dtype=np.uint8)
        for i, source in enumerate(sources):
            x[i] = _pixels(source, name)
            done += 1
            if progress is not None and (done % _BLOCK == 0 or done == total):
                progress(done, total)
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x, y
    return arrays


def _pixels(source: Any, name: Callable[[Any], str]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(source if isinstance(source, Path) else BytesIO(source[1])) as image:
            found = np.asarray(image.convert("RGB"))
    # Pillow's readers raise many kinds of errors on damaged files
    except Exception as error:
        raise DataError(f"{name(source)} cannot be read as an image: {error}") from error
    if found.shape != (32, 32, 3):
        raise DataError(
            f"{name(source)} is an image of {found.shape[1]} x {found.shape[0]}; those of CIFAR-10"
            " are 32 x 32"
        )
    return found


def _labels(path: Path, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{path}: the labels should be integers 0 to 9")
    return labels.astype(np.int64)
