"""How far changing the bias latent changes what is said of a picture, as shares with intervals."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from truecue.audit.halves import Change
from truecue.metrics.intervals import Estimate, wilson


class Separation(NamedTuple):
    """How well the latents are separated: what changing the bias latent does to both halves.

    The changed pictures are given to both encoders again, and compared with the reconstructions.
    """

    n: int
    """Pictures judged."""
    flips: Estimate
    """Share in which the biased half says another class than for the reconstruction."""
    to_target: Estimate
    """Share in which it says the class that was aimed at."""
    stays: Estimate
    """Share in which the signal half says the same class as for the reconstruction."""
    separated: Estimate
    """Share in which both happen: the biased half flips and the signal half stays."""
    change: float
    """Mean absolute change of the pixels, in [0, 1]."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return _plain(self)


class Effect(NamedTuple):
    """What changed latents do to a classifier that the biased half follows.

    The classifier's answers to the changed pictures are compared with those to the reconstructions.
    Nothing was trained to change its answers.
    """

    n: int
    """Pictures judged."""
    flips: Estimate
    """Share in which the classifier says another class than for the reconstruction."""
    to_target: Estimate
    """Share in which it says the class that was aimed at."""
    half_flips: Estimate
    """Share in which the biased half, shown the picture, says another class."""
    half_to_target: Estimate
    """Share in which the biased half, shown the picture, says the class that was aimed at."""
    change: float
    """Mean absolute change of the pixels, in [0, 1]."""

    def to_dict(self) -> dict[str, object]:
        """For JSON; no signal half could stay, so `stays` and `separated` are None."""
        return _plain(self) | {"stays": None, "separated": None}


def separation(change: Change, target: Tensor) -> Separation:
    """How often the biased half's answer flips while the signal half's stays.

    Args:
        change: n images before and after.
        target: int64 [n], the class that the biased half was meant to say.
    """
    n = len(target)
    flips, to_target = change.first.bias != change.then.bias, change.then.bias == target
    stays = change.first.judge == change.then.judge
    hits = flips, to_target, stays, flips & stays
    one, two, three, both = (wilson(int(hit.sum()), n) for hit in hits)
    mean = float(change.heat.mean()) if n else float("nan")
    return Separation(n, one, two, three, both, mean)


def effect(change: Change, target: Tensor) -> Effect:
    """How often a classifier's answer moves, and the biased half's beside it.

    Args:
        change: n images before and after, with the classifier for a judge.
        target: int64 [n], the class that it was meant to say.
    """
    n, first, then = len(target), change.first, change.then
    hits = (
        first.judge != then.judge, then.judge == target,
        first.bias != then.bias, then.bias == target,
    )  # fmt: skip
    one, two, three, four = (wilson(int(hit.sum()), n) for hit in hits)
    mean = float(change.heat.mean()) if n else float("nan")
    return Effect(n, one, two, three, four, mean)


def _plain(measured: Separation | Effect) -> dict[str, object]:
    return {
        key: value.to_dict() if isinstance(value, Estimate) else value
        for key, value in measured._asdict().items()
    }
