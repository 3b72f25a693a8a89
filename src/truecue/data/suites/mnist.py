"""Reading MNIST in the forms in which people have it."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from truecue.data.files import cached_arrays, fingerprint
from truecue.data.suites.base import Suite
from truecue.errors import DataError

LAYOUT = (
    "mnist.npz with arrays x_train, y_train, x_test, y_test; or the four files"
    " train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and"
    " t10k-labels-idx1-ubyte, plain or with .gz. They may lie in the folder itself, in mnist/ or,"
    " as torchvision puts them, in MNIST/raw/"
)
"""What to put where."""

Arrays = dict[str, npt.NDArray[Any]]

_IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
PLACES = ("mnist", "MNIST/raw", "MNIST", "raw")
"""The folders inside the root in which the files may be."""


class OfMNIST(Suite):
    """What all suites made of MNIST say about its files."""

    licence: ClassVar[str] = "CC BY-SA 3.0 (MNIST)"
    obtain: ClassVar[str] = (
        "the four files from storage.googleapis.com/cvdf-datasets/mnist, or those that"
        " torchvision.datasets.MNIST(root, download=True) fetches"
    )
    layout: ClassVar[str] = LAYOUT
    counts: ClassVar[Mapping[str, int]] = {"train": 60000, "test": 10000}
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    }
    folders: ClassVar[tuple[str, ...]] = PLACES
    marks: ClassVar[tuple[str, ...]] = ("mnist.npz", "train-images?idx3-ubyte*")


def read_mnist(root: Path | str | None) -> Arrays:
    """The digits as arrays; decoded once and then read from the cache.

    Args:
        root: a folder that holds the files as `LAYOUT` says, or the `.npz` file.

    Returns:
        `x_train`, `x_test`: uint8 [n, 28, 28]; `y_train`, `y_test`: int64 [n].

    Raises:
        DataError: the files are absent, damaged, or do not hold digits.
    """
    if root is None:
        raise DataError(f"MNIST needs a folder with its files (--root, or TRUECUE_DATA): {LAYOUT}")
    files = _find(Path(root))
    if not files:
        raise DataError(f"there is no MNIST in {root}. Expected: {LAYOUT}")
    return cached_arrays("mnist", (fingerprint(files.values()),), lambda: _read(files))


def _find(root: Path) -> dict[str, Path]:
    """The files to read, by the array that they hold; one file named "npz" holds all."""
    if root.suffix == ".npz" and root.is_file():
        return {"npz": root}
    for folder in (root, *(root / place for place in PLACES)):
        if (folder / "mnist.npz").is_file():
            return {"npz": folder / "mnist.npz"}
        found = {name: next(_forms(folder, file), None) for name, file in _IDX.items()}
        present = {name: path for name, path in found.items() if path is not None}
        if len(present) == len(_IDX):
            return present
        if present:
            missing = ", ".join(_IDX[name] for name in _IDX if name not in present)
            raise DataError(f"{folder} holds only a part of MNIST; {missing} is not there")
    return {}


def _forms(folder: Path, name: str) -> Iterator[Path]:
    """The names under which an IDX file is passed around; some programs put a dot before idx."""
    for stem in (name, name.replace("-idx", ".idx")):
        yield from (p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file())


def _read(files: dict[str, Path]) -> Arrays:
    if "npz" in files:
        path = files["npz"]
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in _IDX}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} cannot be read as MNIST: {error}") from error
        where = dict.fromkeys(_IDX, path)
    else:
        arrays = {name: read_idx(path) for name, path in files.items()}
        where = files
    for part in ("train", "test"):
        _check(where[f"x_{part}"], arrays[f"x_{part}"], arrays[f"y_{part}"])
        arrays[f"y_{part}"] = arrays[f"y_{part}"].astype(np.int64)
    return arrays


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The uint8 array of an IDX file, plain or gzipped.

    Raises:
        DataError: the file is damaged or not an IDX file of bytes.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    # two zero bytes, the type (8: unsigned byte), the number of axes, then their big-endian sizes
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path} is not an IDX file of bytes")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", data[3], 4))
    start = 4 + 4 * data[3]
    if len(data) - start != int(np.prod(shape)):
        raise DataError(
            f"{path} should hold {int(np.prod(shape)):,} values and holds {len(data) - start:,};"
            " was it copied in full?"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _check(path: Path, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (28, 28):
        raise DataError(
            f"{path} should hold uint8 images [n, 28, 28]; it holds {x.dtype} {list(x.shape)}"
        )
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or (y < 0).any() or (y > 9).any():
        raise DataError(
            f"{path}: the labels should be {len(x):,} integers 0 to 9; found {y.dtype}"
            f" {list(y.shape)}"
        )
