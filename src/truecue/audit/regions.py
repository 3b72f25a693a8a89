"""Parts of images that must not matter: where they are, what they look like, exchanging them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.audit.properties import luma
from truecue.errors import DataError

Box = Sequence[float]
"""Left, top, right and bottom, as shares of the width and height, in [0, 1]."""

_RING = 1 / 12  # width of the border, of the shorter side
_CORNER = 1 / 6  # of the side
_CELLS = 4  # a part is looked at in cells of a quarter of the side
_BLOCK = 2**22  # values; keeps the temporary float arrays small


USUAL = {
    "border": "a ring along the edges, a twelfth of the side wide",
    "background": "what lies outside the ellipse that touches the edges",
    **{f"{place} corner": "a sixth of each side"
       for place in ("upper left", "upper right", "lower left", "lower right")},
}  # fmt: skip
"""Where the regions of `usual_regions` are, in words."""


def usual_regions(height: int, width: int) -> dict[str, Tensor]:
    """Border, background and the four corners: bool [height, width] each, True inside.

    The border is a ring of a twelfth of the shorter side; corners have a sixth of each side; the
    background is what lies outside the ellipse that touches all four sides.
    """
    ring = max(1, round(_RING * min(height, width)))
    border = torch.ones(height, width, dtype=torch.bool)
    border[ring : height - ring, ring : width - ring] = False
    v, u = ((2 * torch.arange(size) + 1) / size - 1 for size in (height, width))
    background = u.square() + v.square().unsqueeze(1) > 1
    regions = {"border": border, "background": background}
    side = _CORNER
    for name, box in {
        "upper left corner": (0, 0, side, side),
        "upper right corner": (1 - side, 0, 1, side),
        "lower left corner": (0, 1 - side, side, 1),
        "lower right corner": (1 - side, 1 - side, 1, 1),
    }.items():
        regions[name] = region(name, box, height, width)
    return regions


def region(name: str, where: Box | Tensor, height: int, width: int) -> Tensor:
    """A part of images as a mask.

    Args:
        name: what errors call it.
        where: a box, or a mask bool [height, width].
        height: of the images.
        width: of the images.

    Returns:
        bool [height, width], True inside.

    Raises:
        DataError: the box is no box, it reaches outside the image, no pixel lies in it, or the
            mask does not fit.
    """
    if isinstance(where, Tensor):
        if where.dtype != torch.bool or where.shape != (height, width):
            raise DataError(
                f"the mask of region '{name}' must be bool [height, width] = [{height}, {width}];"
                f" got {str(where.dtype).removeprefix('torch.')} {list(where.shape)}"
            )
        mask = where
    else:
        box = tuple(float(v) for v in where)
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise DataError(
                f"region '{name}' must be left, top, right, bottom, as shares of the image in 0..1"
                f" with left < right and top < bottom; got {', '.join(f'{v:g}' for v in box)}"
            )
        left, top, right, bottom = box
        mask = torch.zeros(height, width, dtype=torch.bool)
        rows = slice(round(top * height), round(bottom * height))
        mask[rows, round(left * width) : round(right * width)] = True
    if not bool(mask.any()):
        raise DataError(f"region '{name}' has no pixel in images of {height} x {width}")
    if bool(mask.all()):
        raise DataError(f"region '{name}' is the whole image, so nothing is left to go by")
    return mask


def all_regions(nuisance: Mapping[str, Box | Tensor], height: int, width: int) -> dict[str, Tensor]:
    """The usual regions and those that the user declares.

    Raises:
        DataError: a region does not fit, or has the name of a usual one.
    """
    regions = usual_regions(height, width)
    for name, where in nuisance.items():
        if name in regions:
            raise DataError(f"there is already a region '{name}'; call yours something else")
        regions[name] = region(name, where, height, width)
    return regions


def looked_at(images: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What parts of images look like.

    In each cell of a 4 x 4 grid that a part reaches into: the mean of every channel, the standard
    deviation of the brightness, and the means of its slopes to the right and downwards.

    Args:
        images: uint8 [n, c, h, w].
        masks: bool [h, w] by name, True inside.

    Returns:
        float32 [n, d] by name.
    """
    cells = {name: _cells(mask) for name, mask in masks.items()}
    widths = [inside.shape[2] for inside in cells.values()]
    level, right, down = torch.cat(tuple(cells.values()), 2)
    rows = max(1, _BLOCK // max(1, images[0].numel())) if len(images) else 1
    parts = []
    for part in images.split(rows):
        x = part.float()
        y = luma(x)
        light = y.flatten(2)
        to_right = F.pad((y[..., 1:] - y[..., :-1]).abs(), (0, 1)).flatten(2) @ right
        downwards = F.pad((y[..., 1:, :] - y[..., :-1, :]).abs(), (0, 0, 0, 1)).flatten(2) @ down
        variance = light.square() @ level - (light @ level).square()
        spread = variance.clamp(min=0).sqrt()
        parts.append(torch.cat((x.flatten(2) @ level, spread, to_right, downwards), 1))
    seen = torch.cat(parts).split(widths, 2)
    return {name: values.flatten(1) for name, values in zip(masks, seen, strict=True)}


def exchanged(images: Tensor, mask: Tensor, others: Tensor) -> Tensor:
    """Images (uint8 [n, c, h, w]) with a part (bool [h, w]) taken from others."""
    return torch.where(mask, others, images)


def _cells(mask: Tensor) -> Tensor:
    """Which pixels of a part belong to which cell: float32 [3, h w, cells].

    First all pixels of the part, columns with sum 1; then, with the same weights, those whose right
    and whose lower neighbour belong to the part as well.
    """
    height, width = mask.shape
    down = torch.arange(height) * _CELLS // height
    right = torch.arange(width) * _CELLS // width
    cell = (down.unsqueeze(1) * _CELLS + right).flatten()
    inside = F.one_hot(cell, _CELLS**2).float() * mask.flatten().unsqueeze(1)
    inside = inside[:, inside.sum(0) > 0]
    inside = inside / inside.sum(0)
    beside = mask & F.pad(mask[:, 1:], (0, 1))
    below = mask & F.pad(mask[1:], (0, 0, 0, 1))
    both = torch.stack((mask, beside, below)).flatten(1).unsqueeze(2)
    return inside * both
