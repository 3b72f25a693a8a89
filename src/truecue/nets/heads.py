"""Heads of self-supervised pretraining: they map features to what the loss sees, and are dropped.

Source: github geonyeong-park/Low-rank-regularization, commit 5a5c458, and the losses' papers.
"""

from __future__ import annotations

from torch import nn


def simclr_projector(n_features: int) -> nn.Sequential:
    """Features [b, d] to projections [b, 128]."""
    return nn.Sequential(
        nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, 128)
    )  # fmt: skip


def simsiam_projector(n_features: int) -> nn.Sequential:
    """Features [b, d] to projections [b, 8d]."""
    d = n_features
    return nn.Sequential(
        nn.Linear(d, d, bias=False), nn.BatchNorm1d(d), nn.ReLU(),
        nn.Linear(d, 8 * d, bias=False), nn.BatchNorm1d(8 * d, affine=False),
    )  # fmt: skip


def simsiam_predictor(n_features: int) -> nn.Sequential:
    """Projections [b, 8d] to predictions [b, 8d]."""
    d = n_features
    return nn.Sequential(
        nn.Linear(8 * d, 4 * d, bias=False), nn.BatchNorm1d(4 * d), nn.ReLU(),
        nn.Linear(4 * d, 8 * d),
    )  # fmt: skip


def vicreg_expander(n_features: int, width: int = 8192) -> nn.Sequential:
    """Features [b, d] to expanded features [b, width]."""
    return nn.Sequential(
        nn.Linear(n_features, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False),
    )  # fmt: skip
