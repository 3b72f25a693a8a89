"""Checkpoints: everything that exact continuation needs, written whole or not at all."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from truecue.atomic import atomic
from truecue.engine.device import Device
from truecue.errors import DataError


def save(path: Path, state: dict[str, Any], device: Device) -> None:
    """Write a state (tensors and plain values), with every process's generator state.

    Raises:
        StorageError: it could not be written; an older checkpoint is untouched.
    """
    states = device.gather(_rng_state(device))
    if device.first:
        with atomic(path) as temporary, temporary.open("wb") as file:
            torch.save(state | {"rng": states}, file)
    device.barrier()


def load(path: Path, device: Device) -> dict[str, Any]:
    """Read what `save` wrote and put this process's generators back where they were.

    Raises:
        DataError: the file is not a checkpoint, or was written by another number of processes.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not a checkpoint that can be read ({error}); remove it, and the stage"
            " starts again"
        ) from error
    states = state.pop("rng")
    if len(states) != device.world:
        raise DataError(
            f"{path} was written by {len(states)} processes, and this run has {device.world};"
            " go on with the same number"
        )
    torch.set_rng_state(states[device.rank]["cpu"])
    if device.device.type == "cuda":
        torch.cuda.set_rng_state(states[device.rank]["cuda"], device.device)
    return state


def _rng_state(device: Device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device.device)
    return state
