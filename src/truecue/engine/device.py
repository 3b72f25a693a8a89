"""Where a run computes: the one file that knows lightning-fabric."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from truecue.engine.learner import Step
from truecue.errors import ConfigError

Precision = Literal["32-true", "bf16-mixed"]


class Device:
    """One process's view of the hardware: device, precision, its rank among the processes.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
        precision: "32-true" or "bf16-mixed". fp16 is not offered: its loss scaler would have to
            be part of every checkpoint.
        devices: number of processes with a device each. More than one starts them, unless
            torchrun has done so.
        deterministic: use only kernels that give the same bits every time (matters on GPUs).
    """

    def __init__(
        self,
        accelerator: str = "auto",
        *,
        precision: Precision = "32-true",
        devices: int = 1,
        deterministic: bool = False,
    ):
        check_accelerator(accelerator)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        from lightning_fabric import Fabric

        devices = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
        nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
        many = devices * nodes > 1
        try:
            self._fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=nodes,
                precision=precision,
                strategy="ddp" if many else "auto",
            )
            if many:
                self._fabric.launch()
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"cannot compute on {devices} x '{accelerator}': {error}") from error
        self.precision: Precision = precision
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.world: int = self._fabric.world_size
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if self.device.type == "cuda" and not deterministic:
            torch.set_float32_matmul_precision("high")

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wrap(self, learner: nn.Module, *, turns: bool) -> Callable[[Any], Step]:
        """What the loop calls for a step: the learner itself, or its data-parallel wrapper.

        In one process the wrapper would only walk through every batch to convert floating-point
        inputs, which there are none of: pixels are uint8 until inside the network.
        """
        if self.world == 1:
            return learner
        # with turns, the groups that wait have no gradients, which the wrapper must look for
        strategy: Any = self._fabric.strategy
        strategy._ddp_kwargs["find_unused_parameters"] = turns
        wrapped: Callable[[Any], Step] = self._fabric.setup_module(learner)
        return wrapped

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward pass, or nothing at all."""
        return nullcontext() if self.precision == "32-true" else self._fabric.autocast()

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a scalar loss."""
        if self.world == 1:
            loss.backward()
        else:
            self._fabric.backward(loss)

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes)

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: each has its own batch statistics."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            self._fabric.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Any picklable value of every process, in their order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def describe(self) -> str:
        """The hardware in words, for reports."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"cpu, {torch.get_num_threads()} threads ({_processor()})"
        return f"{self.world} x {name}" if self.world > 1 else name


def check_accelerator(name: str) -> None:
    """Refuse a kind of device before any work is done for it.

    Raises:
        ConfigError: the name is none of auto, cpu, cuda and mps, or there is no such device here.
    """
    if name not in {"auto", "cpu", "cuda", "mps"}:
        raise ConfigError(f"the device (--device) is auto, cpu, cuda or mps; got '{name}'")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, True):
        raise ConfigError(
            f"there is no {name.upper()} device that torch can use; choose auto or cpu"
        )


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for reuse; whether it does.

    glibc hands large blocks back to the system and asks for them again in each forward pass, and
    the system clears them each time: half of the time of a convolutional network on a CPU. Only
    commands and the workers of benches do this, since it is for the whole process.
    """
    import ctypes

    most, trim_threshold, mmap_threshold = 2**31 - 1, -1, -3  # names of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        set_both = [libc.mallopt(name, most) for name in (trim_threshold, mmap_threshold)]
    except (OSError, AttributeError):  # another C library
        return False
    return all(set_both)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
        return lines[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
