"""What a neural feature looks at: one picture for each class and feature."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from truecue.audit.attack import WARNING, amplified
from truecue.audit.maps import check_places, heat, stored_maps
from truecue.data.files import cached_arrays
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.features import digest_of
from truecue.errors import DataError
from truecue.nets.classifier import Classifier
from truecue.nets.maps import FeatureMaps
from truecue.report.sheet import Caption, sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 180
"""Pixels a side of one image in a picture, at most."""
_VERSION = 1
"""Raise it when pictures would come out differently."""


class Shown(NamedTuple):
    """Images that a feature is shown with."""

    ids: Tensor
    """int64 [m], positions among the images."""
    activations: Tensor
    """float [m], the feature's values for them, in any unit: they are written below the images."""


class FeaturePictures:
    """Draws features of one encoder on images of one set, each when it is first asked for.

    A picture has rows: the most activating images, the same with heat maps, the same changed so
    that the feature rises (for robust encoders only), and the least activating images. Pictures are
    kept in the cache under the encoder's digest, class, feature and the images.

    Args:
        net: gives the features; it is moved to the device.
        images: the images, as pixels.
        device: where to compute.
        robust: whether the encoder was trained to be adversarially robust. Only then is the row
            of changed images drawn.

    Raises:
        DataError: the images are features already.
    """

    def __init__(self, net: Classifier, images: ImageSet, device: Device, *, robust: bool):
        if images.encoded:
            raise DataError(
                "pictures of features need the images; these are a frozen encoder's features"
            )
        net.to(device.device)
        self.net, self.images, self.device, self.robust = net, images, device, robust
        self.source = FeatureMaps(net)
        self._encoder = digest_of(net)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know about the rows."""
        return self.source.note, *(() if self.robust else (WARNING,))

    def picture(
        self, label: int, feature: int | None, top: Shown, least: Shown | None = None
    ) -> bytes:
        """The picture of a feature of a class, drawn or from the cache.

        Args:
            label: the class; part of the key only.
            feature: the feature; None: something else that images were ranked by, which has neither
                heat maps nor changed images.
            top: the most activating images, at least one.
            least: the least activating images; None leaves their row out.

        Returns:
            A WebP file (JPEG where Pillow has no WebP).

        Raises:
            DataError: there is no image, an image or the feature does not exist, the numbers of
                images and activations differ, or a map is not finite.
        """
        rows = [top] if least is None or not len(least.ids) else [top, least]
        what = f"class {label}" if feature is None else f"class {label}, feature {feature}"
        for shown in rows:
            if len(shown.ids) != len(shown.activations):
                raise DataError(
                    f"{what}: there are {len(shown.ids)} images and {len(shown.activations)}"
                    " activations"
                )
            check_places(shown.ids, len(self.images), "images")
        if feature is not None:
            check_places(torch.tensor([feature]), self.net.n_features, "features")
        if not len(top.ids):
            raise DataError(f"{what}: there is no image to show it with")
        pixels = [self.images.images[shown.ids] for shown in rows]
        key = self._key(label, feature, rows, pixels)

        def draw() -> dict[str, NDArray[np.uint8]]:
            return {"file": np.frombuffer(self._drawn(feature, rows, pixels), dtype=np.uint8)}

        return cached_arrays("feature-picture", key, draw)["file"].tobytes()

    def _key(
        self, label: int, feature: int | None, rows: list[Shown], pixels: list[Tensor]
    ) -> tuple[object, ...]:
        """Everything that the picture depends on, the images themselves among it."""
        digest = hashlib.blake2b(digest_size=16)
        for shown, x in zip(rows, pixels, strict=True):
            digest.update(f"{shown.ids.tolist()} {_said(shown.activations)} {x.shape}".encode())
            digest.update(x.contiguous().numpy().tobytes())
        precision = self.device.precision
        return (
            _VERSION, self._encoder, precision, self.robust, label, feature, digest.hexdigest()
        )  # fmt: skip

    def _drawn(self, feature: int | None, rows: list[Shown], pixels: list[Tensor]) -> bytes:
        top, x = rows[0], pixels[0]
        strips = {"most activating": x}
        if feature is not None:
            wanted = torch.full_like(top.ids, feature)
            maps = stored_maps(self.source, self.images, top.ids, wanted, self.device)
            strips["heat map"] = heat(x, maps.float() / 255)
        if feature is not None and self.robust:
            where = self.device.device
            wanted = torch.full_like(top.ids, feature).to(where)
            strips["amplified"] = amplified(self.net, x.to(where), wanted).cpu()
        captions = [[Caption((value,)) for value in _said(top.activations)], *([] for _ in strips)]
        captions = captions[: len(strips)]
        if len(rows) == 2:
            strips["least activating"] = pixels[1]
            captions.append([Caption((value,)) for value in _said(rows[1].activations)])
        columns = max(map(len, strips.values()))
        images = torch.stack([_filled(strip, columns) for strip in strips.values()])
        names = [""] * columns
        return sheet(images, list(strips), names, captions=captions, side=SIDE, lossy=True)


def _said(values: Tensor) -> list[str]:
    return [f"{value:.3g}" for value in values.tolist()]


def _filled(strip: Tensor, columns: int) -> Tensor:
    """Images uint8 [columns, 3, h, w], white behind the last one."""
    colour = strip[:, :3] if strip.shape[1] >= 3 else strip[:, :1].expand(-1, 3, -1, -1)
    rest = columns - len(strip), *colour.shape[1:]
    return torch.cat([colour, colour.new_full(rest, 255)])
