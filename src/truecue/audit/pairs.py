"""How similar a network makes pairs of images, by whether they share class and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, predictions
from truecue.engine.log import by_epoch
from truecue.engine.run import Pairs
from truecue.losses.contrastive import similarities
from truecue.losses.fairkl import (
    FROM_PAIRS,
    SETS,
    Moments,
    Variant,
    exact_moments,
    fairkl,
    from_moments,
    pair_weights,
)
from truecue.nets.classifier import Classifier
from truecue.seeds import derive

BINS = 50
"""Bars of a histogram over similarities from -1 to 1."""
MOST = 1500
"""Images whose pairs are counted in a histogram."""
DOTS = 400
"""Images in a scatter plot."""
ROWS = 400
"""Rows of the history of training, at most."""
_PARTS = ("pos", "neg")
_LOGGED = [
    *(f"{what}_{k}" for what in ("pairs", "there", "mean") for k in SETS),
    *(f"skipped_{part}" for part in _PARTS),
]


def pair_numbers(
    nets: Mapping[str, Classifier],
    test: ImageSet,
    bias: str | None,
    shown: Pairs,
    biased: Classifier | None,
    rows: Sequence[Mapping[str, Any]],
    device: Device,
) -> dict[str, Any] | None:
    """What a report says and draws of pairs of test images, as plain values.

    Means, deviations and penalties are those of all pairs; histograms are of the pairs of up to
    1,500 images. `official` needs the similarities themselves and is of those 1,500 as well.

    Args:
        nets: the networks to compare, by name.
        test: images that training has not seen; unbiased ones tell most.
        bias: name of their attribute that misleads, where it is known.
        shown: what the method said of it.
        biased: the network that guessed bias labels, if one did.
        rows: of the run's log.
        device: where to compute.

    Returns:
        None where there is no bias label, given or guessed.
    """
    guessed = bias is None or bias not in test.attributes
    if not guessed:
        values, names = test.attributes[str(bias)]
    elif shown.guessed_by is not None and biased is not None:
        values, names = predictions(biased, test, device), test.classes
    else:
        return None
    some = _some(len(test), MOST)
    dots = some[:DOTS]
    models = {}
    for name, net in nets.items():
        z = apply(net.features, test, device)
        moments = exact_moments(z, test.y, values)
        s = similarities(z[some])
        models[name] = {
            **_moments(moments),
            "penalties": _penalties(moments, s, test.y[some], values[some]),
            "histogram": _histogram(s, pair_weights(test.y[some], values[some])),
            "scatter": [[round(v, 3) for v in row] for row in _plane(z, dots).tolist()],
        }
    return {
        "bias": bias if not guessed else None,
        "guessed_by": shown.guessed_by if guessed else None,
        "trained_on_guesses": shown.guessed_by is not None,
        "images": len(test),
        "sampled": len(some),
        "sets": list(SETS),
        "bins": BINS,
        "models": models,
        "dots": {
            "classes": list(test.classes), "values": list(names),
            "y": test.y[dots].tolist(), "bias": values[dots].tolist(),
        },
        "history": pair_history(rows),
        "skipped": skipped_shares(rows),
    }  # fmt: skip


def pair_history(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the training batches of each epoch: pairs, means, and what was skipped.

    A mean is over the batches that have pairs of its kind; null where none has. Guessed labels
    count as the likeliest ones, by which nothing need be skipped that lacks pairs.

    Args:
        rows: of a run's log; those without such entries are passed over.
    """
    found = []
    for row in by_epoch(rows, _LOGGED):
        share = {k: row[f"there_{k}"] for k in SETS}
        means = {k: round(row[f"mean_{k}"] / share[k], 5) if share[k] else None for k in SETS}
        found.append({
            "epoch": row["epoch"],
            "pairs": {k: row[f"pairs_{k}"] for k in SETS},
            "means": means,
            "skipped": {part: row[f"skipped_{part}"] for part in _PARTS},
        })  # fmt: skip
    return found[:: -(-len(found) // ROWS) or 1]


def skipped_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Share of all batches in which the part of positives, and of negatives, was skipped.

    Where labels were guessed: in which it would have been, by the likeliest ones.

    Args:
        rows: of a run's log; those without such entries are passed over.

    Returns:
        None where there was no FairKL.
    """
    epochs = by_epoch(rows, [f"skipped_{part}" for part in _PARTS])
    if not epochs:
        return None
    steps = sum(row["steps"] for row in epochs)
    return {
        part: sum(row["steps"] * row[f"skipped_{part}"] for row in epochs) / steps
        for part in _PARTS
    }


def _some(n: int, most: int) -> Tensor:
    """Positions of some of n images, the same for the same n."""
    rng = torch.Generator().manual_seed(derive("pairs", n))
    return torch.randperm(n, generator=rng)[:most]


def _moments(moments: Moments) -> dict[str, list[float]]:
    return {
        "pairs": [int(v) for v in moments.n.tolist()],
        "means": [round(v, 6) for v in moments.mean.tolist()],
        "stds": [round(v, 6) for v in moments.std.tolist()],
    }


def _penalties(moments: Moments, s: Tensor, y: Tensor, bias: Tensor) -> dict[str, Any]:
    """Each variant's two parts and their sum; null for a part that could not be computed."""
    found = {}
    for variant in get_args(Variant):
        if variant == "none":
            continue
        if variant in FROM_PAIRS:
            fair = fairkl(s, y, bias, variant)
        else:
            fair = from_moments(moments, variant)
        parts = [
            None if skipped else round(float(value), 6)
            for value, skipped in zip((fair.pos, fair.neg), fair.skipped.tolist(), strict=True)
        ]
        found[variant] = {"pos": parts[0], "neg": parts[1], "sum": round(float(fair.loss), 6)}
    return found


def _histogram(s: Tensor, weights: Tensor) -> list[list[int]]:
    """Ordered pairs by set and similarity, [4, BINS]."""
    place = ((s + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    return [torch.bincount(place[w > 0], minlength=BINS).tolist() for w in weights]


def _plane(z: Tensor, dots: Tensor) -> Tensor:
    """Places of some rows on the two axes along which all vary most, each axis' sign fixed."""
    z = torch.nn.functional.normalize(z.double(), dim=1, eps=1e-12)
    centred = z - z.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -2:].flip(1)
    strongest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    places: Tensor = centred[dots] @ (axes * strongest.sign())
    return places
