"""Where in an image a feature is active: neural activation maps and heat maps.

Singla & Feizi, "Salient ImageNet", ICLR 2022, arXiv 2110.04301; Moayeri et al., "Spuriosity
Rankings", NeurIPS 2023, arXiv 2212.02648. A map is scaled by its own maximum: it says where in its
image a feature is active, never how much.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.audit.halves import as_bytes
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.maps import FeatureMaps

BATCH = 8
"""Images in one forward pass. At 224 pixels larger batches are slower on a processor, as their
layers no longer stay in its cache: a MobileNetV2 took 50 to 80 ms an image in eights, 190 ms in
sixty-fours."""


def nam(maps: Tensor) -> Tensor:
    """Neural activation maps: maps divided by their largest value.

    Args:
        maps: float [..., h, w], maps of one feature each.

    Returns:
        [..., h, w] in [0, 1]. All zero where no value of a map is above 0; negative values, which
        features without ReLU have, become 0.

    Raises:
        DataError: a value is not finite.
    """
    if not bool(maps.isfinite().all()):
        bad = int((~maps.flatten(-2).isfinite().all(-1)).sum())
        total = maps[..., 0, 0].numel()
        raise DataError(
            f"{bad} of {total} maps hold values that are not finite; the encoder's weights, or what"
            " it computes in this precision, are out of range"
        )
    top = maps.amax((-2, -1), keepdim=True)
    return torch.where(top > 0, maps / top.where(top > 0, 1), 0).clamp(0, 1)


def resized(nams: Tensor, height: int, width: int) -> Tensor:
    """Activation maps at the size of their images.

    Bilinear between the centres of fields (`align_corners=False`), averaged where an image is
    smaller than its map.

    Args:
        nams: float [n, h, w] in [0, 1].
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        [n, height, width] in [0, 1].
    """
    larger = F.interpolate(
        nams[:, None], (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return larger.squeeze(1).clamp(0, 1)


def jet(values: Tensor) -> Tensor:
    """Colours from dark blue (0) over green (0.5) to dark red (1).

    Args:
        values: float [n, h, w] in [0, 1].

    Returns:
        [n, 3, h, w] in [0, 1]: red, green and blue 1.5 - |4 v - 3|, 1.5 - |4 v - 2| and
        1.5 - |4 v - 1|, each cut to [0, 1].
    """
    peaks = torch.tensor([3.0, 2.0, 1.0], device=values.device)[:, None, None]
    return (1.5 - (4 * values[:, None] - peaks).abs()).clamp(0, 1)


def heat(images: Tensor, nams: Tensor) -> Tensor:
    """Heat maps: images with their activation maps laid over them, red where they are high.

    Args:
        images: uint8 [n, c, h, w]; of more than three channels the first three are shown, of two
            the first.
        nams: float [n, h', w'] in [0, 1], of any size.

    Returns:
        uint8 [n, 3, h, w]: colours of the map plus image, divided by the largest value of the sum.
    """
    shown = (images[:, :3] if images.shape[1] >= 3 else images[:, :1]).float() / 255
    laid = jet(resized(nams, *images.shape[2:])) + shown
    return as_bytes(laid / laid.amax((1, 2, 3), keepdim=True).clamp(min=1e-12))


@torch.no_grad()
def stored_maps(
    source: FeatureMaps, images: ImageSet, ids: Tensor, features: Tensor, device: Device
) -> Tensor:
    """Activation maps of chosen features of chosen images, small enough to be kept.

    Each image goes through the network once, however many of its features are asked for. Seven by
    seven fields are 49 bytes; they are enlarged when they are shown.

    Args:
        source: gives the maps.
        images: the images, as pixels.
        ids: int64 [m], positions among the images.
        features: int64 [m], the feature of each position.
        device: where to compute; the network is moved there.

    Returns:
        uint8 [m, h', w'], 255 where the feature is most active.

    Raises:
        DataError: the images are features already, a position or a feature does not exist, or a
            map is not finite.
    """
    if images.encoded:
        raise DataError("maps need the images themselves; these are a frozen encoder's features")
    check_places(ids, len(images), "images")
    check_places(features, source.net.n_features, "features")
    source.net.to(device.device)
    alone, place = ids.unique(return_inverse=True)
    made: list[Tensor] = []
    order: list[Tensor] = []
    for start in range(0, len(alone), BATCH):
        x = images.images[alone[start : start + BATCH]].to(device.device)
        own = ((place >= start) & (place < start + BATCH)).nonzero().squeeze(1)
        rows, wanted = place[own] - start, features[own]
        if source.kind == "gradient":
            maps = torch.cat([
                source.of(x[r.to(x.device)], f)
                for r, f in zip(rows.split(BATCH), wanted.split(BATCH), strict=True)
            ])  # fmt: skip
        else:
            maps = source.maps(x)[rows.to(x.device), wanted.to(x.device)]
        made.append(as_bytes(nam(maps.float())).cpu())
        order.append(own)
    if not made:
        return torch.zeros(0, 1, 1, dtype=torch.uint8)
    return torch.cat(made)[torch.cat(order).argsort()]


def check_places(values: Tensor, n: int, what: str) -> None:
    """Refuse positions that do not lie in 0..n - 1.

    Raises:
        DataError: with `what` there are n of.
    """
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= n):
        low, high = int(values.min()), int(values.max())
        raise DataError(f"there are {n:,} {what}, 0..{n - 1}; asked for {low}..{high}")
