"""What image files say beside their pixels: size, format, compression."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.audit.candidates import CueColumn
from truecue.data.files import workers
from truecue.data.sets import ImageSet

_NAN = math.nan


class FileFacts(NamedTuple):
    """One file; nan where a thing is not known or does not apply."""

    width: float = _NAN
    """Pixels, as stored."""
    height: float = _NAN
    size: float = _NAN
    """Bytes."""
    format: str = ""
    """Pillow's name, such as JPEG; empty where it is no image."""
    quantisation: float = _NAN
    """Mean of a JPEG file's first quantisation table: 1 finest, 255 coarsest."""
    exif: float = _NAN
    """1 where there is camera data, 0 where there is none."""


_COLUMNS = {
    "file: width and height": "width and height of the image in the file, in pixels",
    "file: aspect": "width divided by height, as a logarithm",
    "file: bytes": "size of the file, as a logarithm",
    "file: format": "format of the file",
    "file: compression": "mean of the JPEG quantisation table",
    "file: EXIF": "whether the file has camera data",
}


def read_facts(source: Path | bytes) -> FileFacts:
    """The facts of one file, from its header; no pixel is decoded.

    Args:
        source: the file, or its bytes. One that is absent or no image gives what can be had.
    """
    from PIL import Image

    try:
        size = float(len(source) if isinstance(source, bytes) else os.stat(source).st_size)
    except OSError:
        return FileFacts()
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            tables = getattr(image, "quantization", None)
            first = next(iter(tables.values()), None) if tables else None
            return FileFacts(
                float(image.width),
                float(image.height),
                size,
                image.format or "",
                sum(first) / len(first) if first else _NAN,
                float("exif" in image.info),
            )
    # Pillow's readers raise many kinds of errors on damaged files
    except Exception:
        return FileFacts(size=size)


def file_columns(
    train: Sequence[Path | bytes], test: Sequence[Path | bytes]
) -> dict[str, CueColumn]:
    """File data as candidates for `find_cues`.

    Args:
        train: a file, or its bytes, for each training image, in their order.
        test: the same for held-out images.

    Returns:
        Columns by name, of kind `metadata`; nan where a thing is not known.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(workers()) as pool:
        warnings.simplefilter("ignore")  # of odd metadata
        facts = [list(pool.map(read_facts, part)) for part in (train, test)]
    formats = sorted({fact.format for part in facts for fact in part} - {""})
    columns = [_columns(part, formats) for part in facts]
    return {
        name: CueColumn(first, second, "metadata", about)
        for (name, about), first, second in zip(_COLUMNS.items(), *columns, strict=True)
    }


def files_of(part: ImageSet, root: Path) -> list[Path] | None:
    """The files that images came from, by their names; None where they did not come from files."""
    files = [root / name for name in part.names]
    return files if files and all(file.is_file() for file in files) else None


def _columns(facts: Sequence[FileFacts], formats: Sequence[str]) -> list[Tensor]:
    codes = {name: float(i) for i, name in enumerate(formats)}
    width, height, size, kind, quantisation, exif = zip(*facts, strict=True)
    sides = torch.tensor([width, height])
    return [
        sides.T,
        (sides[0] / sides[1]).log2(),
        torch.tensor(size).clamp(min=1).log2(),
        torch.tensor([codes.get(name, _NAN) for name in kind]),
        torch.tensor(quantisation),
        torch.tensor(exif),
    ]
