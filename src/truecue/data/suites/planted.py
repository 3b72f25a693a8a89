"""Any images with a cue planted in them: biases of which the truth is known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from truecue.config import suggest
from truecue.data.cues import CUES, CueName, Given, plant
from truecue.data.files import Progress, cached_folder, fingerprint
from truecue.data.sets import ArrayFile, Attribute, ImageSet, Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.folder import Folder
from truecue.data.suites.splitting import Ids
from truecue.errors import ConfigError, DataError
from truecue.seeds import derive

_LARGE = 2**29  # bytes of a split's images; larger ones go to a file in the cache
_BATCH = 1024  # images planted before they are written
_PLANTING = 1  # raise it when `plant` gives other pixels, so that old caches are not used


class Planted(Suite):
    """Any images, with a cue planted in them that goes with the class, almost always.

    Class c is tied to the cue's value c modulo the number of values. Of the training and validation
    images of each class, the stated share is conflicting and shows one of the other values, all of
    them equally often. In the test images every class shows all values equally often. Which value
    an image shows is recorded as an attribute named like the cue; attributes of the base are kept.

    Several cues are planted at once, each with values and conflicting images of its own.
    """

    source: ClassVar[str] = "the base suite's images, with cues drawn by the package"
    licence: ClassVar[str] = "that of the base (CC BY 4.0 for digits)"
    layout: ClassVar[str] = "what the base needs; nothing for digits"
    self_made: ClassVar[bool] = True

    base: str = "digits"
    """A suite's name, or the path of an image folder or a table. Digits are left grey and gratings
    get a tint that says nothing, unless `base_settings` say otherwise."""
    base_settings: dict[str, Any] = {}
    """Settings of the base, e.g. `base_settings.size`."""
    cues: tuple[CueName, ...] = ("patch",)
    """What to plant: any of foreground, background, texture, size, blur, brightness, object, patch;
    the first is the suite's bias. One name does without brackets; none: nothing is planted."""
    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the training and validation images of each class that show another class's value,
    for each cue on its own."""
    values: Annotated[int, Field(ge=2)] | None = None
    """Number of values of each cue; left out: the number of classes, or as many as can be told
    apart."""
    visibility: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How clearly the cues show: 0 leaves all pixels as they are."""

    @field_validator("cues", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """One name as a tuple of one, `none` as the empty one; other names with a suggestion."""
        names = (given,) if isinstance(given, str) else given
        if not isinstance(names, list | tuple):
            return names
        if tuple(names) == ("none",):
            return ()
        known = get_args(CueName)
        for name in names:
            if name == "none":
                raise ValueError("'none' stands alone; leave it out to plant the others")
            if name not in known:
                raise ValueError(
                    f"there is no cue '{name}'{suggest(str(name), [*known, 'none'])}"
                    f" (cues: {', '.join(known)}; or none)"
                )
        if len(set(names)) < len(names):
            raise ValueError(f"each cue can be planted once; got {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _tellable(self) -> Planted:
        for name in self.cues:
            if self.values is not None and self.values > CUES[name].most:
                raise ValueError(
                    f"values: {CUES[name].most} values of {name} can be told apart; got"
                    f" {self.values}"
                )
        return self

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Load the base and plant the cues in its images.

        Args:
            root: handed on to the base.
            seed: of the base, of which image shows which value, and of places and offsets.
            progress: called with (images done, images in all) while a folder's images are decoded.

        Raises:
            ConfigError: there is no such base, or there are more values than classes.
            DataError: the base cannot be loaded, is too small, or has an attribute of a cue's name.
            StorageError: the cache could not be written.
        """
        data = self._base(root, seed, progress)
        classes = len(data.train.classes)
        if self.values is not None and self.values > classes:
            raise ConfigError(
                f"Planted: values must be at most the number of classes, which is {classes}; got"
                f" {self.values}"
            )
        counts: dict[str, int] = {
            name: self.values or min(classes, CUES[name].most) for name in self.cues
        }
        parts = {split: self._part(p, split, counts, seed) for split, p in data.parts().items()}
        first = self.cues[0] if self.cues else None
        return Splits(
            parts["train"],
            parts.get("val"),
            parts["test"],
            bias=first,
            aligned=None if first is None else tied(classes, counts[first]),
            notes=(*data.notes, *self._notes(counts)),
        )

    def _base(self, root: Path | str | None, seed: int, progress: Progress | None) -> Splits:
        # the list of suites imports this file
        from truecue.data.suites import open_data, suite_named, suite_names

        neutral = suite_named(self.base).neutral if self.base in suite_names() else {}
        suite = open_data(self.base, {**neutral, **self.base_settings})
        if isinstance(suite, Folder):
            data = suite.load(root, seed=seed, progress=progress)
        else:
            data = suite.load(root, seed=seed)
        known = {name for part in data.parts().values() for name in part.attributes}
        for name in self.cues:
            if name in known:
                raise DataError(
                    f"the images of '{self.base}' already have an attribute '{name}'; plant another"
                    " cue, or leave the attribute out"
                )
        return data

    def _part(self, part: ImageSet, split: str, counts: Mapping[str, int], seed: int) -> ImageSet:
        """One split with the cues planted."""
        if not counts:
            return part
        given: dict[str, Given] = {}
        for name, count in counts.items():
            key = (seed, "planted", split, name)
            share = None if split == "test" else self.conflicting
            values = draw_values(part.y.numpy(), count, share, *key)
            draw = np.random.default_rng(derive(*key, "chance"))
            chance = torch.from_numpy(draw.random((len(part), 2), dtype=np.float32))
            given[name] = Given(torch.from_numpy(values), count, chance)
        planted = {
            name: Attribute(given[name].values, CUES[name].names(name, count))
            for name, count in counts.items()
        }
        images = _images(part.images, given, self.visibility)
        return replace(part, images=images, attributes={**part.attributes, **planted})

    def _notes(self, counts: Mapping[str, int]) -> tuple[str, ...]:
        return tuple(
            f"planted: {name} with {count} values, {self.conflicting:.2%} of the training images"
            f" conflicting, visibility {self.visibility:g}"
            for name, count in counts.items()
        )


def tied(classes: int, values: int) -> Tensor:
    """Which value is aligned with which class: bool [classes, values]."""
    return (torch.arange(classes) % values).unsqueeze(1) == torch.arange(values)


def draw_values(y: Ids, count: int, conflicting: float | None, *seed: int | str) -> Ids:
    """Which value of a cue each image shows.

    Class by class, `round(conflicting * n)` of the n images, chosen by the seed, get the values
    that are not the class's own, each as often as the others (give or take one).

    Args:
        y: int64 [n], labels.
        count: number of values.
        conflicting: share of each class that gets another value, in [0, 1]; None: all values are
            equally frequent in every class (give or take one).
        *seed: what the draw is for, as in `derive`.

    Returns:
        int64 [n], in 0..count-1.
    """
    draw = np.random.default_rng(derive(*seed))
    values = y % count
    for label in np.unique(y):
        places = draw.permutation(np.flatnonzero(y == label))
        offsets = draw.permutation(np.arange(0 if conflicting is None else 1, count))
        if conflicting is not None:
            places = places[: round(conflicting * len(places))]
        values[places] = (label + offsets[np.arange(len(places)) % len(offsets)]) % count
    return values


def _images(
    images: Tensor | ArrayFile, given: Mapping[str, Given], visibility: float
) -> Tensor | ArrayFile:
    """The images with the cues; those of a large file go to a file in the cache."""
    n, _, height, width = images.shape
    if isinstance(images, Tensor) or n * 3 * height * width <= _LARGE:
        return plant(images[:], given, visibility)

    def fill(folder: Path) -> None:
        # written piece by piece: a full disk is then an error, where a memory map would crash
        with (folder / "images.npy").open("wb") as out:
            for rows in torch.arange(n).split(_BATCH):
                some = {k: Given(g.values[rows], g.total, g.chance[rows]) for k, g in given.items()}
                pixels = plant(images[rows], some, visibility)
                if not out.tell():
                    shape = (n, *pixels.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(out, header)
                out.write(pixels.numpy().tobytes())

    digest = hashlib.sha256(repr(visibility).encode())
    for name, (values, total, chance) in given.items():
        digest.update(f"{name} {total}".encode() + values.numpy().tobytes())
        digest.update(chance.numpy().tobytes())
    rows = b"" if images.rows is None else images.rows.numpy().tobytes()
    digest.update(rows)
    key = (_PLANTING, fingerprint([images.path]), digest.hexdigest())
    return ArrayFile(cached_folder("planted", key, fill) / "images.npy")
