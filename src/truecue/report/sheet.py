"""Pictures in rows and columns as one image file, with what rows and columns are."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from truecue.report.pictures import NARROW, SMALL, WIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image, ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from torch import Tensor

_GAP, _EDGE, _LINE, _DASH = 6, 12, 15, 5
_INK, _SOFT, _FAINT, _HOT = (28, 36, 48), (91, 101, 114), (139, 148, 163), (194, 80, 15)
RIGHT, WRONG = (0, 114, 100), (194, 80, 15)
"""Bluish green and vermilion, which readers who see no red or green tell apart."""
_QUALITY = 85


class Caption(NamedTuple):
    """What stands below a picture."""

    lines: tuple[str, ...] = ()
    right: bool | None = None
    """Whether the last line is a right answer: it then gets a tick and is green, or a cross and is
    red."""


def sheet(
    images: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    failed: Tensor | None = None,
    captions: Sequence[Sequence[Caption]] = (),
    *,
    dashed: Tensor | None = None,
    side: int = WIDE,
    lossy: bool = False,
) -> bytes:
    """An image file of pictures in a table, rows named on the left and columns above.

    Args:
        images: uint8 [rows, columns, c, h, w]; of more than three channels the first three, of two
            the first one.
        rows: names.
        columns: names.
        failed: bool [rows, columns], pictures that get a frame.
        dashed: bool [rows, columns], pictures that get a lighter frame, of dashes.
        captions: for each row what stands below its pictures; rows may be shorter than the table.
        side: pixels of the longer side to which larger pictures are reduced.
        lossy: a WebP file (JPEG where Pillow has no WebP) instead of a PNG file, a tenth as large.
    """
    from PIL import Image, ImageDraw

    tiles = _enlarged(images, side)
    height, width = tiles.shape[-2:]
    font = _font()
    left = [textwrap.wrap(name, 18) or [""] for name in rows]
    above = [textwrap.wrap(name, max(14, width // 6)) or [""] for name in columns]
    below = [max((len(c.lines) for c in row), default=0) for row in captions] or [0] * len(rows)
    margin = round(max((font.getlength(line) for name in left for line in name), default=0))
    margin += _EDGE + (_GAP if any(rows) else 0)
    top = _EDGE + (_LINE * max(map(len, above)) if any(columns) else 0)
    across, down = width + _GAP, max(height, _LINE * max(map(len, left), default=0)) + _GAP
    tops = [top + down * r + (_LINE * sum(below[:r])) for r in range(len(rows) + 1)]
    image = Image.new("RGB", (margin + across * len(columns) + _EDGE, tops[-1] + _EDGE), "white")
    draw = ImageDraw.Draw(image)
    for k, lines in enumerate(above):
        middle = margin + across * k + width / 2
        for number, line in enumerate(lines):
            y = top - _LINE * (len(lines) - number)
            draw.text((middle, y), line, _SOFT, font, anchor="ma")
    for r, lines in enumerate(left):
        middle = tops[r] + (height - _LINE * len(lines)) / 2
        draw.multiline_text((_EDGE, middle), "\n".join(lines), _INK, font, spacing=2)
        for k in range(len(columns)):
            x, y = margin + across * k, tops[r]
            image.paste(Image.fromarray(tiles[r, k].permute(1, 2, 0).numpy()), (x, y))
            if failed is not None and bool(failed[r, k]):
                box = (x - 2, y - 2, x + width + 1, y + height + 1)
                draw.rectangle(box, outline=_HOT, width=2)
            elif dashed is not None and bool(dashed[r, k]):
                _dashes(draw, (x - 2, y - 2, x + width + 1, y + height + 1))
        for k, caption in enumerate(captions[r] if captions else ()):
            place = margin + across * k + width / 2, tops[r] + height + 1
            for number, (text, ink) in enumerate(_lines(caption)):
                at = place[0], place[1] + _LINE * number
                draw.text(at, _fitting(text, font, across), ink, font, anchor="ma")
    return _file(image, lossy)


def media_type(picture: bytes) -> str:
    """What a file by `sheet` is, for web pages."""
    kinds = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}
    return kinds.get(picture[:4], "image/jpeg")


def _lines(caption: Caption) -> list[tuple[str, tuple[int, int, int]]]:
    """The lines of a caption with their colours."""
    made = [(line, _SOFT) for line in caption.lines]
    if caption.right is not None and made:
        mark, ink = ("✓", RIGHT) if caption.right else ("✗", WRONG)
        made[-1] = f"{mark} {made[-1][0]}", ink
    return made


def _dashes(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
    """A rectangle of dashes."""
    left, top, right, bottom = box
    for x in range(left, right, 2 * _DASH):
        for y in (top, bottom - 1):
            draw.rectangle((x, y, min(x + _DASH, right), y + 1), fill=_FAINT)
    for y in range(top, bottom, 2 * _DASH):
        for x in (left, right - 1):
            draw.rectangle((x, y, x + 1, min(y + _DASH, bottom)), fill=_FAINT)


def _fitting(text: str, font: FreeTypeFont, width: float) -> str:
    """The text, cut where it is wider than its picture."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _file(image: Image.Image, lossy: bool) -> bytes:
    from PIL import features

    file = io.BytesIO()
    if not lossy:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "WEBP" if features.check("webp") else "JPEG", quality=_QUALITY)
    return file.getvalue()


def _enlarged(images: Tensor, most: int) -> Tensor:
    """uint8 [rows, columns, 3, h, w] of a size to look at, small pixels kept sharp."""
    rows, columns, channels = images.shape[:3]
    images = images[:, :, :3] if channels >= 3 else images[:, :, :1].expand(-1, -1, 3, -1, -1)
    side = max(images.shape[-2:])
    if side <= SMALL:
        factor = max(1, round(NARROW / side))
        images = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    elif side > most:
        smaller = [max(1, round(s * most / side)) for s in images.shape[-2:]]
        flat = F.interpolate(images.flatten(0, 1).float(), smaller, mode="bilinear", antialias=True)
        images = flat.round().clamp(0, 255).to(torch.uint8).unflatten(0, (rows, columns))
    return images.contiguous()


def _font() -> FreeTypeFont:
    """The font that matplotlib brings, which has Latin, Greek and Cyrillic letters."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 12)
