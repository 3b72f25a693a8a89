"""Pictures: tensors of pixels as small files inside the page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from truecue.errors import DataError
from truecue.report.svg import data_address

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

MOST = 96
"""Pictures of one kind that a page shows at most; more would make it slow to open."""
SMALL = 64
"""Up to this many pixels a side, a picture is kept as it is and enlarged by whole factors."""
LARGE = 256
"""Pixels a side to which larger pictures are reduced."""
WIDE, NARROW = 140, 96
"""Pixels a side on the page, about: of large pictures, and of small ones."""


class Picture(NamedTuple):
    """Pictures of one kind, with what is written below each."""

    images: Tensor
    """uint8 [n, c, h, w]."""
    captions: list[str]
    """One for each image."""
    marks: list[str | None]
    """For each image "aligned", "conflicting" or None, where it is not known."""


class Tile(NamedTuple):
    """One picture, ready for the page."""

    source: str
    """A data address that holds the whole file."""
    width: int
    pixelated: bool
    caption: str
    mark: str | None


def tiles(key: str, picture: Picture) -> list[Tile]:
    """The first pictures of one kind, encoded.

    Args:
        key: the name of the kind, for error messages.
        picture: images, captions and marks of the same number.

    Raises:
        DataError: the images are not uint8 [n, c, h, w], or the numbers differ.
    """
    pixels = picture.images.detach().cpu().numpy()
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise DataError(
            f"the report's pictures '{key}' must be uint8 [n, c, h, w]; got {pixels.dtype} of"
            f" shape {list(pixels.shape)}"
        )
    lengths = len(pixels), len(picture.captions), len(picture.marks)
    if len(set(lengths)) > 1:
        raise DataError(
            f"the report's pictures '{key}' must have one caption and one mark each; got"
            f" {lengths[0]} images, {lengths[1]} captions, {lengths[2]} marks"
        )
    rows = zip(pixels[:MOST], picture.captions, picture.marks, strict=False)
    return [_tile(image, caption, mark) for image, caption, mark in rows]


def _tile(pixels: NDArray[np.uint8], caption: str, mark: str | None) -> Tile:
    side = max(pixels.shape[1:])
    small = side <= SMALL
    # a whole factor keeps every source pixel the same size on the page
    width = pixels.shape[2] * max(1, round(NARROW / side)) if small else WIDE
    return Tile(_encode(_image(pixels), small), width, small, str(caption), mark)


def _image(pixels: NDArray[np.uint8]) -> Image:
    """One grey value, or the first three channels as red, green and blue."""
    from PIL import Image

    if len(pixels) < 3:
        return Image.fromarray(np.ascontiguousarray(pixels[0]))
    return Image.fromarray(np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))


def _encode(image: Image, small: bool) -> str:
    from PIL import features

    file = io.BytesIO()
    if small:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((LARGE, LARGE))
        kind = "webp" if features.check("webp") else "jpeg"
        image.save(file, kind.upper(), quality=80)
    return data_address(file.getvalue(), f"image/{kind}")
