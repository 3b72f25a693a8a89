"""What a report shows of DeFund: scores, errors, ranks, and what upweighting them is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from truecue.audit.rank import correlation_map
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.judge import aligned_mask, goes_with
from truecue.engine.log import by_epoch
from truecue.fitting import Fitted
from truecue.methods.base import Method
from truecue.methods.defund import DeFund
from truecue.metrics.intervals import wilson
from truecue.metrics.rank import rank_entropy, spectrum
from truecue.report.parts import measure
from truecue.report.pictures import Picture
from truecue.report.show import picture_of

BINS = 20
"""Of the histograms of scores."""
SHEET = 32
"""Images with the highest scores that are shown."""
SIDE = 64
"""Features a side of a map of correlations, at most; more are averaged in blocks."""
POINTS = 100
"""Points of a precision-recall curve that are kept at most."""


def lowrank_part(
    method: Method, fitted: Fitted, data: Splits, device: Device
) -> tuple[dict[str, Any] | None, Picture | None]:
    """DeFund's part of the report and the contact sheet; None and None for other methods.

    With bias labels of training images, which the method has not seen, scores are split by them;
    in the variant `linear` a last layer is trained with the truly conflicting images drawn more
    often, to show what perfect scores would give.

    Args:
        method: by which the network was fitted.
        fitted: the network and its run.
        data: the splits with all attributes.
        device: where to compute.
    """
    told = fitted.run.told
    if not isinstance(method, DeFund) or "errors" not in told:
        return None, None
    found, train, mask = told["errors"], data.train, aligned_mask(data)
    ids, errors = found["ids"], found["errors"]
    agree = goes_with(train, data.bias, mask)
    agree = None if agree is None else agree[ids]
    mean = found["scores"][found["chosen"]].mean(0)
    part = {
        "variant": method.variant,
        "strengths": list(method.lambdas()),
        "cutoff": method.cutoff if len(method.lambdas()) > 1 else None,
        "upweight": method.upweight,
        "labelled": len(ids),
        "of": len(train),
        "errors": _errors(errors, agree)
        | {"by_class": torch.bincount(train.y[ids][errors], minlength=len(train.classes)).tolist()},
        "single": [
            {"strength": k, **_errors(wrong, agree), **_curve(score, agree)}
            for k, wrong, score in zip(
                found["strengths"].tolist(), found["wrong"], found["scores"], strict=True
            )
        ],
        "mean": _curve(mean, agree) if len(method.lambdas()) > 1 else None,
        "histogram": _histogram(mean, agree),
        "spectra": _spectra(told["encoders"]),
        "correlations": _correlations(told["encoders"], method.lambdas()),
        "training": _training(fitted),
        "table": _table(method, fitted, data, agree, mask, device),
    }
    order = mean.argsort(descending=True)[:SHEET]
    said = [f"score {score:.2f}" for score in mean[order].tolist()]
    return part, picture_of(train, ids[order], data.bias, mask, said)


def _errors(errors: Tensor, agree: Tensor | None) -> dict[str, Any]:
    """How many errors there are, and how well they match the conflicting images."""
    part: dict[str, Any] = {"count": int(errors.sum()), "share": float(errors.double().mean())}
    part |= {"precision": None, "recall": None}
    if agree is not None:
        right, known = int((errors & (agree == 0)).sum()), int((errors & (agree >= 0)).sum())
        part["precision"] = wilson(right, known).to_dict()
        part["recall"] = wilson(right, int((agree == 0).sum())).to_dict()
    return part


def _curve(scores: Tensor, agree: Tensor | None) -> dict[str, Any]:
    """Precision against recall of the conflicting images, and the area below; null without them.

    Points are kept evenly in recall: the conflicting images are few, and all of them can stand
    within the first hundredth of the ranking.
    """
    import numpy as np
    from sklearn.metrics import average_precision_score, precision_recall_curve

    if agree is None or not bool((agree == 0).any()) or not bool((agree == 1).any()):
        return {"auprc": None, "pr": None}
    known = agree >= 0
    truth, values = (agree[known] == 0).numpy(), scores[known].numpy()
    precision, recall, _ = precision_recall_curve(truth, values)
    recall, first = np.unique(recall[::-1], return_index=True)  # the best precision of each recall
    kept = np.unique(np.searchsorted(recall, np.linspace(0, 1, POINTS)))
    pairs = [
        (round(float(r), 4), round(float(p), 4))
        for r, p in zip(recall[kept], precision[::-1][first[kept]], strict=True)
    ]
    return {"auprc": float(average_precision_score(truth, values)), "pr": pairs}


def _histogram(scores: Tensor, agree: Tensor | None) -> dict[str, list[int]]:
    """Counts in `BINS` bins of 0 to 1: of aligned, conflicting and other images, or of all."""
    places = (scores * BINS).long().clamp(0, BINS - 1)
    if agree is None:
        return {"all": torch.bincount(places, minlength=BINS).tolist()}
    kinds = {"aligned": 1, "conflicting": 0, "not known": -1}
    counts = {
        name: torch.bincount(places[agree == value], minlength=BINS).tolist()
        for name, value in kinds.items()
    }
    return {name: row for name, row in counts.items() if any(row)}


def _spectra(told: Mapping[str, Tensor]) -> dict[str, Any]:
    rows = []
    for strength, features in zip(told["strengths"].tolist(), told["features"], strict=True):
        sizes = spectrum(features)
        entropy = rank_entropy(sizes)
        share = sizes / sizes.sum().clamp(min=1e-300)
        rows.append({
            "strength": strength, "entropy": entropy,
            "effective_rank": torch.tensor(entropy).exp().item(),
            "sizes": [float(f"{s:.4g}") for s in share.tolist()],
        })  # fmt: skip
    return {"n": told["features"].shape[1], "split": "train", "center": False, "of": rows}


def _correlations(
    told: Mapping[str, Tensor], chosen: tuple[float, ...]
) -> list[dict[str, float | list[list[float]]]]:
    """Which features of the encoder of strength 0 go together, and which of the strongest one."""
    features = dict(zip(told["strengths"].tolist(), told["features"], strict=True))
    rows: list[dict[str, float | list[list[float]]]] = []
    for strength in sorted({0.0, max(chosen)}):
        values = correlation_map(features[strength].double(), SIDE).tolist()
        rows.append({"strength": strength, "absolute": [[round(v, 2) for v in r] for r in values]})
    return rows


def _training(fitted: Fitted) -> list[dict[str, Any]]:
    """The task's loss and the rank penalty of every encoder, over its epochs."""
    terms = ["task", "rank_penalty"]
    rows = [
        {"stage": row["stage"], "epoch": row["epoch"]} | {k: round(row[k], 6) for k in terms}
        for row in by_epoch(fitted.run.log.rows, terms)
    ]  # fmt: skip
    return rows[:: max(1, len(rows) // 1000)]


def _table(
    method: DeFund, fitted: Fitted, data: Splits, agree: Tensor | None, mask: Tensor | None,
    device: Device,
) -> list[dict[str, Any]]:  # fmt: skip
    """Test accuracies of the plain classifier, with errors of each kind drawn more often."""
    run, strengths = fitted.run, ", ".join(f"{k:g}" for k in method.lambdas())
    labels = method.labels_used()["training"]
    alone = "last layer alone, " if method.variant == "semi" else ""  # the others are fine-tuned
    nets = {
        "plain": (f"plain: {alone}nothing drawn more often", labels),
        "errors-0": ("errors of strength 0 drawn more often", labels),
        "biased-0": ("plain: nothing drawn more often", labels),
        "debiased": (f"errors of strength {strengths} drawn more often", labels),
    }
    rows = [
        {"name": name, "labels": used, "test": measure(run.branches[key].net, data.test, data.bias,
                                                        mask, device)}
        for key, (name, used) in nets.items() if key in run.branches
    ]  # fmt: skip
    if method.variant == "linear" and agree is not None and bool((agree == 0).any()):
        net, train = fitted.net, data.train
        features = run.apply(net.features, train)
        best = method.last_layer("oracle", net, features, train, agree == 0, run).net
        rows.append({
            "name": "oracle: conflicting images drawn more often",
            "labels": "class and bias labels of training images (for comparison only)",
            "test": measure(best, data.test, data.bias, mask, device),
        })  # fmt: skip
    return rows
