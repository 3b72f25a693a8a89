"""Generators by name or file: published MNIST networks, SiH's decoder, shapes, and one's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from truecue.config import suggest
from truecue.errors import ConfigError, DataError, TruecueError
from truecue.nets.adapters import PairedGenerator, PlainGenerator
from truecue.nets.classifier import fit_weights, read_weights
from truecue.nets.generator import Generator
from truecue.nets.procedural import ShapesGenerator
from truecue.nets.vae import load_vae

PUBLISHED = {
    "mnist-dcgan": "mnist_dcgan_G.pt",
    "mnist-gan": "mnist_gan_mlp_G.pt",
    "mnist-vae": "mnist_vae.pt",
}
"""Names of published generators, and of their files in the folder `weights` of the data."""
SHAPES = "shapes"


def load_generator(what: str | Path, root: Path | None = None) -> Generator:
    """A generator, on the CPU.

    Args:
        what: `shapes`; `mnist-dcgan`, `mnist-gan` or `mnist-vae`, whose files are in the folder
            `weights` below `root`; the file of such weights; the folder of a run of SiH, or its
            `.safetensors` file; or a function of one's own that returns a `Generator`, as
            `file.py:function` or `package.module:function`.
        root: the folder of the data.

    Raises:
        ConfigError: there is no such name, or the function fails or does not return a generator.
        DataError: a file is absent, unreadable or holds no generator that is known.
    """
    name, path = str(what), Path(what)
    if name == SHAPES:
        return ShapesGenerator()
    if name in PUBLISHED:
        if root is None:
            raise ConfigError(
                f"'{name}' needs the folder of its weights: give --root or set TRUECUE_DATA"
            )
        return _published(Path(root) / "weights" / PUBLISHED[name])
    if path.is_dir():
        found = [p for p in sorted(path.glob("*vae.safetensors")) if p.is_file()]
        if not found:
            raise DataError(f"{path} holds no decoder (a file that ends in vae.safetensors)")
        return PairedGenerator(load_vae(found[0]))
    if path.is_file():
        if path.with_suffix(".json").is_file() and path.suffix == ".safetensors":
            return PairedGenerator(load_vae(path))
        return _published(path)
    if ":" in name:
        return _made(name)
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"there is no generator {path}")
    known = [SHAPES, *PUBLISHED]
    raise ConfigError(f"there is no generator '{name}'{suggest(name, known)} ({', '.join(known)})")


def _published(path: Path) -> Generator:
    """A network whose layout is recognised by the names of its weights."""
    state = read_weights(path)
    names = {k for k in state if not k.endswith("num_batches_tracked")}
    if "layer_stack.1.weight" in names:
        return _dcgan(state, str(path))
    if {"fc3.weight", "fc4.weight"} <= names:
        return _vae(state, str(path))
    if names and all(k.split(".")[0].isdigit() for k in names):
        return _mlp(state, str(path))
    raise DataError(
        f"{path} holds no generator that is known (names of weights: {', '.join(sorted(names)[:4])}"
        ", ...); wrap your network in a function: file.py:function"
    )


def _dcgan(state: Mapping[str, Tensor], path: str) -> Generator:
    """Github dennisjooo/DCGAN-on-MNIST, commit afc740a1b0e6."""
    shapes = [(4, 1, 0), (3, 2, 1), (4, 2, 1), (4, 2, 1)]
    layers: list[nn.Module] = [nn.Identity()]
    for i, (kernel, stride, padding) in enumerate(shapes):
        before, after = _weight(state, f"layer_stack.{3 * i + 1}.weight", path).shape[:2]
        layers.append(nn.ConvTranspose2d(before, after, kernel, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)] if i < 3 else [nn.Tanh()]
    net = nn.Module()
    net.add_module("layer_stack", nn.Sequential(*layers))
    fit_weights(net, state, path)
    dim = state["layer_stack.1.weight"].shape[0]
    stack = net.get_submodule("layer_stack")
    return PlainGenerator(stack, dim=dim, image_range=(-1, 1), as_map=True)


def _mlp(state: Mapping[str, Tensor], path: str) -> Generator:
    """Github csinva/gan-vae-pretrained-pytorch, commit 9b6401e122fa: linear layers and ReLU."""
    names = sorted((k for k in state if k.endswith(".weight")), key=lambda k: int(k.split(".")[0]))
    layers: list[nn.Module] = []
    for name in names:
        after, before = _weight(state, name, path, 2).shape
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers[:-1], nn.Tanh())
    fit_weights(net, state, path)
    dim, n = state[names[0]].shape[1], state[names[-1]].shape[0]
    return PlainGenerator(net, dim=dim, image_range=(-1, 1), shape=_square(n, path))


def _vae(state: Mapping[str, Tensor], path: str) -> Generator:
    """The same repository: the decoder sigmoid(fc4(relu(fc3(z))))."""
    (hidden, dim), (n, _) = (_weight(state, f"fc{i}.weight", path, 2).shape for i in (3, 4))
    net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, n), nn.Sigmoid())
    places = {"fc3": "0", "fc4": "2"}
    own = {f"{places[k[:3]]}{k[3:]}": v for k, v in state.items() if k[:3] in places}
    fit_weights(net, own, path)
    return PlainGenerator(net, dim=dim, image_range=(0, 1), shape=_square(n, path))


def _weight(state: Mapping[str, Tensor], name: str, path: str, dims: int = 4) -> Tensor:
    if name not in state or state[name].dim() != dims:
        raise DataError(f"{path} is not of the layout it seems to be: no {dims}-d '{name}'")
    return state[name]


def _square(n: int, path: str) -> tuple[int, int, int]:
    side = round(n**0.5)
    if side * side != n:
        raise DataError(f"{path} gives images of {n} values, which are not square and grey")
    return 1, side, side


def load_function(what: str) -> Callable[..., Any]:
    """A function of one's own.

    Args:
        what: `file.py:function` or `package.module:function`. While the file is read, modules in
            its folder can be imported, as under `python file.py`.

    Raises:
        ConfigError: it is not written so, there is no such function or module, or the file fails.
        DataError: there is no such file.
    """
    home, colon, function = what.rpartition(":")
    if not colon or not home:
        raise ConfigError(f"'{what}' names no function; write file.py:function")
    with _naming(home):
        module = _from_file(Path(home)) if home.endswith(".py") else _from_package(home)
    found: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"{home} has no function '{function}'")
    return found


def _made(name: str) -> Generator:
    """What a user's function returns."""
    make = load_function(name)
    with torch.random.fork_rng(devices=[]), _naming(name):
        made = make()
    if not isinstance(made, Generator):
        raise ConfigError(
            f"{name} must return a truecue.Generator; it returned a"
            f" {type(made).__name__}. Wrap a network in PlainGenerator or StyleGenerator"
        )
    return made


@contextmanager
def _naming(whose: str) -> Iterator[None]:
    """Say in whose code an error was, and in which line."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{whose}: {error}") from error
    except TruecueError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{whose} failed: {type(error).__name__}: {error} ({place.filename}, line"
            f" {place.lineno}); mend it"
        ) from error


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"generator_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise DataError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    beside = str(path.resolve().parent)
    sys.path.insert(0, beside)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    finally:
        with suppress(ValueError):  # the file may have taken it off itself
            sys.path.remove(beside)
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the module cannot be imported: {error}") from None
