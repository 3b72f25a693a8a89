"""Checkpoints: everything that exact continuation needs, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from truecue.atomic import atomic
from truecue.engine.device import Device
from truecue.errors import DataError, StorageError


def save(path: Path, state: dict[str, Any], device: Device) -> None:
    """Write a state (tensors and plain values), with every process's generator state.

    Raises:
        StorageError: it could not be written; an older checkpoint is untouched.
    """
    states = device.gather(_rng_state(device))
    problem: StorageError | None = None
    if device.first:
        for litter in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
            litter.unlink(missing_ok=True)
        try:
            _write(path, state | {"rng": states})
        except StorageError as error:
            problem = error
    if device.agree(problem is not None):
        raise problem or StorageError(f"the first process could not write {path}")


def load(path: Path, device: Device) -> dict[str, Any]:
    """Read what `save` wrote and put this process's generators back where they were.

    Raises:
        DataError: the file is not a checkpoint, or was written by another number of processes.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        states = state.pop("rng")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch.load lets pickle's many errors through
        # what torch says is long, and advises to load without its guard against foreign code
        raise DataError(
            f"{path} is not a checkpoint that can be read: it is cut off, damaged or of another"
            " kind; remove it, and the stage starts again"
        ) from error
    if len(states) != device.world:
        raise DataError(
            f"{path} was written by {len(states)} processes, and this run has {device.world};"
            " go on with the same number"
        )
    torch.set_rng_state(states[device.rank]["cpu"])
    if device.device.type == "cuda":
        torch.cuda.set_rng_state(states[device.rank]["cuda"], device.device)
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's writer hides the file's error behind its own
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _rng_state(device: Device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device.device)
    return state
