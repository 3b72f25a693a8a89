"""Images with labels and attributes, and their three splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from truecue.errors import DataError


class Attribute(NamedTuple):
    """A property of every image that may mislead a classifier, such as a colour or a place."""

    values: Tensor
    """int64 [n], index into `names`; -1 where the value is not known."""
    names: tuple[str, ...]


class ArrayFile:
    """Images in a memory-mapped uint8 `.npy` file [n, c, h, w], indexed like a tensor.

    Several objects may look at chosen rows of one file; nothing is read before it is indexed.
    """

    def __init__(self, path: Path, rows: Tensor | None = None):
        self.path = path
        self._map = np.load(path, mmap_mode="r")
        if self._map.dtype != np.uint8 or self._map.ndim != 4:
            raise DataError(
                f"{path} must hold uint8 images [n, c, h, w]; it holds {self._map.dtype} of shape"
                f" {list(self._map.shape)}. Remove it to have it made again"
            )
        self.rows = rows

    def __len__(self) -> int:
        return len(self._map) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, c, h, w)."""
        _, c, h, w = self._map.shape
        return len(self), c, h, w

    def __getitem__(self, ids: Tensor | slice) -> Tensor:
        """The images of some rows, read into memory: uint8 [m, c, h, w]."""
        rows = self._rows(ids)
        if isinstance(rows, slice):
            return torch.from_numpy(np.array(self._map[rows]))
        return torch.from_numpy(np.ascontiguousarray(self._map[rows.cpu().numpy()]))

    def select(self, ids: Tensor) -> ArrayFile:
        """The same file, showing only these rows, in this order."""
        rows = self._rows(ids)
        assert isinstance(rows, Tensor)
        return ArrayFile(self.path, rows)

    def _rows(self, ids: Tensor | slice) -> Tensor | slice:
        return ids if self.rows is None else self.rows[ids]


@dataclass(frozen=True)
class ImageSet:
    """Images, their labels, and what else is known about them.

    Raises:
        DataError: a length, type or value does not fit the others.
    """

    images: Tensor | ArrayFile
    """uint8 [n, c, h, w]; or a frozen encoder's features in their place, float32 [n, d, 1, 1]."""
    y: Tensor
    """int64 [n], index into `classes`."""
    classes: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Where each image came from (a file's name, say); empty, or one for each image."""

    def __post_init__(self) -> None:
        images, n = self.images, len(self.y)
        if isinstance(images, Tensor) and not (_are_pixels(images) or _are_features(images)):
            raise DataError(
                "images must be uint8 [n, c, h, w]; got"
                f" {str(images.dtype).removeprefix('torch.')} of shape {list(images.shape)}"
            )
        if len(images) != n:
            raise DataError(f"there are {len(images):,} images and {n:,} labels")
        if self.y.dtype != torch.int64 or self.y.dim() != 1:
            raise DataError(f"labels must be int64 [n]; got {self.y.dtype}, {list(self.y.shape)}")
        _check_range("label", self.y, 0, len(self.classes))
        if self.names and len(self.names) != n:
            raise DataError(f"there are {len(self.names):,} names and {n:,} images")
        for name, attribute in self.attributes.items():
            values = attribute.values
            if len(values) != n:
                raise DataError(f"attribute '{name}' has {len(values):,} values for {n:,} images")
            if values.dtype != torch.int64 or values.dim() != 1:
                raise DataError(
                    f"attribute '{name}' must be int64 [n]; got {values.dtype},"
                    f" {list(values.shape)}"
                )
            _check_range(f"attribute '{name}'", attribute.values, -1, len(attribute.names))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def encoded(self) -> bool:
        """Whether these are a frozen encoder's features instead of pixels."""
        return isinstance(self.images, Tensor) and _are_features(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one image."""
        _, c, h, w = self.images.shape
        return c, h, w

    def select(self, ids: Tensor) -> ImageSet:
        """The images with these positions (int64 [m] or bool [n]), in this order."""
        ids = ids.nonzero().squeeze(1) if ids.dtype == torch.bool else ids
        images = self.images.select(ids) if isinstance(self.images, ArrayFile) else self.images[ids]
        return replace(
            self,
            images=images,
            y=self.y[ids],
            attributes={k: Attribute(a.values[ids], a.names) for k, a in self.attributes.items()},
            names=tuple(self.names[i] for i in ids.tolist()) if self.names else (),
        )

    def blind(self) -> ImageSet:
        """The same images without attributes."""
        return replace(self, attributes={})


@dataclass(frozen=True)
class Splits:
    """Training, validation and test images of one task.

    Raises:
        DataError: the splits differ in classes, image shape or an attribute's values, a class is
            absent from a split, there is only one class, or `bias` and `aligned` do not fit.
    """

    train: ImageSet
    val: ImageSet | None
    """None where all training images are wanted for training."""
    test: ImageSet
    bias: str | None = None
    """Name of the attribute that misleads, where it is known."""
    aligned: Tensor | None = None
    """bool [classes, values]: the cells in which the bias agrees with the label. None: the cells
    that hold more training images than independence of label and bias would give."""
    notes: tuple[str, ...] = ()
    """What a reader of results must know about how the data was made; shown in reports."""

    def __post_init__(self) -> None:
        first = self.train
        if len(first.classes) < 2:
            raise DataError(
                f"a classifier needs at least two classes; found {len(first.classes)}:"
                f" {', '.join(first.classes)}"
            )
        for name, part in self.parts().items():
            if part.classes != first.classes or part.shape != first.shape:
                raise DataError(
                    f"the {name} images have classes {part.classes} and shape {part.shape},"
                    f" the training images {first.classes} and {first.shape}"
                )
            empty = [c for c, k in zip(part.classes, class_counts(part), strict=True) if k == 0]
            if empty:
                raise DataError(
                    f"no {name} image shows class {', '.join(repr(c) for c in empty)}; every split"
                    " needs every class: add images, or leave the class out"
                )
            for key in part.attributes.keys() & first.attributes.keys():
                ours, theirs = first.attributes[key].names, part.attributes[key].names
                if ours != theirs:
                    raise DataError(
                        f"attribute '{key}' has the values {theirs} in the {name} images and"
                        f" {ours} in the training images; they must be the same, in one order"
                    )
        if self.bias is not None:
            self._check_bias(self.bias)

    def _check_bias(self, bias: str) -> None:
        known = {k: a for part in self.parts().values() for k, a in part.attributes.items()}
        if bias not in known:
            raise DataError(
                f"there is no attribute '{bias}' (attributes: {', '.join(sorted(known)) or 'none'})"
            )
        shape = (len(self.train.classes), len(known[bias].names))
        table = self.aligned
        if table is not None and (table.dtype != torch.bool or table.shape != shape):
            raise DataError(
                f"the table of aligned cells must be bool [classes, values] = {list(shape)};"
                f" got {table.dtype}, {list(table.shape)}"
            )

    def parts(self) -> dict[str, ImageSet]:
        """The splits that exist, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


def _are_pixels(images: Tensor) -> bool:
    return images.dtype == torch.uint8 and images.dim() == 4


def _are_features(images: Tensor) -> bool:
    return images.dtype == torch.float32 and images.dim() == 4 and images.shape[2:] == (1, 1)


def class_counts(data: ImageSet) -> list[int]:
    """The number of images of each class."""
    return torch.bincount(data.y, minlength=len(data.classes)).tolist()


def _check_range(what: str, values: Tensor, low: int, high: int) -> None:
    if len(values) and (int(values.min()) < low or int(values.max()) >= high):
        raise DataError(
            f"{what} must lie in {low}..{high - 1}; found {int(values.min())}..{int(values.max())}"
        )
