"""Features of a frozen encoder, computed once for each image and kept in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truecue.data.files import cached_arrays
from truecue.data.sets import ArrayFile, ImageSet, Splits
from truecue.engine import evaluate
from truecue.engine.device import Device
from truecue.engine.progress import counter
from truecue.nets.classifier import Classifier

BATCH = 64
"""Images in one forward pass of a large network, at most."""
_VERSION = 1
"""Raise it when features would come out differently."""


def encoded(data: Splits, encoder: Classifier, device: Device, *, quiet: bool = True) -> Splits:
    """The same splits with features instead of pixels.

    Images of one decoded file are encoded together, whatever split they are in, so that another
    seed finds them in the cache.

    Args:
        data: the splits.
        encoder: gives the features; its weights and normalisation are part of the cache's key.
        device: where to compute.
        quiet: do not say that features are computed.

    Returns:
        Splits whose images are float32 [n, d, 1, 1].
    """
    encoder = encoder.to(device.device).eval()
    known = digest_of(encoder)
    val = data.val and _features(data.val, encoder, known, device, quiet)
    train, test = (_features(p, encoder, known, device, quiet) for p in (data.train, data.test))
    return replace(data, train=train, val=val, test=test)


def _features(
    part: ImageSet, encoder: Classifier, known: str, device: Device, quiet: bool
) -> ImageSet:
    images = part.images
    whole = ArrayFile(images.path) if isinstance(images, ArrayFile) else images

    def make() -> dict[str, np.ndarray[Any, Any]]:
        plain = ImageSet(whole, torch.zeros(len(whole), dtype=torch.int64), part.classes)
        with counter("features", quiet=quiet) as tell:
            z = evaluate.apply(encoder.features, plain, device, batch=BATCH, progress=tell)
        return {"z": z.numpy()}

    key = (_VERSION, known, device.precision, digest_of_images(whole))
    z = torch.from_numpy(np.array(cached_arrays("features", key, make)["z"], dtype=np.float32))
    if isinstance(images, ArrayFile) and images.rows is not None:
        z = z[images.rows]
    return replace(part, images=z[:, :, None, None])


def digest_of(net: Classifier, *, head: bool = False) -> str:
    """A short text that changes when the encoder's weights or statistics, or the normalisation, do.

    Args:
        net: the network.
        head: whether the last layer counts, too.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{net.spec.get('arch')} {net.spec.get('mean')} {net.spec.get('std')}".encode())
    for name, value in (net if head else net.encoder).state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def digest_of_set(part: ImageSet) -> str:
    """A short text that changes when an image, its label or the order does."""
    images = part.images
    whole = ArrayFile(images.path) if isinstance(images, ArrayFile) else images
    digest = hashlib.blake2b(f"{digest_of_images(whole)} {part.classes}".encode(), digest_size=16)
    if isinstance(images, ArrayFile) and images.rows is not None:
        digest.update(images.rows.numpy().tobytes())
    digest.update(part.y.numpy().tobytes())
    return digest.hexdigest()


def digest_of_images(images: Tensor | ArrayFile) -> str:
    """A short text that changes when an image does, wherever the images lie."""
    if isinstance(images, ArrayFile):
        found = images.path.stat()
        return _digest_of_file(images.path, found.st_size, found.st_mtime_ns)
    return hashlib.blake2b(images.contiguous().numpy().tobytes(), digest_size=16).hexdigest()


@lru_cache(maxsize=64)
def _digest_of_file(path: Path, size: int, changed: int) -> str:
    """Of a file's content: about a second for each gigabyte, once in a process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
