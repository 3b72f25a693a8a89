"""The classifier that an audit trains where none is given: small, and soon done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue import api
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.plan import Adam, Patience, Plan
from truecue.engine.run import check_takes
from truecue.methods.erm import ERM
from truecue.nets.build import build
from truecue.nets.classifier import Classifier

_BATCH = 64
_IMAGES = 30_000  # that are seen in training, about
_FEWEST, _MOST = 10, 60  # epochs
_LEAST = 0.001  # by which the loss must fall
_SMALL = 32  # pixels; smaller images get linear layers


def usual_plan(data: Splits) -> ERM:
    """Plain training that is soon done: few epochs of many images, more of few.

    About 30,000 images are seen, in 10 to 60 epochs. The epoch with the lowest loss on validation
    images is kept, and training ends where it has not fallen for a sixth of the epochs; without
    validation images the last epoch is kept.
    """
    epochs = min(_MOST, max(_FEWEST, _IMAGES // max(1, len(data.train))))
    plan = Plan(epochs=epochs, batch_size=_BATCH, optimizer=Adam(lr=1e-3))
    if data.val is None:
        return ERM(plan=plan)
    stop = Patience(epochs=max(3, epochs // 6), least=_LEAST)
    return ERM(plan=plan.override({"select": "val_loss", "stop": stop.to_dict()}))


def usual_arch(height: int, width: int) -> str:
    """Three convolutions, or linear layers for square images below 32 pixels."""
    return "mlp-5" if height == width < _SMALL else "conv3"


def train_small(
    data: Splits,
    out: Path,
    *,
    plan: Mapping[str, Any] | None = None,
    arch: str | None = None,
    seed: int = 0,
    device: Device | None = None,
    facts: Mapping[str, Any] | None = None,
    fresh: bool = False,
    quiet: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Classifier, dict[str, Any]]:
    """A plainly trained classifier, or the one that an earlier call trained or began.

    Args:
        data: the splits; attributes are not looked at.
        out: the run's folder.
        plan: changes of `usual_plan` by dotted name, such as `plan.epochs`.
        arch: architecture; None: that of `usual_arch`.
        seed: of initialisation and order.
        device: where to compute; None: the best there is.
        facts: where the data comes from, see `truecue.train`.
        fresh: start over where the folder holds another run.
        quiet: show no progress.
        tell: called before training with a sentence that says what is trained, and how long that
            takes at most.

    Returns:
        The classifier; and its architecture and epochs, as plain values.

    Raises:
        ConfigError: a setting cannot be used, or there is no such architecture.
        DataError: the images are not square, and the architecture takes no others.
        TruecueError: see `truecue.train`.
    """
    device = device or Device()
    method = usual_plan(data).override(plan or {})
    _, height, width = data.train.shape
    arch = arch or usual_arch(height, width)
    if not (out / "model.safetensors").is_file():
        seconds = _step_seconds(data.train, arch, method.plan.batch_size, device)
        n, epochs = len(data.train), method.plan.epochs
        total = seconds * epochs * -(-n // method.plan.batch_size)
        early = ", fewer where the validation loss stops falling" if method.plan.stop else ""
        tell(
            f"No model is given: training one ({arch}) on {n:,} images of {height} x {width}"
            f" pixels, at most {epochs} epochs{early}. That takes about {_duration(total)} at most."
            " Give your own with --model"
        )
    trained = api.train(
        method, data, out=out, seed=seed, arch=arch, baseline=False, device=device, fresh=fresh,
        quiet=quiet, facts=facts,
    )  # fmt: skip
    (stage,) = trained.report["models"]["erm"]["stages"]
    return trained.net, {"arch": arch, "epochs": stage["epochs"], "kept": stage["best_epoch"]}


def _step_seconds(images: ImageSet, arch: str, batch: int, device: Device) -> float:
    """How long a step of training takes: the second of two."""
    with torch.random.fork_rng():
        channels, height, width = images.shape
        net = build(
            arch, channels=channels, size=max(height, width), n_classes=len(images.classes)
        ).to(device.device)
    check_takes(net, images)
    some = images.select(torch.arange(min(batch, len(images))))
    x, y = some.images[:].to(device.device), some.y.to(device.device)
    for _ in range(2):
        began = time.monotonic()
        loss: Tensor = F.cross_entropy(net(x), y)
        loss.backward()
        loss.item()
    return time.monotonic() - began


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
