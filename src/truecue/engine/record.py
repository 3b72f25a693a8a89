"""What a training run would have delivered after each epoch, so that rules can be compared later.

A recorder notes validation predictions and test counts of some epochs. Nothing in training looks at
the notes: the same run can afterwards be judged by every rule.
"""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, count
from truecue.engine.learner import Predict

KEY = "recorded"
"""The field of a log's row that tells a recorder's rows from others."""


@dataclass(frozen=True)
class Recorder:
    """Notes predictions after up to `most` epochs of a stage, evenly spread, the last one always.

    Args:
        splits: with all attributes.
        device: where to compute.
        most: epochs of a stage that are noted.
    """

    splits: Splits
    device: Device
    most: int = 20

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch (1, 2, ...) of a stage of so many is noted."""
        step = math.ceil(epochs / self.most)
        return epoch == epochs or epoch % step == 0

    def row(self, predict: Predict) -> dict[str, Any]:
        """The note on a classifier: plain values for a log."""
        val, test = self.splits.val, self.splits.test
        logits = apply(predict, test, self.device)
        says = logits.argmax(1)
        row: dict[str, Any] = {
            KEY: fingerprint(logits),
            "test_hits": count(says, test, self.splits.bias).hits.tolist(),
        }
        if val is not None:
            logits = apply(predict, val, self.device)
            row["val_loss"] = float(F.cross_entropy(logits, val.y))
            row["val_says"] = packed(logits.argmax(1))
        return row


def fingerprint(logits: Tensor) -> str:
    """A short text that tells one network's outputs from another's."""
    return hashlib.blake2b(logits.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def packed(classes: Tensor) -> str:
    """Predicted classes int64 [n] as a short text."""
    return base64.b85encode(zlib.compress(classes.to(torch.int16).numpy().tobytes(), 9)).decode()


def unpacked(text: str) -> Tensor:
    """Predicted classes int64 [n] from `packed`."""
    raw = bytearray(zlib.decompress(base64.b85decode(text)))
    return torch.frombuffer(raw, dtype=torch.int16).long()


def candidates(rows: Sequence[Mapping[str, Any]], delivered: Mapping[str, Any]) -> list[Any]:
    """The notes that a rule may choose from: those of the stage that made the delivered network.

    Args:
        rows: a run's log.
        delivered: the note on the network that the method gave back.

    Returns:
        The rows of that stage, in order; the delivered one alone where it is no stage's outcome, as
        after a closed-form last layer.
    """
    noted = [row for row in rows if KEY in row]
    stages = [row["stage"] for row in noted if row[KEY] == delivered[KEY]]
    if not stages:
        return [dict(delivered)]
    # the chosen epoch may have been noted last
    return sorted((r for r in noted if r["stage"] == stages[-1]), key=lambda r: r["epoch"])
