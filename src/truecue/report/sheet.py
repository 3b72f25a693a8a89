"""Pictures in rows and columns as one image file, with what rows and columns are."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from truecue.report.pictures import NARROW, SMALL, WIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.ImageFont import FreeTypeFont
    from torch import Tensor

_GAP, _EDGE, _LINE = 6, 12, 15
_INK, _SOFT, _HOT = (28, 36, 48), (91, 101, 114), (194, 80, 15)


def sheet(
    images: Tensor, rows: Sequence[str], columns: Sequence[str], failed: Tensor | None = None
) -> bytes:
    """A PNG file of pictures in a table, rows named on the left and columns above.

    Args:
        images: uint8 [rows, columns, c, h, w]; of more than three channels the first three, of two
            the first one.
        rows: names.
        columns: names.
        failed: bool [rows, columns], pictures that get a frame.
    """
    from PIL import Image, ImageDraw

    tiles = _enlarged(images)
    height, width = tiles.shape[-2:]
    font = _font()
    left = [textwrap.wrap(name, 18) or [""] for name in rows]
    above = [textwrap.wrap(name, max(14, width // 6)) or [""] for name in columns]
    margin = round(max((font.getlength(line) for name in left for line in name), default=0))
    margin += _EDGE + (_GAP if any(rows) else 0)
    top = _EDGE + _LINE * max(map(len, above), default=0)
    across, down = width + _GAP, max(height, _LINE * max(map(len, left), default=0)) + _GAP
    size = margin + across * len(columns) + _EDGE, top + down * len(rows) + _EDGE
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for k, lines in enumerate(above):
        middle = margin + across * k + width / 2
        for number, line in enumerate(lines):
            y = top - _LINE * (len(lines) - number)
            draw.text((middle, y), line, _SOFT, font, anchor="ma")
    for r, lines in enumerate(left):
        middle = top + down * r + (height - _LINE * len(lines)) / 2
        draw.multiline_text((_EDGE, middle), "\n".join(lines), _INK, font, spacing=2)
        for k in range(len(columns)):
            x, y = margin + across * k, top + down * r
            image.paste(Image.fromarray(tiles[r, k].permute(1, 2, 0).numpy()), (x, y))
            if failed is not None and bool(failed[r, k]):
                box = (x - 2, y - 2, x + width + 1, y + height + 1)
                draw.rectangle(box, outline=_HOT, width=2)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _enlarged(images: Tensor) -> Tensor:
    """uint8 [rows, columns, 3, h, w] of a size to look at, small pixels kept sharp."""
    rows, columns, channels = images.shape[:3]
    images = images[:, :, :3] if channels >= 3 else images[:, :, :1].expand(-1, -1, 3, -1, -1)
    side = max(images.shape[-2:])
    if side <= SMALL:
        factor = max(1, round(NARROW / side))
        images = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    elif side > WIDE:
        smaller = [round(s * WIDE / side) for s in images.shape[-2:]]
        flat = F.interpolate(images.flatten(0, 1).float(), smaller, mode="bilinear", antialias=True)
        images = flat.round().clamp(0, 255).to(torch.uint8).unflatten(0, (rows, columns))
    return images.contiguous()


def _font() -> FreeTypeFont:
    """The font that matplotlib brings, which has Latin, Greek and Cyrillic letters."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 12)
