"""Cues that can be planted in images: each makes an image's value visible, and changes no more.

Every cue is a plain function of a `Scene`: images, which value each shows, and numbers drawn for
each. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.data.augment import blurred
from truecue.data.patterns import SHAPES, TEXTURES
from truecue.errors import DataError

CueName = Literal[
    "foreground", "background", "texture", "size", "blur", "brightness", "object", "patch"
]
"""In the order in which cues are applied, so that none hides another."""

COLOURS = {
    "red": (235, 40, 45),
    "green": (40, 190, 70),
    "blue": (45, 95, 250),
    "yellow": (250, 225, 40),
    "magenta": (250, 60, 215),
    "cyan": (60, 225, 240),
    "orange": (255, 140, 10),
    "violet": (135, 60, 235),
    "brown": (135, 80, 35),
    "pink": (255, 175, 190),
}
"""Red, green and blue in 0..255. The first ones are the easiest to tell apart."""

LEAST_SIDE = 16
"""Height and width, in pixels, below which textures and objects cannot be told apart."""

_BACKGROUND = 0.6  # opacity of a background's colour
_FOREGROUND = 0.8  # opacity of the foreground's
_TEXTURE = 0.35  # opacity of a texture
_PERIOD = 1 / 6  # of a texture, relative to the side
_SMALLEST = 0.45  # size of the picture relative to the frame
_SIGMA = 0.05  # of the strongest blur, relative to the side
_BRIGHTEST = 0.6  # how far the brightest goes towards white, and the darkest towards black
_RADIUS = 0.13  # of an object, relative to the side
_RING = (0.66, 0.84)  # where an object's centre lies, in halves of the side from the middle
_PATCH = 1 / 5  # of the side
_FLAT = (16, 0.65)  # a border is flat where this share of it is this close to its median
_ELLIPSE = (0.7, 0.9)  # radii, in halves of the frame, between which the background begins
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_CHUNK = 2**21  # values; keeps the temporary float arrays small


class Given(NamedTuple):
    """What one cue says about images."""

    values: Tensor
    """int64 [n], in 0..total-1."""
    total: int
    """Number of values that there are."""
    chance: Tensor
    """float32 [n, 2], in [0, 1): decides a texture's offset and an object's place."""


class Scene(NamedTuple):
    """Images into which a cue is to be planted."""

    x: Tensor
    """float32 [n, c, h, w], in 0..255."""
    background: Tensor
    """float32 [n, 1, h, w]: 1 where the background is, 0 where it is not."""
    values: Tensor
    total: int
    chance: Tensor
    visibility: float
    """0 (nothing changes) to 1."""


class Cue(NamedTuple):
    """What can be planted."""

    apply: Callable[[Scene], Tensor]
    """The changed images, float32 [n, c, h, w]."""
    values: tuple[str, ...]
    """What its values are called; none where they are degrees of one thing."""
    most: int
    """Values that can be told apart on small grey digits."""
    coloured: bool
    """Whether images need three channels for it."""

    def names(self, name: str, total: int) -> tuple[str, ...]:
        """The names of the first `total` values."""
        return self.values[:total] or tuple(f"{name} {k} of {total}" for k in range(1, total + 1))


def plant(images: Tensor, given: Mapping[str, Given], visibility: float = 1.0) -> Tensor:
    """Plant cues in images.

    Args:
        images: uint8 [n, c, h, w]; not changed.
        given: for each cue, which value each image shows. The order plays no part: cues are applied
            in that of `CueName`.
        visibility: 0 leaves the pixels as they are, 1 shows the values as clearly as can be.

    Returns:
        uint8 [n, c, h, w]; three channels where a cue needs colour and the images have one.

    Raises:
        DataError: the images are too small, or have neither one channel nor three.
    """
    n, channels, height, width = images.shape
    if min(height, width) < LEAST_SIDE:
        raise DataError(
            f"cues can be planted in images of {LEAST_SIDE} pixels or more; these have"
            f" {height} x {width}"
        )
    coloured = any(CUES[name].coloured for name in given)
    if coloured and channels not in {1, 3}:
        raise DataError(f"cues with colours need images of 1 or 3 channels; these have {channels}")
    out = images.new_empty((n, 3 if coloured else channels, height, width))
    rows = max(1, _CHUNK // max(1, channels * height * width))
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        x = images[part].float()
        x = x.expand(-1, 3, -1, -1) if coloured and channels == 1 else x
        behind = background(x)
        for name in get_args(CueName):
            if name in given:
                values, total, chance = given[name]
                scene = Scene(x, behind, values[part], total, chance[part], visibility)
                x = CUES[name].apply(scene)
        out[part] = x.round().clamp(0, 255)
    return out


def background(x: Tensor) -> Tensor:
    """Where the background of images is, by one rule for drawings and photos.

    An image whose border has nearly one colour all around is taken to lie on that colour: a pixel
    belongs to the background the more, the closer it is to it. Other images, such as photos, are
    taken to show their object in the middle: the background is what lies outside an ellipse.

    Args:
        x: float32 [n, c, h, w], in 0..255.

    Returns:
        float32 [n, 1, h, w]: 1 background, 0 foreground, between them at soft edges.
    """
    border = _border(x)
    colour = border.median(2, keepdim=True).values
    reach, share = _FLAT
    flat = ((border - colour).abs().amax(1) <= reach).float().mean(1) >= share
    distance = (x - colour.unsqueeze(3)).abs().amax(1, keepdim=True)
    distance = distance / distance.amax((2, 3), keepdim=True).clamp(min=reach)
    u, v = _grid(x)
    low, high = _ELLIPSE
    outside = ((torch.hypot(u, v) - low) / (high - low)).clamp(0, 1)
    return torch.where(flat.view(-1, 1, 1, 1), 1 - distance, outside.expand_as(distance))


def _border(x: Tensor) -> Tensor:
    """The outermost pixels: [n, c, 2 h + 2 w]."""
    return torch.cat((x[:, :, 0], x[:, :, -1], x[..., 0], x[..., -1]), 2)


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels' centres in -1..1: to the right [1, w], downwards [h, 1]."""
    height, width = x.shape[2:]
    u, v = ((2 * torch.arange(size) + 1) / size - 1 for size in (width, height))
    return u.view(1, -1), v.view(-1, 1)


def _colours(values: Tensor) -> Tensor:
    """float32 [n, 3, 1, 1]."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32)[values].view(-1, 3, 1, 1)


def _towards(x: Tensor, other: Tensor, share: Tensor | float) -> Tensor:
    return x + share * (other - x)


def _background(s: Scene) -> Tensor:
    return _towards(s.x, _colours(s.values), _BACKGROUND * s.visibility * s.background)


def _foreground(s: Scene) -> Tensor:
    light = (s.x * torch.tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True) / 255
    tinted = _colours(s.values) * (0.3 + 0.7 * light)  # so that dark things show the colour, too
    return _towards(s.x, tinted, _FOREGROUND * s.visibility * (1 - s.background))


def _texture(s: Scene) -> Tensor:
    height, width = s.x.shape[2:]
    period = max(4.0, _PERIOD * min(height, width))
    # two periods cover the offsets of those that repeat only then
    u = torch.arange(width).view(1, 1, -1) / period + 20 * s.chance[:, 0].view(-1, 1, 1)
    v = torch.arange(height).view(1, -1, 1) / period + 20 * s.chance[:, 1].view(-1, 1, 1)
    pattern = _chosen(tuple(TEXTURES.values()), s.values, u, v)
    return _towards(s.x, 255 * pattern, _TEXTURE * s.visibility * s.background)


def _size(s: Scene) -> Tensor:
    """Smaller pictures on the median colour of their border."""
    scale = _SMALLEST ** (s.values / (s.total - 1))
    scale = _towards(torch.ones(()), scale, s.visibility).view(-1, 1, 1)
    u, v = _grid(s.x)
    u, v = u / scale, v / scale
    grid = torch.stack(torch.broadcast_tensors(u, v), -1)
    small = F.grid_sample(s.x, grid, padding_mode="border", align_corners=False)
    height, width = s.x.shape[2:]
    # how much of the pixel the picture covers, so that its edge is soft
    across, down = ((1 - a.abs()) * scale * b / 2 + 0.5 for a, b in ((u, width), (v, height)))
    inside = (across.clamp(0, 1) * down.clamp(0, 1)).unsqueeze(1)
    inside = torch.where(scale.unsqueeze(1) == 1, 1.0, inside)
    return _towards(_border(s.x).median(2).values[:, :, None, None], small, inside)


def _blur(s: Scene) -> Tensor:
    strongest = _SIGMA * min(s.x.shape[2:])
    sigma = strongest * s.visibility * s.values / (s.total - 1)
    return blurred(s.x, sigma, reach=max(1, round(3 * strongest)))


def _brightness(s: Scene) -> Tensor:
    level = _BRIGHTEST * s.visibility * (2 * s.values / (s.total - 1) - 1)
    level = level.view(-1, 1, 1, 1)
    return _towards(s.x * (1 + level.clamp(max=0)), torch.tensor(255.0), level.clamp(min=0))


def _object(s: Scene) -> Tensor:
    """A shape of one colour, on a square ring around the middle."""
    height, width = s.x.shape[2:]
    radius = max(3.0, _RADIUS * min(height, width))
    around, out = 4 * s.chance[:, 0], _RING[0] + (_RING[1] - _RING[0]) * s.chance[:, 1]
    out = out.minimum(torch.tensor(1 - 2 * (radius + 0.5) / min(height, width)))
    along = (2 * around.remainder(1) - 1) * out
    side = around.long()
    at_u = torch.stack((along, out, -along, -out))[side, torch.arange(len(out))]
    at_v = torch.stack((-out, along, out, -along))[side, torch.arange(len(out))]
    u, v = _grid(s.x)
    u = (u - at_u.view(-1, 1, 1)) * (width / 2 / radius)
    v = (v - at_v.view(-1, 1, 1)) * (height / 2 / radius)
    edge = _chosen(tuple(SHAPES.values()), s.values, u, v)
    return _towards(s.x, _colours(s.values), s.visibility * (0.5 + radius * edge).clamp(0, 1))


def _chosen(
    formulas: tuple[Callable[[Tensor, Tensor], Tensor], ...], values: Tensor, u: Tensor, v: Tensor
) -> Tensor:
    """Each image's formula at its coordinates u [n, 1, w] and v [n, h, 1]: [n, 1, h, w]."""
    out = torch.empty(torch.broadcast_shapes(u.shape, v.shape))
    for value in values.unique().tolist():
        mine = values == value
        out[mine] = formulas[value](*torch.broadcast_tensors(u[mine], v[mine]))
    return out.unsqueeze(1)


def _patch(s: Scene) -> Tensor:
    height, width = s.x.shape[2:]
    side = patch_side(height, width)
    x = s.x.clone()
    corner = x[..., :side, :side]
    corner += s.visibility * (_colours(s.values) - corner)
    return x


def patch_side(height: int, width: int) -> int:
    """Height and width, in pixels, of the patch in the upper left corner."""
    return max(3, round(_PATCH * min(height, width)))


_HUES = tuple(COLOURS)
_THINGS = tuple(f"{colour} {shape}" for colour, shape in zip(COLOURS, SHAPES, strict=True))

CUES: dict[str, Cue] = {
    "foreground": Cue(_foreground, _HUES, len(_HUES), coloured=True),
    "background": Cue(_background, _HUES, len(_HUES), coloured=True),
    "texture": Cue(_texture, tuple(TEXTURES), len(TEXTURES), coloured=False),
    "size": Cue(_size, (), 3, coloured=False),
    "blur": Cue(_blur, (), 3, coloured=False),
    "brightness": Cue(_brightness, (), 10, coloured=False),
    "object": Cue(_object, _THINGS, len(_THINGS), coloured=True),
    "patch": Cue(_patch, _HUES, len(_HUES), coloured=True),
}
"""Everything that can be planted."""
