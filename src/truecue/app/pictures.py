"""Image files for pages: images, heat maps, amplified images and core crops, each when asked for.

Maps and amplified images are kept in the cache; nothing is drawn but what a page shows, so that an
address cannot make the server work for images that no page has.
"""

from __future__ import annotations

import hashlib
import io
import threading
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from truecue.app.source import Source
from truecue.audit.attack import amplified
from truecue.audit.corrupt import core_crop
from truecue.audit.maps import heat, resized, stored_maps
from truecue.data.files import cached_arrays
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.maps import FeatureMaps

Row = Literal["heat", "amplified"]
SIDE = 224
"""Pixels a side, at most."""
SMALL = 64
"""Up to this many pixels a side, images are enlarged by whole factors: pixels stay sharp."""
_VERSION = 1
_KEPT = 4096


class Pictures:
    """Draws the pictures of one audit.

    Args:
        source: the audit with its images.
        device: where maps are computed.
    """

    def __init__(self, source: Source, device: Device):
        self.source, self.device = source, device
        self._network = threading.Lock()  # its mode is changed for the time of a call
        self._maps: FeatureMaps | None = None
        self.image = lru_cache(_KEPT)(self._image)
        self.of_feature = lru_cache(_KEPT)(self._of_feature)
        self._crop = lru_cache(_KEPT)(self._cropped)

    @property
    def maps(self) -> FeatureMaps:
        """The encoder's maps; the network is read at the first picture."""
        if self._maps is None:
            net = self.source.audit.encoder()
            net.to(self.device.device)
            self._maps = FeatureMaps(net)
        return self._maps

    def note(self) -> str:
        """What the maps are, in words."""
        with self._network:
            return self.maps.note

    def _image(self, split: str, i: int) -> bytes:
        """One image of a split.

        Raises:
            DataError: there is no such image.
        """
        n = len(self.source.part(split))
        if not 0 <= i < n:
            raise DataError(f"there are {n:,} {split} images, 0 to {n - 1}; not {i}")
        return encode(enlarged(self._pixels(split, torch.tensor([i])))[0])

    def _of_feature(self, row: Row, class_index: int, feature: int, i: int) -> bytes:
        """One of the images that a feature is shown with, with its heat map or amplified.

        Raises:
            DataError: the feature is not shown with this image, or it has no such row.
        """
        source = self.source
        shown = source.shown(class_index, feature)
        if source.is_cue(feature) or (row == "amplified" and not source.robust):
            raise DataError(f"there is no row '{row}' for this feature")
        ids = (*shown.top, *shown.least)
        if i not in (ids if row == "heat" else shown.top):
            raise DataError(f"feature {feature} of class {class_index} is not shown with image {i}")
        if row == "heat":
            maps = self._stored("train", ids, (feature,) * len(ids))
            x = enlarged(self._pixels("train", torch.tensor([i])))
            return encode(heat(x, maps[ids.index(i)][None].float() / 255)[0])
        return encode(enlarged(self._amplified(shown.top, feature)[shown.top.index(i)][None])[0])

    def crop(self, split: str, class_index: int, i: int) -> bytes:
        """The part of an image around what the class's core features look at.

        Raises:
            DataError: no feature of the class has been judged core.
        """
        core = tuple(core_features(self.source, class_index))
        if not core:
            raise DataError("a core crop needs a feature that was judged core")
        return self._crop(split, core, i)

    def _cropped(self, split: str, core: tuple[int, ...], i: int) -> bytes:
        x = self._pixels(split, torch.tensor([i]))
        maps = self._stored(split, (i,) * len(core), core).float() / 255
        box = core_crop(resized(maps, *x.shape[2:]))
        return encode(enlarged(box.cut(x))[0])

    def _pixels(self, split: str, ids: Tensor) -> Tensor:
        x = self.source.part(split).images[ids]
        return x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)

    def _stored(self, split: str, ids: tuple[int, ...], features: tuple[int, ...]) -> Tensor:
        """Maps uint8 [m, h', w'], from the cache or computed."""
        at, which = torch.tensor(ids), torch.tensor(features)
        key = ("maps", *self._key(split, at), features)
        with self._network:
            found = cached_arrays("app-pictures", key, lambda: {
                "maps": stored_maps(
                    self.maps, self.source.part(split), at, which, self.device
                ).numpy()
            })  # fmt: skip
        return torch.from_numpy(found["maps"].copy())

    def _amplified(self, ids: tuple[int, ...], feature: int) -> Tensor:
        """uint8 [m, c, h, w], from the cache or computed: a hundred passes both ways."""
        at = torch.tensor(ids)
        where = self.device.device

        def make() -> dict[str, object]:
            x = self.source.part("train").images[at].to(where)
            which = torch.full((len(at),), feature, device=where)
            return {"images": amplified(self.maps.net, x, which).cpu().numpy()}

        with self._network:
            key = ("amplified", *self._key("train", at), feature)
            found = cached_arrays("app-pictures", key, make)  # type: ignore[arg-type]
        x = torch.from_numpy(found["images"].copy())
        return x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)

    def _key(self, split: str, ids: Tensor) -> tuple[object, ...]:
        pixels = self.source.part(split).images[ids].contiguous().numpy().tobytes()
        digest = hashlib.blake2b(pixels, digest_size=16).hexdigest()
        encoder = self.source.audit.facts["encoder"]["digest"]
        return _VERSION, encoder, self.device.precision, digest


def core_features(source: Source, class_index: int) -> list[int]:
    """The features of a class that were judged core and have maps."""
    return [
        f.feature for f in source.audit.features(class_index)
        if not source.is_cue(f.feature) and (v := source.verdict(f)) and v.verdict == "core"
    ]  # fmt: skip


def enlarged(x: Tensor) -> Tensor:
    """Small images uint8 [n, c, h, w] at a size to look at, by a whole factor."""
    side = max(x.shape[2:])
    if side > SMALL:
        return x
    factor = max(1, round(128 / side))
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def encode(x: Tensor) -> bytes:
    """An image uint8 [3, h, w] as a PNG file where it is small, and as a WebP file otherwise."""
    from PIL import Image, features

    image = Image.fromarray(x.permute(1, 2, 0).contiguous().numpy())
    file = io.BytesIO()
    if max(x.shape[1:]) <= 2 * SMALL + 64:
        image.save(file, "PNG")
    else:
        image.thumbnail((SIDE, SIDE))
        image.save(file, "WEBP" if features.check("webp") else "JPEG", quality=85)
    return file.getvalue()
