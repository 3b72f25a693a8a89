"""Options that several commands share, and what they mean."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from truecue.config import Config
    from truecue.data.sets import Splits
    from truecue.data.suites.base import Suite
    from truecue.engine.device import Device
    from truecue.nets.classifier import Classifier
    from truecue.nets.pretrained import Pretrained

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A suite's name, an image folder, a table, a data set on disk, or shards.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for all that is written.")]
Seed = Annotated[int, typer.Option("--seed", help="Of initialisation, order and augmentation.")]
DataSeed = Annotated[
    int, typer.Option("--seed", help="Of the data: its split, and what is drawn in it.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting; those of the data begin with 'data.'."
    ),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", envvar="TRUECUE_DATA", help="Where a suite's files are."),
]
Accelerator = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Devices = Annotated[int, typer.Option("--devices", min=1, help="Processes with a device each.")]
Precision = Annotated[str, typer.Option("--precision", help="32-true or bf16-mixed.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="The same bits every time, on GPUs too.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; default: torch's choice.")
]
Skip = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Leave unreadable images out, and count them."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no table.")]


def divide(changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings for the method and, with the prefix `data.` taken off, for the data."""
    own: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "data" and isinstance(value, dict):
            data |= value
        elif name.startswith("data."):
            data[name.removeprefix("data.")] = value
        else:
            own[name] = value
    return own, data


def check_names(own: dict[str, Any], method: type[Config], suite: Suite) -> None:
    """Point out a setting of the data that lacks its prefix."""
    for name in own:
        first = name.split(".")[0]
        if first not in method.model_fields and first in type(suite).model_fields:
            raise ConfigError(f"'{name}' is a setting of the data: write --set data.{name}=...")


def open_suite(data: str, changes: dict[str, Any], *, skip_unreadable: bool = False) -> Suite:
    """The suite that DATA names, with its settings."""
    from truecue.data.suites import open_data

    if skip_unreadable:
        changes = changes | {"skip_unreadable": True}
    return open_data(data, changes)


def suite_again(asked: dict[str, Any], changes: dict[str, Any] | None = None) -> Suite:
    """The suite that a run or an audit was made with, from the `asked` of its run.toml."""
    from truecue.data.suites import suite_named, suite_names
    from truecue.data.suites.folder import Folder

    name, settings = str(asked.get("data")), asked.get("data_settings") or {}
    # a folder of one's own may have the name of a suite; only folders say where they are
    suite = name in suite_names() and "root" not in settings
    kind = suite_named(name) if suite else Folder
    return kind(**settings).override(changes or {})


def load(suite: Suite, root: Path | None, seed: int, *, quiet: bool = False) -> Splits:
    """A suite's splits; missing folders are named, and suites that can tell show progress."""
    from truecue.data.suites.folder import Folder

    needed = not suite.self_made and not (isinstance(suite, Folder) and suite.root)
    if root is not None and needed and not root.is_dir():
        raise ConfigError(f"there is no folder {root} (from --root or TRUECUE_DATA)")
    if "progress" not in inspect.signature(suite.load).parameters:
        return suite.load(root, seed=seed)
    with decoding(quiet=quiet) as progress:
        return suite.load(root, seed=seed, progress=progress)  # type: ignore[call-arg]


@contextmanager
def decoding(*, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar for the decoding and making of images, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from truecue.engine.progress import counter

    with counter("preparing images", quiet=quiet) as tell:
        yield tell


def open_device(
    accelerator: str,
    devices: int = 1,
    precision: str = "32-true",
    *,
    deterministic: bool = False,
    threads: int | None = None,
) -> Device:
    """The device that the options ask for."""
    import torch

    from truecue.engine.device import Device, keep_freed_memory

    if precision not in {"32-true", "bf16-mixed"}:
        raise ConfigError(f"--precision is 32-true or bf16-mixed; got '{precision}'")
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return Device(
        accelerator,
        devices=devices,
        precision=precision,  # type: ignore[arg-type]
        deterministic=deterministic,
    )


def suite_of_model(
    data: str, given: Mapping[str, Any], model: Path, net: Classifier
) -> tuple[Suite, int]:
    """The suite that DATA names, as a model's training saw it, and the seed of its splits.

    A run that was trained on DATA lends its settings; what is given goes before them. Images of the
    user's own get the model's size.

    Args:
        data: DATA.
        given: settings of the data, from the command line.
        model: a run's folder, or a file.
        net: the model that is there.
    """
    from truecue.data.suites.folder import Folder

    suite, seed = open_suite(data, {}), int(net.spec.get("extra", {}).get("seed", 0))
    asked = asked_of(model)
    # a folder of one's own may have the name of a suite; only folders say where they are
    alike = isinstance(suite, Folder) == ("root" in asked.get("data_settings", {}))
    if alike and asked.get("data") == name_of(data):
        known = type(suite).model_fields.keys() - {"root", "table"}  # where they are says DATA
        lent = {k: v for k, v in asked.get("data_settings", {}).items() if k in known}
        suite, seed = suite.override(lent), int(asked.get("seed", 0))
    return in_model_size(suite, given, net.spec["size"]).override(given), seed


def asked_of(model: Path) -> dict[str, Any]:
    """What the run of a model was asked for; empty where that is not known.

    Args:
        model: a run's folder, or a file in it.
    """
    from truecue.config import read_toml

    home = (model if model.is_dir() else model.parent) / "run.toml"
    asked: dict[str, Any] = read_toml(home).get("asked", {}) if home.is_file() else {}
    return asked


def in_model_size(suite: Suite, given: Mapping[str, Any], size: int) -> Suite:
    """A suite with images of a model's size, if they are the user's own and no size is given."""
    from truecue.data.suites.folder import Folder

    own = isinstance(suite, Folder) and "size" not in given
    return suite.override({"size": size}) if own else suite


def pretrained(
    weights: str | None, arch: str | None, norm: str | None, *, frozen: bool
) -> Pretrained | None:
    """What the options say about weights to begin with.

    Raises:
        ConfigError: options that only go with weights are given without.
    """
    from truecue.nets.pretrained import Pretrained

    if weights is None:
        if norm is not None or frozen:
            raise ConfigError(
                f"{'--frozen' if frozen else '--norm'} is about pretrained weights; give --weights"
            )
        return None
    values = {"weights": weights, "arch": arch or "", "norm": norm, "frozen": frozen}
    return Pretrained(**values)


def command() -> str:
    """What was typed, for the report."""
    return shlex.join(["truecue", *sys.argv[1:]])


def name_of(data: str) -> str:
    """What DATA is called in reports and folders: a suite's name, or the last part of a path."""
    from truecue.data.suites import suite_names

    if data in suite_names():
        return data
    return Path(os.path.abspath(Path(data).expanduser())).name  # "." has one, links keep theirs


def facts(data: str, suite: Suite) -> dict[str, Any]:
    """Where the data comes from, for the report."""
    changed = suite.model_dump(
        mode="json", exclude={"root", "table"}, exclude_defaults=True, exclude_none=True
    )
    return {
        "data": name_of(data),
        "settings": suite.to_dict(),
        "changed": changed,
        "command": command(),
    }
