"""Tuning a last layer on images that lack the cue, with guards against doing harm.

Moayeri, Wang, Singla, Feizi, NeurIPS 2023, arXiv 2212.02648, section 5. The authors stop when the
gap is below 5 points, and choose and report on the same validation images. Here an epoch is chosen
on half of them, by the size of the gap, whichever sign it has, among epochs that keep the accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from truecue.config import Config
from truecue.engine.plan import Beta
from truecue.errors import DataError, Diverged
from truecue.metrics.ranking import Ranking, end_hits
from truecue.seeds import derive

_ROUNDING = 1e-9  # accuracies are ratios of counts; equal ones must not differ by their last bit

Share = Annotated[float, Field(ge=0, le=1)]


class TuneSettings(Config):
    """How a last layer is tuned, and which epoch is kept."""

    k: PositiveInt = 100
    """Training images of each class to tune on; at most half of a class."""
    replay: NonNegativeInt = 0
    """Random training images of each class that has no spurious feature. Without any, such classes
    only ever appear as wrong answers while tuning, and their logits sink."""
    lr: PositiveFloat = 0.001
    """Learning rate."""
    momentum: Beta = 0.9
    """Share of the last update that is kept."""
    batch_size: PositiveInt = 128
    """Images in a step; the short last batch of an epoch is kept."""
    epochs: PositiveInt = 20
    """Most passes over the tuning images."""
    target: Share = 0.05
    """Tuning stops once the gap is at most this large, either way."""
    tol: Share = 0.03
    """How much accuracy on all validation images an epoch may cost and still be kept; 1: any."""
    ends: PositiveInt | None = None
    """Validation images in each end of a class's ranking, within a half of them; left out: a fifth.
    Never more than half of what the class has there."""


class Judged(NamedTuple):
    """Images that a last layer is judged by, as features."""

    phi: Tensor
    """float32 [n, f], penultimate features."""
    y: Tensor
    """int64 [n], labels."""
    ranking: Ranking
    """By spuriosity; positions in `phi`. Classes that are not repaired are left out."""


class Epoch(NamedTuple):
    """What a last layer does on the images that it is chosen by."""

    epoch: int
    """0: before tuning."""
    loss: float | None
    """Mean over the epoch's batches; None before tuning."""
    accuracy: float
    """On all images, also of classes that are not repaired."""
    low: float
    """Mean over classes of the accuracy of the low end."""
    high: float
    gap: float
    """High minus low."""


class Tuned(NamedTuple):
    """A tuned last layer and how it came about."""

    head: nn.Linear
    """With the weights of the chosen epoch."""
    log: list[Epoch]
    chosen: int
    """The epoch that is kept; 0: the layer is as it was."""
    reached: bool
    """Whether the chosen epoch's gap is as small as was asked for."""


def tune_head(
    head: nn.Linear, phi: Tensor, y: Tensor, select: Judged, settings: TuneSettings, *, seed: int
) -> Tuned:
    """Tune a last layer, and keep the epoch with the smallest gap that keeps the accuracy.

    The layer keeps all its outputs, whatever classes there are to tune on. It is judged before the
    first epoch, so that an unbiased model comes back untouched; tuning ends early once an epoch
    that keeps the accuracy has a gap within the target.

    Args:
        head: of the model that is repaired; left as it is.
        phi: float32 [m, f], features of the images to tune on.
        y: int64 [m], their labels.
        select: what epochs are chosen by; not used to tune on.
        settings: how to tune and choose.
        seed: of the order.

    Raises:
        DataError: there is nothing to tune on, or no class has two ends to choose by.
        Diverged: the loss is no longer a number.

    Source: Moayeri et al. 2023, section 5, with the settings of the authors' code.
    """
    if not len(y):
        raise DataError("there are no images to tune the last layer on")
    log = [_judge(head, select, settings.ends, 0, None)]
    if math.isnan(log[0].gap):
        raise DataError("no class has two validation images to choose an epoch by")
    kept, tuned = head, deepcopy(head).requires_grad_(True)
    if not _within(log[0], settings):
        for epoch, loss in enumerate(train_epochs(tuned, phi, y, settings, seed), 1):
            log.append(_judge(tuned, select, settings.ends, epoch, loss))
            if choose(log, settings) == epoch:
                kept = deepcopy(tuned)
                if _within(log[epoch], settings):
                    break
    chosen = choose(log, settings)
    return Tuned(deepcopy(kept), log, chosen, _within(log[chosen], settings))


def train_epochs(
    head: nn.Linear, phi: Tensor, y: Tensor, settings: TuneSettings, seed: int
) -> Iterator[float]:
    """Tune a layer in place, in a new order each epoch; gives the mean loss after each.

    Raises:
        Diverged: the loss is no longer a number.
    """
    step = torch.optim.SGD(head.parameters(), lr=settings.lr, momentum=settings.momentum)
    rng = torch.Generator().manual_seed(derive(seed, "repair", "order"))
    for epoch in range(1, settings.epochs + 1):
        total = torch.zeros(())
        for ids in torch.randperm(len(y), generator=rng).split(settings.batch_size):
            loss = F.cross_entropy(head(phi[ids]), y[ids])
            step.zero_grad()
            loss.backward()
            step.step()
            total += loss.detach() * len(ids)
        mean = float(total) / len(y)
        if not math.isfinite(mean):
            raise Diverged(
                f"tuning the last layer diverged in epoch {epoch}: the loss is {mean}. The learning"
                f" rate of {settings.lr} is too large for these features; set lr to a smaller one"
            )
        yield mean


def choose(log: list[Epoch], settings: TuneSettings) -> int:
    """The epoch with the smallest gap, of either sign, among those that keep the accuracy.

    Of equal ones the first. Epoch 0 always keeps it, so that there is always one.
    """
    least = log[0].accuracy - settings.tol - _ROUNDING
    return min((e for e in log if e.accuracy >= least), key=lambda e: abs(e.gap)).epoch


def _within(epoch: Epoch, settings: TuneSettings) -> bool:
    return abs(epoch.gap) <= settings.target + _ROUNDING


@torch.no_grad()
def _judge(
    head: nn.Linear, select: Judged, ends: int | None, epoch: int, loss: float | None
) -> Epoch:
    right = head(select.phi).argmax(1) == select.y
    hits = end_hits(right, select.ranking, ends)
    low, high = (float((h.double() / hits.k).mean()) for h in (hits.low, hits.high))
    return Epoch(epoch, loss, float(right.double().mean()), low, high, high - low)


def plain(log: list[Epoch]) -> list[dict[str, Any]]:
    """A log as plain values."""
    return [epoch._asdict() for epoch in log]
