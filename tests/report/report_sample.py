"""A realistic report to test with and to look at: `python tests/report/report_sample.py OUT`.

Coloured handwritten digits, a plain model that goes by the colour and one that mostly does not.
The accuracies are drawn, not trained; the pictures are real.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truecue.report import Picture, write_report

COLOURS = {
    "red": (230, 60, 50),
    "green": (60, 170, 75),
    "yellow": (250, 220, 50),
    "blue": (60, 105, 230),
    "orange": (245, 145, 40),
    "purple": (150, 60, 190),
    "cyan": (70, 220, 235),
    "magenta": (240, 70, 220),
    "lime": (190, 240, 70),
    "pink": (250, 180, 190),
}
CLASSES = [str(k) for k in range(10)]
ALIGNED = [[y == a for a in range(10)] for y in range(10)]


def wilson(value: float, n: int) -> dict[str, Any]:
    z = 1.96
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": value, "low": middle - half, "high": middle + half, "n": n}


def scores(aligned: float, conflicting: float, seed: int, n: int = 2000) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    total = np.full((10, 10), n // 100)
    total[4, 7] = 0
    wanted = np.where(np.eye(10) > 0, aligned, conflicting)
    hits = rng.binomial(total, np.clip(wanted + rng.normal(0, 0.08, (10, 10)), 0, 1))
    on = np.eye(10) > 0
    share = hits / np.maximum(total, 1)
    by_class = hits.sum(1) / total.sum(1)
    return {
        "average": wilson(hits.sum() / total.sum(), int(total.sum())),
        "unbiased": wilson(share[total > 0].mean(), int(total.sum())),
        "aligned": wilson(hits[on].sum() / total[on].sum(), int(total[on].sum())),
        "conflicting": wilson(hits[~on].sum() / total[~on].sum(), int(total[~on].sum())),
        "worst_group": wilson(share[total > 0].min(), n // 100),
        "worst_class": wilson(by_class.min(), n // 10),
        "cells": {"hits": hits.tolist(), "total": total.tolist()},
    }


def curve(stage: str, branch: str, epochs: int, aligned: float, conflicting: float) -> list[Any]:
    points = []
    for split, epoch in itertools.product(("train", "val"), range(1, epochs + 1)):
        grown = 1 - math.exp(-4 * epoch / epochs)
        low = 0.1 + (conflicting - 0.1) * grown + 0.02 * math.sin(epoch)
        high = 0.1 + (aligned - 0.1) * (1 - math.exp(-9 * epoch / epochs))
        point = {"stage": stage, "epoch": epoch, "branch": branch, "split": split}
        points.append({**point, "average": high, "aligned": high, "conflicting": low})
    return points


def losses(stage: str, epochs: int) -> list[Any]:
    steps = range(1, 10 * epochs + 1)
    fall = {k: 2.3 * math.exp(-3 * k / len(steps)) + 0.05 * math.sin(k) ** 2 for k in steps}
    return [{"stage": stage, "epoch": k / 10, "loss": fall[k]} for k in steps]


def model(method: str, title: str, aligned: float, conflicting: float, seed: int) -> dict[str, Any]:
    return {
        "method": method,
        "title": title,
        "settings": {"plan": {"epochs": 100, "batch": 256}, "optimizer": "adam", "lr": 1e-3},
        "arch": "mlp-5",
        "parameters": 266_610,
        "labels_used": {"training": "class labels only", "choosing": "none"},
        "selection": "last",
        "seconds": 9.1,
        "images_per_second": 30_000,
        "test": scores(aligned, conflicting, seed),
        "val": None,
        "branches": {},
        "curves": curve("training", "model", 30, aligned, conflicting),
        "losses": losses("training", 30),
        "stages": [
            {
                "name": "training",
                "epochs": 30,
                "steps": 600,
                "seconds": 5.0,
                "images_per_second": 35_000,
            }
        ],
        "warnings": [],
    }


def sample_report() -> dict[str, Any]:
    erm = model("erm", "Plain training (ERM)", 0.99, 0.21, 1)
    denetdm = model("denetdm", "DeNetDM", 0.92, 0.72, 2)
    denetdm["branches"] = {
        "deep": {"role": "biased", "test": scores(1.0, 0.03, 3)},
        "shallow": {"role": "debiased", "test": scores(0.88, 0.66, 4)},
    }
    denetdm["curves"] = (
        curve("experts", "deep", 60, 0.99, 0.03)
        + curve("experts", "shallow", 60, 0.87, 0.67)
        + curve("target", "target", 40, 0.93, 0.74)
    )
    denetdm["losses"] = losses("experts", 60) + losses("target", 40)
    denetdm["stages"] = [
        {**denetdm["stages"][0], "name": name, "epochs": epochs}
        for name, epochs in (("experts", 60), ("target", 40))
    ]
    denetdm["val"] = scores(0.93, 0.7, 5, 500)
    rng = np.random.default_rng(0)
    train = np.where(np.eye(10) > 0, 490, 0) + rng.binomial(3, 0.35, (10, 10)) * (1 - np.eye(10))
    return {
        "format": 1,
        "kind": "train",
        "truecue": "0.1.0",
        "created": "2026-11-22T18:00:00+00:00",
        "command": "truecue demo --out demo-report --seed 0",
        "task": {
            "data": "digits",
            "settings": {"conflicting": 0.01, "size": 28, "noise": 0.1},
            "classes": CLASSES,
            "bias": "colour",
            "bias_values": list(COLOURS),
            "aligned": ALIGNED,
            "sizes": {"train": 5000, "val": 500, "test": 1980},
            "train_cells": train.astype(int).tolist(),
            "notes": ["Handwritten digits that come with scikit-learn, shifted and coloured."],
        },
        "seed": 0,
        "device": "cpu, 2 threads (AMD EPYC)",
        "seconds": 71.2,
        "versions": {"torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.2"},
        "labels_used": {"training": "class labels only", "choosing": "none"},
        "selection": "last",
        "before": "erm",
        "after": "denetdm",
        "models": {"erm": erm, "denetdm": denetdm},
        "suspects": {
            "model": "denetdm",
            "branches": ["deep", "shallow"],
            "shown": 48,
            "disagree": 312,
            "of": 5000,
            "precision": wilson(0.29, 312),
            "recall": wilson(0.91, 98),
            "strict": {"disagree": 120, "precision": wilson(0.75, 120), "recall": wilson(0.9, 98)},
        },
    }


def digit_images(y: np.ndarray, a: np.ndarray, seed: int) -> torch.Tensor:
    """Digits y in colours a as uint8 [n, 3, 28, 28]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(seed)
    colours = np.array(list(COLOURS.values()))
    images = np.zeros((len(y), 3, 28, 28), np.uint8)
    for k, (label, colour) in enumerate(zip(y, a, strict=True)):
        glyph = digits.images[rng.choice(np.flatnonzero(digits.target == label))] / 16
        large = np.kron(glyph, np.ones((3, 3)))
        images[k, :, 2:26, 2:26] = (colours[colour][:, None, None] * large).astype(np.uint8)
    return torch.from_numpy(images)


def sample_pictures() -> dict[str, Picture]:
    rng = np.random.default_rng(7)
    y = np.arange(10)
    a = (y + rng.integers(1, 10, 10)) % 10
    names = list(COLOURS)
    s = rng.integers(0, 10, 48)
    odd = rng.random(48) < 0.4
    b = np.where(odd, (s + rng.integers(1, 10, 48)) % 10, s)
    suspects = [
        f"labelled {k} · deep says {m} · shallow says {k}" for k, m in zip(s, b, strict=True)
    ]
    marks: list[str | None] = ["conflicting" if o else "aligned" for o in odd]
    wrong = [f"a {k}; plain training said {m}" for k, m in zip(y, a, strict=True)]
    none: list[str | None] = [None] * 10
    return {
        "examples_aligned": Picture(
            digit_images(y, y, 1), [f"{k}, {names[k]}" for k in y], list(none)
        ),
        "examples_conflicting": Picture(
            digit_images(y, a, 2), [f"{k}, {names[m]}" for k, m in zip(y, a, strict=True)], none
        ),
        "before_wrong": Picture(digit_images(y, a, 3), wrong, none),
        "suspects": Picture(digit_images(s, b, 4), suspects, marks),
    }


def without_bias(report: dict[str, Any]) -> dict[str, Any]:
    """The same report for images without bias labels."""
    report["task"].update(bias=None, bias_values=[], aligned=None, train_cells=None)
    for entry in report["models"].values():
        parts = [entry.get("test"), entry.get("val")]
        parts += [branch["test"] for branch in entry["branches"].values()]
        for test in filter(None, parts):
            for name in ("unbiased", "aligned", "conflicting", "worst_group"):
                test[name] = {"value": None, "low": None, "high": None, "n": 0}
            cells = test["cells"]
            test["cells"] = {key: [[sum(row)] for row in rows] for key, rows in cells.items()}
        for point in entry["curves"]:
            point.update(aligned=None, conflicting=None)
    report["suspects"].update(precision=None, recall=None)
    report["suspects"]["strict"].update(precision=None, recall=None)
    return report


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(write_report(sample_report(), sample_pictures(), where / "demo"))
    shown = sample_pictures()
    plain = {"examples": shown["examples_aligned"], "suspects": shown["suspects"]}
    plain["suspects"] = plain["suspects"]._replace(marks=[None] * 48)
    print(write_report(without_bias(sample_report()), plain, where / "unknown"))
    print(write_report({"task": {"data": "x"}, "models": {}}, {}, where / "empty"))
