"""A small CIFAR-10 of random pictures, in all the forms that are read."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from truecue.data.suites.cifar10 import CLASSES

Arrays = dict[str, np.ndarray]


def tiny_cifar(train: int = 20, test: int = 10) -> Arrays:
    """So many smooth pictures of each class, [n, 32, 32, 3], in a mixed order."""
    draw = np.random.default_rng(0)
    arrays: Arrays = {}
    for part, count in (("train", train), ("test", test)):
        n = 10 * count
        coarse = draw.integers(0, 256, (n, 4, 4, 3))
        fine = draw.integers(-9, 10, (n, 32, 32, 3))
        x = coarse.repeat(8, 1).repeat(8, 2) + fine
        arrays[f"x_{part}"] = np.clip(x, 0, 255).astype(np.uint8)
        arrays[f"y_{part}"] = draw.permutation(np.arange(n) % 10)
    return arrays


def _batches(arrays: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values [m, 3072], planes after each other, and labels of the six batches."""
    flat = {
        part: arrays[f"x_{part}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        for part in ("train", "test")
    }
    pieces = zip(np.split(flat["train"], 5), np.split(arrays["y_train"], 5), strict=True)
    named = {f"data_batch_{k + 1}": piece for k, piece in enumerate(pieces)}
    return named | {"test_batch": (flat["test"], arrays["y_test"])}


def write_bin(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(parents=True)
    for name, (x, y) in _batches(arrays).items():
        rows = np.concatenate([y[:, None].astype(np.uint8), x], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_py(folder: Path, arrays: Arrays, *, old: bool = False) -> None:
    """As Python 3 pickles them, or as Python 2 did, which is how the official files are."""
    folder.mkdir(parents=True)
    for name, (x, y) in _batches(arrays).items():
        data = _python2(x, y) if old else pickle.dumps({b"data": x, b"labels": y.tolist()}, 4)
        (folder / name).write_bytes(data)


def _python2(x: np.ndarray, y: np.ndarray) -> bytes:
    """What Python 2's cPickle wrote with protocol 2 for {"data": x, "labels": list(y)}."""
    size = len(x).to_bytes(4, "little")
    pixels = x.tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01J" + size + b"M\x00\x0c\x86",  # version, (n, 3072)
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff",
            b"K\x00tb\x89",  # the state of the dtype; not in Fortran's order
            b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb",
            b"U\x06labels](",
            *(b"K" + bytes([label]) for label in y.tolist()),
            b"eu.",
        ]
    )


def write_folders(root: Path, arrays: Arrays, suffix: str = ".png") -> None:
    for part in ("train", "test"):
        for i, (x, y) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            folder = root / part / CLASSES[y]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x).save(folder / f"{i}{suffix}")


def write_parquet(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True)
    columns: dict[str, list] = {"split": [], "label": [], "jpeg": []}
    for part in ("test", "train"):
        for x, y in zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True):
            file = io.BytesIO()
            Image.fromarray(x).save(file, "JPEG", quality=95)
            columns["split"].append(part)
            columns["label"].append(int(y))
            columns["jpeg"].append(file.getvalue())
    parquet.write_table(pa.table(columns), path)
