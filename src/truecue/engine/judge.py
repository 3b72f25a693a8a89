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
    worst_pooled,
)
from truecue.seeds import derive


def aligned_mask(splits: Splits) -> torch.Tensor | None:
    """The cells (class x bias value) that count as bias-aligned: bool, or None without a bias."""
    if splits.bias is None:
        return None
    if splits.aligned is not None:
        return splits.aligned
    return aligned_cells(count(splits.train.y, splits.train, splits.bias).total)


def goes_with(part: ImageSet, bias: str | None, mask: Tensor | None) -> Tensor | None:
    """Whether each image's bias agrees with its label: int64 [n] of 1, 0 and -1 (not known).

    Args:
        part: images.
        bias: name of the attribute that misleads, or None.
        mask: see `aligned_mask`.

    Returns:
        None without a bias attribute.
    """
    if bias is None or mask is None or bias not in part.attributes:
        return None
    values = part.attributes[bias].values
    known = values >= 0
    return torch.where(known, mask[part.y, values.clamp(min=0)].long(), -1)


def worst_guessed(right: Tensor, y: Tensor, disagree: Tensor) -> float:
    """The worst group where groups are guessed: class, and whether two classifiers disagree.

    Where a biased and a debiased classifier disagree, the cue probably contradicts the class. Small
    groups are put together as in `worst_pooled`.

    Args:
        right: bool [n], whether the judged classifier is right.
        y: int64 [n], labels.
        disagree: bool [n], whether a biased and a debiased classifier differ on an image.

    Returns:
        In [0, 1].
    """
    k = int(y.max()) + 1
    cell = 2 * y + disagree.long()
    total = torch.bincount(cell, minlength=2 * k).view(k, 2)
    hits = torch.bincount(cell[right], minlength=2 * k).view(k, 2)
    return worst_pooled(GroupCounts(hits, total), torch.tensor([[True, False]]).expand(k, 2))


class Judge:
    """Puts a number on a classifier by a rule; smaller is better.

    Args:
        splits: with all attributes.
        device: where to compute.
        guessed: for `val_pseudo_group`, says on which validation images a biased and a debiased
            classifier disagree, bool [n]; called when first needed.
    """

    def __init__(self, splits: Splits, device: Device, guessed: Callable[[], Tensor] | None = None):
        self._splits, self._device, self._guess = splits, device, guessed
        self._disagree: Tensor | None = None

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
            if self._disagree is None:
                assert self._guess is not None  # by `check`
                self._disagree = self._guess()
            return -worst_guessed(pred == data.y, data.y, self._disagree)
        counts = count(pred, data, splits.bias)
        if rule == "val_worst_group":
            mask = aligned_mask(splits)
            assert mask is not None  # by `check`
            value = worst_pooled(counts, mask)
        else:
            value = unbiased(counts)
        if math.isnan(value):
            raise SupervisionError(
                f"choosing by {rule} needs images whose '{splits.bias}' is known, and there is"
                " none; use plan.select = 'val_worst_class', 'val_loss' or 'last'"
            )
        return -value


class Monitor:
    """Accuracy of every branch after every epoch, on fixed samples of known bias where possible.

    Watches up to 1,000 training images (as many bias-conflicting as aligned ones where that can be
    had) and up to 1,000 validation images. Images whose bias is not known are watched only where
    there are no others. For the eye only: nothing is chosen by it.
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
                rows.append({"branch": name, "split": split} | self._metrics(pred, data))
        return rows

    def _metrics(self, pred: Tensor, data: ImageSet) -> dict[str, float]:
        values = {"average": average(count(pred, data, None))}
        if self._mask is not None:
            counts = count(pred, data, self._bias)
            values["aligned"] = aligned(counts, self._mask)
            values["conflicting"] = conflicting(counts, self._mask)
        return values

    def _sample(self, data: ImageSet, most: int, seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=rng)
        agree = goes_with(data, self._bias, self._mask)
        if agree is None:
            return order[:most]
        agree, half = agree[order], most // 2
        chosen = torch.cat([order[agree == 1][:half], order[agree == 0][:half]])
        return (chosen if len(chosen) else order[:most]).sort().values
