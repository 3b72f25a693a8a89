"""Suites: data sets with settings, source and licence, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from truecue.config import nest, suggest
from truecue.data.suites.bar import BAR
from truecue.data.suites.base import Suite
from truecue.data.suites.bffhq import BFFHQ
from truecue.data.suites.biased_mnist import BiasedMNIST
from truecue.data.suites.celeba import CelebA
from truecue.data.suites.colored_mnist import ColoredMNIST
from truecue.data.suites.corrupted_cifar10 import CorruptedCIFAR10
from truecue.data.suites.digits import Digits
from truecue.data.suites.dogs_cats import DogsCats
from truecue.data.suites.folder import Folder
from truecue.data.suites.gratings import Gratings
from truecue.data.suites.imagenet9 import ImageNet9
from truecue.data.suites.listing import TABLES
from truecue.data.suites.pacs import PACS
from truecue.data.suites.planted import Planted
from truecue.data.suites.utkface import UTKFace
from truecue.data.suites.waterbirds import Waterbirds
from truecue.data.suites.wds import find_shards
from truecue.errors import ConfigError, DataError

SUITES: dict[str, type[Suite]] = {
    "bar": BAR,
    "bffhq": BFFHQ,
    "biased_mnist": BiasedMNIST,
    "celeba": CelebA,
    "colored_mnist": ColoredMNIST,
    "corrupted_cifar10": CorruptedCIFAR10,
    "digits": Digits,
    "dogs_cats": DogsCats,
    "folder": Folder,
    "gratings": Gratings,
    "imagenet9": ImageNet9,
    "pacs": PACS,
    "planted": Planted,
    "utkface": UTKFace,
    "waterbirds": Waterbirds,
}
"""The package's suites. Other packages add theirs by the entry-point group `truecue.suites`."""


def suite_names() -> list[str]:
    """The names of all suites, those of other packages included."""
    return sorted({*SUITES, *(point.name for point in entry_points(group="truecue.suites"))})


def suite_named(name: str) -> type[Suite]:
    """A suite's class.

    Raises:
        ConfigError: there is none of that name, or another package's entry is no suite.
    """
    if name in SUITES:
        return SUITES[name]
    for point in entry_points(group="truecue.suites", name=name):
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, Suite)):
            raise ConfigError(f"the entry point '{point.value}' of suite '{name}' is not a Suite")
        return found
    known = suite_names()
    raise ConfigError(f"there is no suite '{name}'{suggest(name, known)} (suites: {_list(known)})")


def open_data(data: str, changes: Mapping[str, Any] | None = None) -> Suite:
    """What a user calls DATA, with its settings.

    Args:
        data: a suite's name, or the path of an image folder, of a CSV or Parquet table, of a
            Hugging Face data set on disk, or of WebDataset shards (a `.tar` file, a folder of them,
            or a pattern such as `train-{000..004}.tar`). A name goes before a folder of the same
            name; write `./digits` for the folder.
        changes: settings of the suite, by (dotted) name.

    Raises:
        ConfigError: a setting is unknown or out of range, or there is no such suite.
        DataError: there is no such folder or table.
    """
    changes = nest(changes or {})
    path = Path(data).expanduser()
    if data in suite_names():
        return suite_named(data)(**changes)
    if path.is_dir() or find_shards(path):
        return Folder(**{"root": str(path.absolute())} | changes)
    if path.is_file() and path.suffix.lower() in TABLES:
        return Folder(
            **{"root": str(path.absolute().parent), "table": str(path.absolute())} | changes
        )
    if path.is_file():
        raise DataError(
            f"{data} is neither an image folder nor a table ({_list(TABLES)}) nor a shard (.tar)"
        )
    known = suite_names()
    if "/" in data or "\\" in data or path.suffix.lower() in {*TABLES, ".tar"}:
        raise DataError(f"there is no folder or table {data}")
    raise ConfigError(
        f"there is no suite, folder or table '{data}'{suggest(data, known)}"
        f" (suites: {_list(known)})"
    )


def _list(names: Any) -> str:
    return ", ".join(names)
