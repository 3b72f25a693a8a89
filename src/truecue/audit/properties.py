"""Properties of whole images that are not their content, how to measure them and to change them.

A property is changed in an image by giving it the value that another image has, and leaving the
rest as it is, as far as that goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.data.augment import blurred

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_SIGMAS = (0.0, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0)  # pixels, of blurs that are tried
_MOST = 8.0  # largest factor by which contrast and saturation are raised
_EVEN = 16  # of 255; what differs less from the border is no content
_BLOCK = 2**22  # values; keeps the temporary float arrays small


class Property(NamedTuple):
    """One property."""

    measure: Callable[[Tensor], Tensor]
    """From float32 [n, c, h, w] in 0..255 to float32 [n, d]."""
    change: Callable[[Tensor, Tensor, Tensor], Tensor]
    """From images, their own values and wanted ones (float32 [n, d]) to images."""
    coloured: bool
    """Whether images need three channels for it."""
    about: str
    """What it is, in words."""


def measured(name: str, images: Tensor) -> Tensor:
    """A property of images.

    Args:
        name: of `PROPERTIES`.
        images: uint8 [n, c, h, w].

    Returns:
        float32 [n, d].
    """
    rows = max(1, _BLOCK // max(1, images[0].numel())) if len(images) else 1
    parts = [PROPERTIES[name].measure(part.float()) for part in images.split(rows)]
    return torch.cat(parts)


def changed(name: str, images: Tensor, wanted: Tensor) -> Tensor:
    """Images with another value of a property.

    Args:
        name: of `PROPERTIES`.
        images: uint8 [n, c, h, w].
        wanted: float32 [n, d], values as `measured` gives them. They are reached as far as pixels
            allow; images are not made sharper or less noisy than they are.

    Returns:
        uint8 [n, c, h, w].
    """
    change = PROPERTIES[name].change
    out = torch.empty_like(images)
    rows = max(1, _BLOCK // max(1, images[0].numel())) if len(images) else 1
    for start in range(0, len(images), rows):
        part = slice(start, start + rows)
        x = images[part].float()
        out[part] = change(x, PROPERTIES[name].measure(x), wanted[part]).round().clamp(0, 255)
    return out


def luma(x: Tensor) -> Tensor:
    """Brightness of pixels: float32 [n, 1, h, w], of one channel or three."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def _chroma(x: Tensor) -> Tensor:
    """Colour without brightness: float32 [n, 2, h, w], 0 for grey; the angle is the hue."""
    r, g, b = x.unbind(1)
    return torch.stack((r - (g + b) / 2, (g - b) * 0.75**0.5), 1)


def _brightness(x: Tensor) -> Tensor:
    return luma(x).mean((2, 3))


def _to_brightness(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    return _to_mean(x, own[:, :, None, None], wanted[:, :, None, None])


def _to_mean(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """Blended towards black or white until the mean is as wanted."""
    down = (wanted / own.clamp(min=1e-3)).clamp(max=1)
    up = ((wanted - own) / (255 - own).clamp(min=1e-3)).clamp(0, 1)
    return torch.where(wanted <= own, x * down, x + up * (255 - x))


def _contrast(x: Tensor) -> Tensor:
    return luma(x).flatten(1).std(1, correction=0, keepdim=True)


def _to_contrast(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    factor = (wanted / own.clamp(min=1e-3)).clamp(max=_MOST)[:, :, None, None]
    middle = x.mean((2, 3), keepdim=True)
    return middle + factor * (x - middle)


def _cast(x: Tensor) -> Tensor:
    """How far the means of red, green and blue lie from the mean brightness."""
    return x.mean((2, 3)) - _brightness(x)


def _to_cast(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    means = x.mean((2, 3), keepdim=True)
    return _to_mean(x, means, (means + (wanted - own)[:, :, None, None]).clamp(0, 255))


def _hue(x: Tensor) -> Tensor:
    """The mean hue, every pixel counting by its colourfulness; shorter where hues are many."""
    return _chroma(x).mean((2, 3)) / _saturation(x).clamp(min=1.0)


def _to_hue(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """All hues turned by one angle, brightness and colourfulness kept."""
    turn = torch.atan2(wanted[:, 1], wanted[:, 0]) - torch.atan2(own[:, 1], own[:, 0])
    cos, sin = turn.cos().view(-1, 1, 1), turn.sin().view(-1, 1, 1)
    a, b = _chroma(x).unbind(1)
    a, b = a * cos - b * sin, a * sin + b * cos
    # back from the two to three channels whose mean is 0, then to the brightness of before
    spread = b / (2 * 0.75**0.5)
    r, g = 2 * a / 3, -a / 3 + spread
    colours = torch.stack((r, g, -r - g), 1)
    turned: Tensor = colours + (luma(x) - luma(colours))
    return turned


def _saturation(x: Tensor) -> Tensor:
    a, b = _chroma(x).unbind(1)  # torch's norm along a dimension that is not the last is slow
    return torch.hypot(a, b).mean((1, 2)).unsqueeze(1)


def _to_saturation(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    grey = luma(x)
    factor = (wanted / own.clamp(min=1e-3)).clamp(max=_MOST)[:, :, None, None]
    return grey + factor * (x - grey)


def _laplacian(x: Tensor) -> Tensor:
    """Brightness compared with its four neighbours, inside the image: [n, 1, h - 2, w - 2]."""
    y = luma(x)
    around: Tensor = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]
    return 4 * y[..., 1:-1, 1:-1] - around


def _sharpness(x: Tensor) -> Tensor:
    """Energy of the Laplacian relative to that of the slopes: how abrupt edges are, not how many.

    1 is added to both, so that images without edges have a value near 1.
    """
    y = luma(x)
    slopes = (y[..., 1:, :] - y[..., :-1, :]).square().mean((2, 3))
    slopes = slopes + (y[..., 1:] - y[..., :-1]).square().mean((2, 3))
    return torch.log2((1 + _laplacian(x).square().mean((2, 3))) / (1 + slopes))


def _to_sharpness(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """The blur, of those tried, that brings an image nearest to what is wanted."""
    best, out = (own - wanted).abs()[:, 0], x.clone()
    reach = min(9, min(x.shape[2:]) - 1)
    for sigma in _SIGMAS[1:]:
        again = blurred(x, torch.full((len(x),), sigma), reach)
        off = (_sharpness(again) - wanted).abs()[:, 0]
        better = off < best
        best = torch.where(better, off, best)
        out[better] = again[better]
    return out


def _noise(x: Tensor) -> Tensor:
    """Standard deviation of noise, from what a filter leaves that edges and slopes pass by.

    Source: Immerkaer 1996, with the median for the mean, so that texture counts less.
    """
    mask = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]).view(1, 1, 3, 3)
    left = F.conv2d(luma(x), mask).flatten(1).abs()
    return left.median(1, keepdim=True).values / (0.6745 * 6)


def _to_noise(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    sigma = (wanted.square() - own.square()).clamp(min=0).sqrt()[:, :, None, None]
    grain = torch.randn(1, 1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
    return x + sigma * grain


def _extent(x: Tensor) -> Tensor:
    """Height or width of what differs from the border, whichever is more, of the side."""
    other = ((x - _edge(x)).abs().amax(1) > _EVEN).float()
    found = []
    for line in (other.amax(2), other.amax(1)):
        first, last = line.cummax(1).values, line.flip(1).cummax(1).values.flip(1)
        found.append((first * last).mean(1))
    return torch.stack(found, 1).amax(1, keepdim=True)


def _edge(x: Tensor) -> Tensor:
    """The median colour of the outermost pixels: [n, c, 1, 1]."""
    edge = torch.cat((x[:, :, 0], x[:, :, -1], x[..., 0], x[..., -1]), 2)
    return edge.median(2).values[:, :, None, None]


def _to_extent(x: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """Zoomed about the middle; what comes into view has the median colour of the border."""
    zoom = (wanted / own.clamp(min=1e-3)).clamp(1 / _MOST, _MOST).view(-1, 1, 1)
    v, u = ((2 * torch.arange(size) + 1) / size - 1 for size in x.shape[2:])
    grid = torch.stack(torch.broadcast_tensors(u / zoom, v.unsqueeze(1) / zoom), -1)
    edge = _edge(x)
    return F.grid_sample(x - edge, grid, align_corners=False) + edge


PROPERTIES: dict[str, Property] = {
    "brightness": Property(_brightness, _to_brightness, False, "mean brightness of the image"),
    "contrast": Property(_contrast, _to_contrast, False, "spread of the brightness of its pixels"),
    "colour cast": Property(_cast, _to_cast, True, "mean red, green and blue against brightness"),
    "hue": Property(_hue, _to_hue, True, "mean hue of its coloured parts"),
    "saturation": Property(_saturation, _to_saturation, True, "mean colourfulness"),
    "sharpness": Property(_sharpness, _to_sharpness, False, "how abrupt its edges are (or blur)"),
    "noise": Property(_noise, _to_noise, False, "noise of its pixels"),
    "extent": Property(_extent, _to_extent, False, "how much of the frame its content fills"),
}
"""Everything that is measured of whole images, by name."""
