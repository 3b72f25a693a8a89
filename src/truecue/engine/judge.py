"""What watches a training from outside: the rule that chooses weights, and the curves.

Methods see neither the test images nor attributes they did not declare; these two do, and touch
nothing that training depends on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, count, predictions
from truecue.engine.learner import Predict
from truecue.engine.plan import SelectRule
from truecue.errors import ConfigError, SupervisionError
from truecue.metrics.groups import (
    GroupCounts,
    aligned,
    aligned_cells,
    average,
    conflicting,
    unbiased,
    worst_class,
    worst_group,
)
from truecue.seeds import derive

FEW = 5
"""Images below which a guessed group is not judged."""


def aligned_mask(splits: Splits) -> torch.Tensor | None:
    """The cells (class x bias value) that count as bias-aligned: bool, or None without a bias."""
    if splits.bias is None:
        return None
    if splits.aligned is not None:
        return splits.aligned
    return aligned_cells(count(splits.train.y, splits.train, splits.bias).total)


def pseudo_groups(y: Tensor, biased_says: Tensor, debiased_says: Tensor) -> Tensor:
    """Groups guessed without bias labels: class, and whether two classifiers disagree on an image.

    Where a biased and a debiased classifier disagree, the cue probably contradicts the class.

    Args:
        y: int64 [n], labels.
        biased_says: int64 [n], predictions of a biased classifier.
        debiased_says: int64 [n], predictions of a debiased one.

    Returns:
        int64 [n] of 2 * label + 1 where the two disagree, 2 * label where they agree.
    """
    return 2 * y + (biased_says != debiased_says).long()


def worst_pseudo_group(right: Tensor, groups: Tensor, at_least: int = FEW) -> float:
    """The lowest accuracy of a guessed group; nan where no group is large enough.

    Args:
        right: bool [n], whether a classifier is right on an image.
        groups: int64 [n], from `pseudo_groups`.
        at_least: smaller groups are left out: their accuracy is mostly chance.
    """
    total = torch.bincount(groups)
    hits = torch.bincount(groups, weights=right.double(), minlength=len(total))
    kept = total >= at_least
    return float((hits[kept] / total[kept]).min()) if bool(kept.any()) else float("nan")


class Judge:
    """Puts a number on a classifier by a rule; smaller is better.

    Args:
        splits: with all attributes.
        device: where to compute.
        guessed: gives the groups of the validation images for `val_pseudo_group`, int64 [n]; called
            when first needed.
    """

    def __init__(self, splits: Splits, device: Device, guessed: Callable[[], Tensor] | None = None):
        self._splits, self._device, self._guess = splits, device, guessed
        self._groups: Tensor | None = None

    def check(self, rule: SelectRule) -> None:
        """Refuse a rule that this data cannot serve.

        Raises:
            ConfigError: there are no validation images.
            SupervisionError: the rule needs bias labels that are not there.
        """
        splits = self._splits
        if rule.startswith("val_") and splits.val is None:
            raise ConfigError(
                f"choosing by {rule} needs validation images, and this data has none; use"
                " plan.select = 'last', or set a val_share above 0"
            )
        if rule == "val_pseudo_group" and self._guess is None:
            raise ConfigError(
                "choosing by val_pseudo_group needs a biased and a debiased classifier to compare,"
                " which this run does not have; use truecue.train, or plan.select = 'last'"
            )
        if rule == "val_worst_group" and splits.bias is None:
            raise SupervisionError(
                "choosing by val_worst_group needs bias labels of the validation images, and this"
                " data has none; use plan.select = 'val_worst_class', 'val_loss' or 'last'"
            )

    def value(self, rule: SelectRule, predict: Predict) -> float:
        """The value of a rule other than `last` for a classifier.

        Raises:
            SupervisionError: no image has what the rule judges by, e.g. a known bias value.
        """
        splits = self._splits
        data = splits.test if rule == "oracle_test" else splits.val
        assert data is not None
        logits = apply(predict, data, self._device)
        if rule == "val_loss":
            return float(F.cross_entropy(logits, data.y))
        pred = logits.argmax(1)
        if rule == "val_worst_class":
            return -worst_class(count(pred, data, None))
        if rule == "val_pseudo_group":
            return -self._pseudo(pred == data.y)
        counts = count(pred, data, splits.bias)
        value = worst_group(counts) if rule == "val_worst_group" else unbiased(counts)
        if math.isnan(value):
            raise SupervisionError(
                f"choosing by {rule} needs images whose '{splits.bias}' is known, and there is"
                " none; use plan.select = 'val_worst_class', 'val_loss' or 'last'"
            )
        return -value

    def _pseudo(self, right: Tensor) -> float:
        if self._groups is None:
            assert self._guess is not None  # by `check`
            self._groups = self._guess()
        value = worst_pseudo_group(right, self._groups)
        if math.isnan(value):
            raise SupervisionError(
                f"choosing by val_pseudo_group needs guessed groups of {FEW} or more validation"
                f" images, and the largest of these {len(right):,} has"
                f" {int(torch.bincount(self._groups).max())}; use plan.select = 'val_worst_class'"
            )
        return value


class Monitor:
    """Accuracy of every branch after every epoch, on fixed samples of known bias where possible.

    Watches up to 1,000 training images (as many bias-conflicting as aligned ones where that can be
    had) and up to 1,000 validation images. For the eye only: nothing is chosen by it.
    """

    def __init__(self, splits: Splits, device: Device, *, most: int = 1000, seed: int = 0):
        self._bias, self._device = splits.bias, device
        self._mask = aligned_mask(splits)
        self._sets: dict[str, ImageSet] = {}
        for name in ("train", "val"):
            data = splits.parts().get(name)
            if data is not None:
                self._sets[name] = data.select(self._sample(data, most, derive(seed, name)))

    def rows(self, branches: Mapping[str, Predict]) -> list[dict[str, Any]]:
        """One row for each branch and set."""
        rows = []
        for split, data in self._sets.items():
            for name, predict in branches.items():
                pred = predictions(predict, data, self._device)
                counts = count(pred, data, self._bias)
                rows.append({"branch": name, "split": split} | self._metrics(counts))
        return rows

    def _metrics(self, counts: GroupCounts) -> dict[str, float]:
        values = {"average": average(counts)}
        if self._mask is not None:
            values["aligned"] = aligned(counts, self._mask)
            values["conflicting"] = conflicting(counts, self._mask)
        return values

    def _sample(self, data: ImageSet, most: int, seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=rng)
        if self._mask is None or self._bias is None:
            return order[:most]
        values = data.attributes[self._bias].values
        goes_with = self._mask[data.y, values.clamp(min=0)][order]
        half = most // 2
        return torch.cat([order[goes_with][:half], order[~goes_with][:half]]).sort().values
