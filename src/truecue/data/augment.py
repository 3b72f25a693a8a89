"""Augmentation of whole batches of uint8 images, with parameters of its own for every image.

Each operation is a plain function of images and parameters, one per image; `augment` draws the
parameters. Nothing but the generator decides them, so that a batch can be made again from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.config import suggest
from truecue.errors import ConfigError

AugmentName = Literal["flip", "crop", "resized_crop", "large_crop", "jitter", "grey", "blur"]

# Strengths and probabilities are SimCLR's as the methods here use them (ColorJitter(0.4, 0.4, 0.4,
# 0.1) with probability 0.8, greyscale 0.2, blur 0.5 with sigma 0.1 to 2).
_STRENGTH, _HUE = 0.4, 0.1
_P_FLIP, _P_JITTER, _P_GREY, _P_BLUR = 0.5, 0.8, 0.2, 0.5
_SIGMA = (0.1, 2.0)
_LARGE = (0.2, 1.0)
_PADDING = 4
_TRIES = 10
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_CHUNK = 2**19  # values; larger float arrays are mapped afresh each time, at half the speed


def augment(
    images: Tensor,
    names: tuple[AugmentName, ...],
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
) -> Tensor:
    """Change every image at random, one named operation after the other.

    | name | operation |
    |---|---|
    | flip | mirrored left to right, with probability 0.5 |
    | crop | 4 black pixels added on each side, and a window of the old size cut out |
    | resized_crop | a box of `scale` x the area, ratio 3/4 to 4/3, enlarged to the old size |
    | large_crop | the same with a box of 0.2 to 1 x the area |
    | jitter | with probability 0.8: brightness, contrast, saturation x 0.6..1.4, hue +- 0.1 turn |
    | grey | without colour, with probability 0.2 |
    | blur | with probability 0.5: Gaussian of 0.1 to 2 pixels |

    Args:
        images: uint8 [b, c, h, w]; not changed.
        names: operations in the order in which they act. Geometry first is fastest.
        generator: on the images' device; the parameters are drawn from it.
        scale: least and greatest share of the area for `resized_crop`; torchvision's default.

    Returns:
        uint8 [b, c, h, w]; `images` itself where `names` is empty.

    Raises:
        ConfigError: a name is unknown.
        ValueError: the images are not uint8 [b, c, h, w], or the generator is on another device.
    """
    _check(images, generator)
    for name in names:
        images = _draw_and_apply(images, name, generator, scale)
    return images


def _draw_and_apply(
    images: Tensor, name: str, generator: torch.Generator, scale: tuple[float, float]
) -> Tensor:
    n, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        u = torch.rand(n, generator=generator, device=images.device)
        return u.mul_(high - low).add_(low)

    match name:
        case "flip":
            return flip(images, uniform(0, 1) < _P_FLIP)
        case "crop":
            top, left = (uniform(0, 2 * _PADDING + 1).long() for _ in range(2))
            return crop(images, top.clamp_(max=2 * _PADDING), left.clamp_(max=2 * _PADDING))
        case "resized_crop":
            return resized_crop(images, random_boxes(n, height, width, generator, scale=scale))
        case "large_crop":
            return resized_crop(images, random_boxes(n, height, width, generator, scale=_LARGE))
        case "jitter":
            chosen = uniform(0, 1) < _P_JITTER
            b, c, s = (1 + uniform(-_STRENGTH, _STRENGTH) * chosen for _ in range(3))
            return jitter(images, b, c, s, uniform(-_HUE, _HUE) * chosen)
        case "grey":
            return grey(images, uniform(0, 1) < _P_GREY)
        case "blur":
            chosen = uniform(0, 1) < _P_BLUR
            return blur(images, uniform(*_SIGMA) * chosen)
        case _:
            known = list(get_args(AugmentName))
            raise ConfigError(
                f"there is no augmentation '{name}'{suggest(name, known)} ({', '.join(known)})"
            )


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror chosen images left to right.

    Args:
        images: uint8 [b, c, h, w].
        chosen: bool [b].
    """
    return _choose(chosen, images.flip(3), images)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int = _PADDING) -> Tensor:
    """Pad images with zeros and cut windows of the old size out of them.

    Args:
        images: uint8 [b, c, h, w].
        top: int64 [b], first row of each window in the padded image, 0 to 2 * `padding`.
        left: int64 [b], first column.
        padding: pixels on each side.
    """
    b, c, h, w = images.shape
    if not b:
        return images
    padded = F.pad(images, (padding,) * 4)
    tall, wide = h + 2 * padding, w + 2 * padding
    # Copies whole rows: 4 to 6 times as fast as indexing windows [b, c, top, left, h, w].
    planes = torch.arange(b * c, device=images.device).view(b, c, 1) * (tall * wide)
    rows = torch.arange(h, device=images.device) * wide
    starts = planes + rows + (top * wide + left).view(b, 1, 1)
    return padded.flatten().unfold(0, w, 1).index_select(0, starts.flatten()).view(b, c, h, w)


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Cut a box out of every image and resize it to the image's size, bilinearly.

    Pixels are centred in their squares and a box ends at its border: the same numbers as
    `interpolate(box, size, mode="bilinear")`, without a low-pass filter.

    Args:
        images: uint8 [b, c, h, w].
        boxes: int64 [b, 4]: top, left, height, width.
    """

    def sample(x: Tensor, box: Tensor) -> Tensor:
        top, left, height, width = box.to(x.dtype).unsqueeze(2).unbind(1)
        ys = _positions(top, height, x.shape[2])
        xs = _positions(left, width, x.shape[3])
        shape = len(x), x.shape[2], x.shape[3]
        grid = torch.stack((xs.unsqueeze(1).expand(shape), ys.unsqueeze(2).expand(shape)), 3)
        return F.grid_sample(x, grid, align_corners=True)

    return _on_floats(sample, images, boxes)


def jitter(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Change brightness, then contrast, then saturation, then hue.

    Each is torchvision's operation of that name, with values held in 0..255 after it, but rounded
    once at the end. Images without three channels have no saturation and hue to change.

    Args:
        images: uint8 [b, c, h, w].
        brightness: float [b], factor of all values; 1 changes nothing.
        contrast: float [b], factor of the distance from the mean luminance.
        saturation: float [b], factor of the distance from each pixel's luminance.
        hue: float [b], turns of the colour circle; 0 changes nothing.
    """

    def change(x: Tensor, factors: Tensor) -> Tensor:
        bright, contrasted, saturated, turned = factors.view(len(x), 4, 1, 1, 1).unbind(1)
        x.mul_(bright).clamp_(0, 255)
        mean = _luminance(x).mean((2, 3), keepdim=True)
        x.sub_(mean).mul_(contrasted).add_(mean).clamp_(0, 255)
        if x.shape[1] != 3:
            return x
        luminance = _luminance(x)
        x.sub_(luminance).mul_(saturated).add_(luminance).clamp_(0, 255)
        return _turn_hue(x, turned.squeeze(1))

    return _on_floats(change, images, torch.stack((brightness, contrast, saturation, hue), 1))


def grey(images: Tensor, chosen: Tensor) -> Tensor:
    """Take the colour out of chosen images; images without three channels stay as they are.

    Args:
        images: uint8 [b, c, h, w].
        chosen: bool [b].
    """
    if images.shape[1] != 3:
        return images
    # Pillow's fixed-point luminance, so that the values are the same as its
    r, g, b = images.int().unbind(1)
    luminance = (r.mul_(19595).add_(g, alpha=38470).add_(b, alpha=7471).add_(1 << 15)) >> 16
    return _choose(chosen, luminance.to(torch.uint8).unsqueeze(1), images)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian, mirrored at the borders.

    The kernel reaches a twentieth of the image to each side, at least 1 and at most 6 pixels
    (SimCLR's tenth in all, cut where three times the largest sigma ends).

    Args:
        images: uint8 [b, c, h, w].
        sigma: float [b], in pixels; 0 changes nothing.
    """
    side = min(images.shape[2:])
    reach = min(max(side // 20, 1), math.ceil(3 * _SIGMA[1]), side - 1)
    return _on_floats(lambda x, s: blurred(x, s, reach), images, sigma)


def blurred(x: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Float images blurred with a Gaussian, mirrored at the borders.

    Args:
        x: float [b, c, h, w].
        sigma: float [b], in pixels; 0 changes nothing.
        reach: of the kernel to each side, in pixels, below the images' height and width.
    """
    at = torch.arange(reach + 1, device=x.device)
    weights = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3).unsqueeze(1)) ** 2)
    weights = weights / (2 * weights.sum(1, keepdim=True) - 1)  # all but the centre count twice
    return _smooth_along(_smooth_along(x, weights, 2), weights, 3)


def random_boxes(
    n: int,
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Boxes as torchvision's `RandomResizedCrop` draws them: the first of ten tries that fits.

    Args:
        n: number of boxes.
        height: of the images.
        width: of the images.
        generator: on the device on which the boxes shall be.
        scale: least and greatest share of the area.
        ratio: least and greatest width / height, drawn evenly on a logarithmic scale.

    Returns:
        int64 [n, 4]: top, left, height, width; the largest box in the middle where no try fits.
    """
    u = torch.rand(4, n, _TRIES, generator=generator, device=generator.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = torch.exp(low + (high - low) * u[1])
    h, w = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    first = fits.int().argmax(1, keepdim=True)
    h, w, u_top, u_left = (t.gather(1, first).squeeze(1) for t in (h, w, u[2], u[3]))
    top = (u_top * (height - h + 1)).floor().minimum(height - h)
    left = (u_left * (width - w + 1)).floor().minimum(width - w)
    boxes = torch.stack((top, left, h, w), 1).long()
    middle = torch.tensor(_middle_box(height, width, ratio), device=boxes.device)
    return torch.where(fits.any(1, keepdim=True), boxes, middle)


def _middle_box(height: int, width: int, ratio: tuple[float, float]) -> list[int]:
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return [(height - h) // 2, (width - w) // 2, h, w]


def _check(images: Tensor, generator: torch.Generator) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            "augmentation takes uint8 images [b, c, h, w]; got"
            f" {str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        )
    if generator.device.type != images.device.type:
        raise ValueError(
            f"the images are on {images.device} and the generator is on {generator.device};"
            " make it with torch.Generator(images.device)"
        )


def _choose(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `chosen`, else `b`, image by image; uint8."""
    # uint8 wraps round, so b + (a - b) is a; four times as fast as torch.where
    return (a - b).mul_(chosen.view(-1, 1, 1, 1)).add_(b)


def _on_floats(op: Callable[[Tensor, Tensor], Tensor], images: Tensor, values: Tensor) -> Tensor:
    """Apply `op` to the images as floats in 0..255, with each image's values, and round."""
    n, c, h, w = images.shape
    rows = max(1, _CHUNK // max(1, c * h * w) if images.device.type == "cpu" else n)
    out = torch.empty((n, c, h, w), dtype=torch.uint8, device=images.device)
    for i in range(0, n, rows):
        x = images[i : i + rows].to(torch.float32)
        out[i : i + rows] = op(x, values[i : i + rows]).round_().clamp_(0, 255)
    return out


def _positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the pixels of a resized side [b, size] lie in the old one, in -1..1."""
    at = (torch.arange(size, device=start.device) + 0.5) * (length / size) - 0.5
    inside = at.clamp_(min=0).minimum(length - 1) + start
    return inside * (2 / max(size - 1, 1)) - 1


def _luminance(x: Tensor) -> Tensor:
    """[b, 1, h, w]; the mean over channels where there are not three."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    r, g, b = x.unsqueeze(2).unbind(1)
    return (r * _LUMA[0]).add_(g, alpha=_LUMA[1]).add_(b, alpha=_LUMA[2])


def _turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of float images [b, 3, h, w]; value and saturation of HSV stay."""
    r, g, b = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    sixths = torch.where(
        value == r, g - b, torch.where(value == g, b - r + 2 * chroma, r - g + 4 * chroma)
    )
    sixths = sixths.div_(chroma.clamp(min=1e-6)).add_(6 * turns)
    out = torch.empty_like(x)
    # A channel lacks the chroma in two sixths of the circle and goes up and down beside them.
    for i, offset in enumerate((5, 3, 1)):
        k = (sixths + offset).remainder_(6)
        lack = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(value, chroma, lack, value=-1, out=out[:, i])
    return out


def _smooth_along(x: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Correlate dimension 2 or 3 with symmetric weights [b, reach + 1], the centre first."""
    reach, size = weights.shape[1] - 1, x.shape[dim]
    padded = F.pad(x, (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0), mode="reflect")
    w = weights.view(len(x), reach + 1, 1, 1, 1)
    out = x * w[:, 0]
    for i in range(1, reach + 1):
        pair = padded.narrow(dim, reach - i, size) + padded.narrow(dim, reach + i, size)
        out.addcmul_(pair, w[:, i])
    return out
