"""Precision at k and average precision: given lists, and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from truecue.errors import DataError
from truecue.metrics.retrieval import average_precision, precision_at_k

WANTED = torch.tensor([[True, False, True, False], [False, False, False, True]])


def test_given_lists() -> None:
    assert precision_at_k(WANTED, 2).tolist() == [0.5, 0]
    assert precision_at_k(WANTED, 9).tolist() == [0.5, 0.25]
    assert average_precision(WANTED).tolist() == pytest.approx([(1 + 2 / 3) / 2, 0.25])
    assert math.isnan(float(average_precision(torch.zeros(1, 3, dtype=torch.bool))))


def test_against_scikit_learn() -> None:
    wanted = torch.rand(5, 30, generator=torch.Generator().manual_seed(0)) > 0.6
    falling = torch.arange(30, 0, -1).numpy()
    for row, found in zip(wanted, average_precision(wanted), strict=True):
        assert float(found) == pytest.approx(average_precision_score(row.numpy(), falling))


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="must be bool"):
        average_precision(WANTED.float())
    with pytest.raises(DataError, match="at least one entry"):
        precision_at_k(WANTED, 0)
