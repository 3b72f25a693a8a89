"""How well one measurement tells the class: a small classifier that sees nothing else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

_KNOTS = ((3, 7), (100, 4))  # columns up to which there are so many knots of the curve of each
_STRAIGHT = 2  # where there are more columns
_LEVELS = 8  # a column with at most as many values gets a number for each
_RIDGE = 0.01  # penalty relative to the mean variance


class Teller(NamedTuple):
    """A fitted classifier from d columns to scores of c classes."""

    knots: tuple[Tensor, ...]
    """Of each column, ascending; none for a constant one."""
    stepped: tuple[bool, ...]
    """Whether a column's values are levels, not degrees."""
    weights: Tensor
    """float64 [features, c]."""
    offset: Tensor
    """float64 [c]."""

    def scores(self, x: Tensor) -> Tensor:
        """How much each class is spoken for: float32 [n, c] of float [n, d], near 0..1."""
        features = _expanded(x, self.knots, self.stepped)
        return (features @ self.weights + self.offset).float()


def fit_teller(x: Tensor, y: Tensor, n_classes: int) -> Teller | None:
    """Fit scores of the classes to columns of measurements.

    Each column is expanded into the triangles between its quantiles (or, where it has few values,
    one indicator for each), and ridge regression fits the classes' indicators to these. Classes
    count the same, however many images they have. What is missing (nan) is a level of its own.

    Args:
        x: float [n, d].
        y: int64 [n].
        n_classes: number of classes.

    Returns:
        The classifier; None where every column is constant.
    """
    most = next((knots for columns, knots in _KNOTS if x.shape[1] <= columns), _STRAIGHT)
    knots, stepped = zip(*(_knots(column, most) for column in x.T), strict=True)
    if all(len(k) == 0 for k in knots):
        return None
    features = _expanded(x, knots, stepped)
    share = 1 / torch.bincount(y, minlength=n_classes).clamp(min=1)[y].double()
    share = (share / share.sum()).unsqueeze(1)
    target = one_hot(y, n_classes).double()
    middle, level = (share * features).sum(0), (share * target).sum(0)
    centred = features - middle
    products = centred.T @ (share * centred)
    penalty = _RIDGE * products.diagonal().mean().clamp(min=1e-12)
    products.diagonal().add_(penalty)
    weights = torch.linalg.solve(products, centred.T @ (share * (target - level)))
    return Teller(tuple(knots), tuple(stepped), weights, level - middle @ weights)


def directed(scores: Tensor, y: Tensor) -> Tensor:
    """How much more an image's own class is spoken for than the others: float32 [n].

    Args:
        scores: float [n, c].
        y: int64 [n].
    """
    own = scores.gather(1, y.unsqueeze(1)).squeeze(1)
    return own - (scores.sum(1) - own) / (scores.shape[1] - 1)


def _knots(column: Tensor, most: int) -> tuple[Tensor, bool]:
    known = column[~column.isnan()].double()
    values = known.unique()
    missing = len(known) < len(column)
    if len(values) <= (0 if missing else 1):
        return values[:0], True
    if len(values) <= _LEVELS:
        return values, True
    return known.quantile(torch.linspace(0, 1, most, dtype=torch.float64)).unique(), False


def _expanded(x: Tensor, knots: tuple[Tensor, ...], stepped: tuple[bool, ...]) -> Tensor:
    """float64 [n, features]."""
    parts = []
    for column, k, steps in zip(x.double().T, knots, stepped, strict=True):
        if len(k) == 0:
            continue
        known = ~column.isnan()
        value = torch.where(known, column, k[0])
        if steps:
            hit = (value.unsqueeze(1) - k).abs().argmin(1)
            part = one_hot(hit, len(k)).double()
        else:
            value = value.clamp(k[0], k[-1])
            left = torch.searchsorted(k, value, right=True).clamp(1, len(k) - 1) - 1
            share = ((value - k[left]) / (k[left + 1] - k[left])).unsqueeze(1)
            part = (1 - share) * one_hot(left, len(k)) + share * one_hot(left + 1, len(k))
        part = part * known.unsqueeze(1)
        parts += [part, (~known).double().unsqueeze(1)]
    return torch.cat(parts, 1)
