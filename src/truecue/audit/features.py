"""Features of all images of a split, in a file that is mapped and not read; made shard by shard.

A store is a folder in the cache:

    features.npy    float16 [n, f], row-major, in the order of the images
    remainder.npy   float16 [n, f], 2,048 times what half precision took off
    store.json      shape, types, and what the features depend on: encoder, images, transform

Passes over all features read the first file only. The few columns that a ranking is made of are
read with the remainder, which gives them float32's order back: half precision has 1,024 values
between 1 and 2, and ties in a ranking would be its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from truecue.atomic import locked, write_text
from truecue.data.files import cache_folder
from truecue.data.sets import ImageSet
from truecue.engine import evaluate
from truecue.engine.device import Device
from truecue.engine.features import BATCH, digest_of, digest_of_set
from truecue.engine.progress import counter
from truecue.errors import DataError, StorageError
from truecue.metrics.spurious import own_columns
from truecue.nets.classifier import Classifier

SHARD = 512
"""Images between two points from which a killed run goes on."""
_SCALE = 2048.0  # half precision keeps 11 bits, so that the remainder is as large as the feature
_LARGEST = 65504.0  # in half precision
_VERSION = 1
"""Raise it when features would come out differently."""
_NAMES = ("features", "remainder")


@dataclass(frozen=True)
class Store:
    """The features of one split."""

    folder: Path
    features: npt.NDArray[np.float16]
    """[n, f], mapped from the file."""
    remainder: npt.NDArray[np.float16]
    """[n, f], scaled; mapped from the file."""

    def __len__(self) -> int:
        return len(self.features)

    def own_columns(self, y: Tensor, table: Tensor) -> Tensor:
        """Of every image the features that are listed for its class, in float32.

        Args:
            y: int64 [n], labels.
            table: int64 [classes, m], features of each class; -1: none.

        Returns:
            float32 [n, m]; nan where the table has -1.
        """
        rough = own_columns(self.features, y, table)
        return rough.add_(own_columns(self.remainder, y, table), alpha=1 / _SCALE)

    def rows(self, ids: Tensor) -> Tensor:
        """Some images' features: float32 [m, f]."""
        main, rest = (
            torch.from_numpy(a[ids.numpy()]).float() for a in (self.features, self.remainder)
        )
        return main.add_(rest, alpha=1 / _SCALE)


def key_of(images: ImageSet, encoder: Classifier, device: Device) -> dict[str, Any]:
    """What features depend on, as plain values: the sidecar's entries and the folder's name."""
    spec = encoder.spec
    return {
        "version": _VERSION,
        "shape": [len(images), encoder.n_features],
        "dtype": "float16",
        "encoder": digest_of(encoder),
        "images": digest_of_set(images),
        "transform": f"{list(images.shape)} / 255, mean {spec.get('mean')}, std {spec.get('std')}",
        "precision": device.precision,
    }


def encode(
    images: ImageSet, encoder: Classifier, device: Device, *, what: str = "", quiet: bool = True
) -> Store:
    """Encode images, or find what an earlier call has encoded, or finish it.

    The encoder is in evaluation mode, and rows are in the images' order. A process that is killed
    loses the shard under way; the next call goes on from the last one that was complete.

    Args:
        images: uint8 images.
        encoder: gives the features.
        device: where to compute; its `world` must be 1.
        what: the split's name, for the progress bar.
        quiet: show no progress.

    Raises:
        DataError: features are not finite or do not fit half precision, or a folder of the cache
            holds something else than its name says.
        StorageError: the features could not be written.
    """
    if device.world != 1:
        raise DataError("features are stored by one process; start without --devices")
    key = key_of(images, encoder, device)
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()
    folder = cache_folder() / f"encoded-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):  # another process may be encoding the same
            if not _complete(folder, key):
                _fill(folder, key, images, encoder, device, f"features {what}".strip(), quiet)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"features could not be written to {folder}: {error.strerror or error}; set the"
            " environment variable TRUECUE_CACHE to a folder with room. What was encoded is kept"
        ) from error
    return open_store(folder, key)


def open_store(folder: Path, key: dict[str, Any] | None = None) -> Store:
    """Open features that have been encoded.

    Args:
        folder: of the store.
        key: what the features must depend on, see `key_of`; None: whatever they do.

    Raises:
        DataError: the store is absent, not complete, damaged, or holds other features; the message
            names what differs.
    """
    known = _sidecar(folder)
    if known is None:
        raise DataError(f"there are no features in {folder}; encode them again")
    _compare(folder, known, known if key is None else key)
    if not known.get("complete"):
        raise DataError(f"the features in {folder} are not complete; encode again to finish them")
    arrays = []
    for name in _NAMES:
        try:
            array = np.load(folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:  # the last: the file is empty
            raise DataError(_damaged(folder, f"{name}.npy cannot be read ({error})")) from None
        if list(array.shape) != known["shape"] or array.dtype != np.float16:
            raise DataError(_damaged(folder, f"{name}.npy is {array.dtype} {list(array.shape)}"))
        arrays.append(array)
    return Store(folder, *arrays)


@torch.no_grad()
def logits_of(store: Store, head: nn.Linear) -> Tensor:
    """What a last layer on the CPU makes of features: float32 [n, c]."""
    parts = [head(store.rows(ids)) for ids in torch.arange(len(store)).split(SHARD)]
    return torch.cat(parts) if parts else torch.zeros(0, head.out_features)


def predict(store: Store, head: nn.Linear) -> Tensor:
    """The classes that a last layer on the CPU predicts from features: int64 [n]."""
    return logits_of(store, head).argmax(1)


def _fill(
    folder: Path, key: dict[str, Any], images: ImageSet, encoder: Classifier, device: Device,
    what: str, quiet: bool,
) -> None:  # fmt: skip
    """Write what is missing: whole shards are kept, the rest of the files is cut off."""
    known = _sidecar(folder)
    if known is None:
        write_text(folder / "store.json", json.dumps(key | {"complete": False}, indent=1))
        for name in _NAMES:
            (folder / f"{name}.npy").unlink(missing_ok=True)
    n, f = key["shape"]
    encoder = encoder.to(device.device).eval()
    paths = [folder / f"{name}.npy" for name in _NAMES]
    heads = [_header(path, (n, f)) for path in paths]
    rows = [
        (path.stat().st_size - head) // (2 * f) for path, head in zip(paths, heads, strict=True)
    ]
    first = min(n, min(rows) // SHARD * SHARD)
    with (
        paths[0].open("r+b") as main,
        paths[1].open("r+b") as rest,
        counter(what, quiet=quiet) as tell,
    ):
        for file, head in zip((main, rest), heads, strict=True):
            file.truncate(head + first * 2 * f)
            file.seek(0, os.SEEK_END)
        for start in range(first, n, SHARD):
            part = images.select(torch.arange(start, min(start + SHARD, n)))
            z = evaluate.apply(encoder.features, part, device, batch=BATCH).numpy()
            _check(z, start, folder)
            half = z.astype(np.float16)
            main.write(half.tobytes())
            rest.write(((z - half.astype(np.float32)) * _SCALE).astype(np.float16).tobytes())
            for file in (main, rest):
                file.flush()
                os.fsync(file.fileno())
            tell(start + len(part), n)
    write_text(folder / "store.json", json.dumps(key | {"complete": True}, indent=1))


def _check(z: npt.NDArray[np.float32], start: int, folder: Path) -> None:
    bad = ~(np.abs(z) <= _LARGEST).all(1)
    if bad.any():
        row = int(bad.argmax())
        value = z[row][~(np.abs(z[row]) <= _LARGEST)][0]
        raise DataError(
            f"image {start + row:,} has a feature of {value}, and features must be finite and at"
            f" most {_LARGEST:,.0f} to be stored in half precision; use an encoder whose features"
            " are normalised"
        )


def _header(path: Path, shape: tuple[int, int]) -> int:
    """Write the header of an array file that has none yet; its length in bytes."""
    if not path.exists() or path.stat().st_size < 128:
        with path.open("wb") as file:
            layout = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, layout)
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _complete(folder: Path, key: dict[str, Any]) -> bool:
    known = _sidecar(folder)
    if known is None:
        return False
    _compare(folder, known, key)
    return bool(known.get("complete"))


def _sidecar(folder: Path) -> dict[str, Any] | None:
    try:
        known = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(_damaged(folder, f"store.json cannot be read ({error})")) from None
    if not isinstance(known, dict):
        raise DataError(_damaged(folder, "store.json is not a JSON object"))
    return known


def _compare(folder: Path, known: dict[str, Any], key: dict[str, Any]) -> None:
    differ = [name for name in key if known.get(name) != key[name] and name != "complete"]
    if differ:
        said = ", ".join(f"{name} {known.get(name)!r} and not {key[name]!r}" for name in differ[:3])
        raise DataError(f"the features in {folder} are of {said}; remove the folder to encode anew")


def _damaged(folder: Path, what: str) -> str:
    return f"the features in {folder} are damaged: {what}; remove the folder to encode anew"
