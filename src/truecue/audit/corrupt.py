"""Corrupting the places where a feature is active, to see how much a model leans on them.

Moayeri et al., "Spuriosity Rankings", NeurIPS 2023, arXiv 2212.02648, appendices B and H; the noise
is that of Singla & Feizi, "Salient ImageNet", arXiv 2110.04301. Kernel of the blur and side of the
patches are not in the papers; ours are below.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from truecue.audit.halves import as_bytes
from truecue.data.augment import blurred
from truecue.errors import DataError
from truecue.seeds import derive

Corruption = Literal["gray", "blur", "rotate", "noise"]

BLUR = 1 / 32
"""Sigma of the blur, as a share of the shorter side: 7 pixels of 224."""
PATCH = 1 / 14
"""Side of the patches that are rotated, as a share of the shorter side: 16 pixels of 224."""
NOISE = 0.25
"""Deviation of the noise, of pixels in [0, 1]."""
CORE = 0.9
"""Value of the mean core map from which a pixel belongs to the object."""
LARGEST = 0.01
"""Share of the pixels, those with the largest values, taken where none reaches `CORE`."""
MARGIN = 0.2
"""How much larger than the object a crop is, as a share of its height and width."""


class Box(NamedTuple):
    """Part of an image, from `top` to just before `bottom`, in pixels and parts of pixels."""

    top: float
    bottom: float
    left: float
    right: float

    def cut(self, images: Tensor) -> Tensor:
        """All pixels [..., h, w] that the box touches."""
        rows = slice(math.floor(self.top), math.ceil(self.bottom))
        return images[..., rows, slice(math.floor(self.left), math.ceil(self.right))]


def core_mask(nams: Tensor) -> Tensor:
    """Where any of a class's core features is active: the largest value at each pixel.

    Args:
        nams: float [features, n, h, w] in [0, 1], resized activation maps of the core features.

    Returns:
        [n, h, w]; all zero where there are no core features.
    """
    return nams.amax(0) if len(nams) else nams.new_zeros(nams.shape[1:])


def without(mask: Tensor, core: Tensor) -> Tensor:
    """A spurious feature's mask without what it has in common with the core: mask (1 - core)."""
    return mask * (1 - core)


def corrupted(images: Tensor, mask: Tensor, kind: Corruption, *, seed: int = 0) -> Tensor:
    """Images corrupted where a mask says so: (1 - mask) x + mask T(x).

    - "gray": T is the luminance; grey images stay as they are.
    - "blur": a Gaussian of 1/32 of the shorter side.
    - "rotate": square patches of 1/14 of the shorter side, each turned by 0, 90, 180 or 270
      degrees. Patches at the right and lower border that would reach beyond it stay as they are.
    - "noise": x + mask e instead, with e normal of deviation 0.25, cut to [0, 1].

    Args:
        images: uint8 [n, c, h, w].
        mask: float [n, h, w] in [0, 1].
        kind: what is done.
        seed: of the turns and the noise.

    Returns:
        uint8 [n, c, h, w].

    Raises:
        DataError: the mask does not fit the images, or is not in [0, 1].
    """
    n, _, h, w = images.shape
    if mask.shape != (n, h, w):
        raise DataError(
            f"the mask must be [n, h, w] = {[n, h, w]}, one for each image; got {list(mask.shape)}"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise DataError("the values of a mask must lie in [0, 1]")
    x, m = images.float() / 255, mask[:, None]
    rng = torch.Generator().manual_seed(derive(seed, "corrupt", kind))
    if kind == "noise":
        return as_bytes(x + m * NOISE * torch.randn(x.shape, generator=rng).to(x.device))
    if kind == "gray":
        other = _luminance(x)
    elif kind == "blur":
        sigma = torch.full((n,), max(BLUR * min(h, w), 0.5), device=x.device)
        reach = min(math.ceil(3 * float(sigma[0])), min(h, w) - 1) if n else 0
        other = blurred(x, sigma, reach)
    else:
        other = _turned(x, max(2, round(PATCH * min(h, w))), rng)
    return as_bytes((1 - m) * x + m * other)


def sensitivity(before: Tensor, after: Tensor) -> float:
    """How much accuracy a corruption costs, as a share of the accuracy without it.

    Args:
        before: bool [n], whether the model is right about each image.
        after: bool [n], the same for the corrupted images.

    Returns:
        (accuracy - accuracy after) / accuracy; below 0 where the corruption helps, nan where the
        model is right about no image.
    """
    if before.shape != after.shape:
        raise DataError(f"there are {len(before)} images before and {len(after)} after")
    right = int(before.sum())
    return (right - int(after.sum())) / right if right else float("nan")


def core_crop(nams: Tensor) -> Box:
    """The square around a class's object, for images that show several.

    The box around all pixels in which the mean of the core maps reaches 0.9 (where none does,
    around the 1 % with the largest values) becomes a fifth higher and wider, then square by its
    longer side, and is cut at the image's borders. Good for images among the fifth with the highest
    core activation only.

    Args:
        nams: float [features, h, w] in [0, 1], resized activation maps of the core features of one
            image.

    Raises:
        DataError: there is no map.
    """
    if not len(nams):
        raise DataError("a core crop needs a core feature; this class has none")
    mean = nams.mean(0)
    height, width = mean.shape
    inside = mean >= CORE
    if not bool(inside.any()):
        k = max(1, round(LARGEST * mean.numel()))
        inside = mean >= mean.flatten().topk(k).values[-1]
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    top, bottom = float(rows.min()), float(rows.max()) + 1
    left, right = float(columns.min()), float(columns.max()) + 1
    half = (1 + MARGIN) * max(bottom - top, right - left) / 2
    y, x = (top + bottom) / 2, (left + right) / 2
    return Box(max(y - half, 0), min(y + half, height), max(x - half, 0), min(x + half, width))


def _luminance(x: Tensor) -> Tensor:
    """ITU-R BT.601, for images with red, green and blue."""
    if x.shape[1] != 3:
        return x
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device)[:, None, None]
    return (x * weights).sum(1, keepdim=True).expand_as(x)


def _turned(x: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Square patches turned by multiples of 90 degrees."""
    n, _, h, w = x.shape
    down, across = h // side, w // side
    x = x.clone()
    inner = x[..., : down * side, : across * side]
    patches = inner.unflatten(3, (across, side)).unflatten(2, (down, side)).transpose(3, 4)
    turns = torch.randint(0, 4, (n, down, across), generator=rng).to(x.device)
    mixed = patches.clone()
    for k in (1, 2, 3):
        chosen = (turns == k)[:, None, :, :, None, None]
        mixed = torch.where(chosen, patches.rot90(k, (4, 5)), mixed)
    x[..., : down * side, : across * side] = mixed.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return x
