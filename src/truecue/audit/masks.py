"""Object masks of images, found by the images' names and brought to the images' pixels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from truecue.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MaskFile:
    """A folder of mask images, or an `.npz` file of masks.

    The mask of an image `cat/1.jpg` is `cat/1.jpg.png` or `cat/1.png` in the folder, or the entry
    `cat/1.jpg` or `cat/1` of the file: [h, w], of the upright image in any size. Whole numbers and
    truth values are the object wherever they are not 0; floating-point numbers in [0, 1] are the
    object's share. Like images, masks have their short side resized, and the middle is kept.

    Args:
        path: the folder or the file.

    Raises:
        DataError: there is neither.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries: dict[str, Any] | None = None
        if path.is_dir():
            return
        if not path.is_file():
            raise DataError(f"there is no folder or file of masks {path}")
        try:
            opened = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read as a file of masks: {error}") from None
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise DataError(
                f"{path} holds one array; masks by name are in a folder or an .npz file"
            )
        self._entries = dict.fromkeys(opened.files)
        self._opened = opened

    def places(self, name: str) -> list[str]:
        """Where an image's mask may be, in the order in which it is looked for."""
        bare = str(Path(name).with_suffix("")) if Path(name).suffix else name
        if self._entries is not None:
            return [name, bare]
        return [str(self.path / f"{name}.png"), str(self.path / f"{bare}.png")]

    def of(self, name: str, height: int, width: int) -> Tensor | None:
        """The object's share in each pixel of an image: float32 [height, width] in [0, 1].

        Args:
            name: of the image, as in `ImageSet.names`.
            height: of the image as the network sees it.
            width: the same.

        Returns:
            None where there is no mask.

        Raises:
            DataError: the mask cannot be read or is none; the message names it.
        """
        from PIL import Image, ImageOps

        for place in self.places(name):
            values = self._read(place)
            if values is not None:
                share = Image.fromarray(_share(values, place))
                fitted = ImageOps.fit(share, (width, height), Image.Resampling.BILINEAR)
                return torch.from_numpy(np.array(fitted)).clamp(0, 1)
        return None

    def _read(self, place: str) -> NDArray[Any] | None:
        from PIL import Image

        if self._entries is not None:
            if place not in self._entries:
                return None
            try:
                return np.asarray(self._opened[place])
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise DataError(f"{self.path}, entry '{place}': {error}") from None
        path = Path(place)
        if not path.is_file():
            return None
        try:
            with Image.open(path) as image:
                values = np.array(image)
        # Pillow's readers raise many kinds of errors on damaged files
        except Exception as error:
            raise DataError(f"the mask {path} cannot be read: {error}") from None
        if values.ndim == 3 and values.shape[2] == 3 and (values == values[..., :1]).all():
            return values[..., 0]
        return values


def _share(values: NDArray[Any], place: str) -> NDArray[np.float32]:
    if values.ndim != 2 or not values.size:
        raise DataError(
            f"the mask {place} must be [h, w], grey or black and white; got shape"
            f" {list(values.shape)}. Is it the image itself?"
        )
    if not np.issubdtype(values.dtype, np.floating):
        return np.asarray(values != 0, dtype=np.float32)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise DataError(f"the mask {place} has floating-point numbers outside [0, 1]")
    return np.asarray(values, dtype=np.float32)
