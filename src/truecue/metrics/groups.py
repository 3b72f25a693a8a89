"""Accuracy by group: one table of counts, and every group metric as a small function of it.

A group is a pair (class, attribute value), a *cell* of the table. Counts stay on the device that
they were made on; the metrics fetch them, which is one copy of a few numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from truecue.errors import DataError


class GroupCounts(NamedTuple):
    """How many samples each cell holds and how many of them are right.

    All group metrics follow from these counts. Counts of parts of a data set add up with `+` to
    the counts of the whole.
    """

    hits: Tensor
    """int64 [classes, values], samples predicted right."""
    total: Tensor
    """int64 [classes, values], all samples."""

    def __add__(self, other: GroupCounts) -> GroupCounts:  # type: ignore[override]
        if not isinstance(other, GroupCounts):
            return NotImplemented
        _check_shape("the other counts", other.total, self)
        return GroupCounts(self.hits + other.hits, self.total + other.total)


def group_counts(
    pred: Tensor, y: Tensor, values: Tensor, *, n_classes: int, n_values: int
) -> GroupCounts:
    """Count samples and right predictions in every cell.

    Without an attribute, pass zeros as `values` and `n_values=1`.

    Args:
        pred: int64 [n], predicted classes.
        y: int64 [n], labels in [0, n_classes).
        values: int64 [n], attribute values in [0, n_values); samples with -1 (not known) are left
            out.
        n_classes: number of classes.
        n_values: number of attribute values.

    Returns:
        Counts on the device of the arguments.

    Raises:
        DataError: the lengths differ, or a label or value is out of range.
    """
    if not pred.shape == y.shape == values.shape or y.dim() != 1:
        raise DataError(
            "predictions, labels and attribute values must be of one length [n]; got"
            f" {list(pred.shape)}, {list(y.shape)} and {list(values.shape)}"
        )
    _check_range("label", y, 0, n_classes)
    _check_range("attribute value", values, -1, n_values)
    n_cells = n_classes * n_values
    cell = torch.where(values < 0, n_cells, y * n_values + values)  # the last bin takes the unknown
    counts = torch.bincount(2 * cell + (pred == y), minlength=2 * n_cells + 2)
    wrong, hits = counts[:-2].view(n_classes, n_values, 2).unbind(-1)
    return GroupCounts(hits.contiguous(), wrong + hits)


def cell_accuracy(c: GroupCounts) -> Tensor:
    """Accuracy in every cell, float64 [classes, values] on the CPU; nan where a cell is empty."""
    return _ratio(c.hits, c.total)


def class_accuracy(c: GroupCounts) -> Tensor:
    """Accuracy in every class, float64 [classes] on the CPU; nan where a class has no sample."""
    return _ratio(c.hits.sum(1), c.total.sum(1))


def average(c: GroupCounts) -> float:
    """Share of right predictions among all samples counted; nan where there are none."""
    return float(_ratio(c.hits.sum(), c.total.sum()))


def unbiased(c: GroupCounts) -> float:
    """Mean of the accuracies of all cells that are not empty; nan where there are none.

    Source: LfF and DeNetDM ("unbiased accuracy"); SubpopBench calls it adjusted accuracy.
    """
    return float(cell_accuracy(c).nanmean())


def aligned(c: GroupCounts, mask: Tensor) -> float:
    """Mean accuracy of the cells in which the attribute agrees with the label.

    Args:
        c: counts.
        mask: bool [classes, values], True for those cells.

    Returns:
        The mean over those of the cells that are not empty; nan where there are none.

    Raises:
        DataError: the mask is not bool or not of the table's shape.
    """
    return float(cell_accuracy(c)[check_mask(mask, c)].nanmean())


def conflicting(c: GroupCounts, mask: Tensor) -> float:
    """Mean accuracy of the cells in which the attribute contradicts the label.

    Args:
        c: counts.
        mask: bool [classes, values], **False** for those cells: the mask that `aligned` takes.

    Returns:
        The mean over those of the cells that are not empty; nan where there are none.

    Raises:
        DataError: the mask is not bool or not of the table's shape.
    """
    return float(cell_accuracy(c)[~check_mask(mask, c)].nanmean())


def worst_group(c: GroupCounts, *, at_least: int = 1) -> float:
    """Lowest accuracy of a cell.

    Args:
        c: counts.
        at_least: cells with fewer samples are not judged; 0 means 1.

    Returns:
        The minimum; nan where no cell is large enough.
    """
    return _lowest(cell_accuracy(c)[c.total.cpu() >= max(at_least, 1)])


def worst_pooled(c: GroupCounts, mask: Tensor, *, at_least: int = 5) -> float:
    """The lowest accuracy of a group, where groups too small to be judged are put together.

    For choosing on validation images: with many cells, the worst one often has a single image, and
    its accuracy says nothing. Small aligned cells of a class make one group, small conflicting
    ones another; where even that is small, it joins the other classes' small ones, and is left out
    where these are small together, unless there is nothing else on that side.

    Args:
        c: counts.
        mask: bool [classes, values], True for the aligned cells.
        at_least: samples from which on a group stands alone.

    Returns:
        The lowest accuracy, in [0, 1]; nan where there is no sample.

    Raises:
        DataError: the mask is not bool or not of the table's shape.
    """
    mask = check_mask(mask, c)
    hits, total = c.hits.cpu(), c.total.cpu()
    groups: list[tuple[Tensor, Tensor]] = []
    for side in (mask, ~mask):
        small = side & (total < at_least)
        alone = side & ~small
        groups.append((hits[alone], total[alone]))
        pooled, of = (hits * small).sum(1), (total * small).sum(1)
        few = of < at_least
        groups.append((pooled[~few], of[~few]))
        rest = of[few].sum()
        if rest >= at_least or rest == total[side].sum():
            groups.append((pooled[few].sum()[None], rest[None]))
    accuracy = _ratio(torch.cat([h for h, _ in groups]), torch.cat([n for _, n in groups]))
    return _lowest(accuracy[~accuracy.isnan()])


def worst_class(c: GroupCounts) -> float:
    """Lowest accuracy of a class that has samples; nan where there are none."""
    accuracy = class_accuracy(c)
    return _lowest(accuracy[~accuracy.isnan()])


def adjusted_to(c: GroupCounts, weights: Tensor) -> float:
    """Mean of the cell accuracies with given weights, such as the cells' training counts.

    This is the "mean accuracy" of Waterbirds, whose test cells are re-balanced: accuracies from
    the test images, proportions from the training images.

    Args:
        c: counts.
        weights: [classes, values], not negative, on any scale.

    Returns:
        The mean over cells that are not empty (weights of the others are left out); nan where
        their weights sum to 0.

    Raises:
        DataError: the weights are not of the table's shape, or one is negative.

    Source: Sagawa et al. 2020 (Group DRO).
    """
    _check_shape("the weights", weights, c)
    weights = weights.cpu().double()
    if bool((weights < 0).any()):
        raise DataError(f"weights of cells must not be negative; found {float(weights.min())}")
    filled = c.total.cpu() > 0
    weights = weights[filled]
    return float((weights * cell_accuracy(c)[filled]).sum() / weights.sum())


def check_mask(mask: Tensor, c: GroupCounts) -> Tensor:
    """A mask of aligned cells, on the CPU.

    Raises:
        DataError: the mask is not bool or not of the table's shape.
    """
    _check_shape("the mask of aligned cells", mask, c)
    if mask.dtype != torch.bool:
        raise DataError(f"the mask of aligned cells must be bool; got {mask.dtype}")
    return mask.cpu()


def aligned_cells(total: Tensor) -> Tensor:
    """The cells that hold more samples than independence of class and attribute would give.

    For suites that do not say which cells are aligned. Give the counts of the *training* images:
    test images are often balanced on purpose.

    Args:
        total: int64 [classes, values].

    Returns:
        bool [classes, values], on the device of `total`.
    """
    rows, columns = total.sum(1, keepdim=True), total.sum(0, keepdim=True)
    return total * total.sum() > rows * columns


def association(total: Tensor) -> float:
    """How strongly attribute and class go together: Cramér's V, without bias correction.

    The square root of chi² / (n · (min(classes, values) - 1)), where classes and values that no
    sample has do not count. Small tables of independent data lie somewhat above 0.

    Args:
        total: int64 [classes, values].

    Returns:
        0 (independent) to 1 (one tells the other); nan where fewer than two classes or fewer than
        two values occur.
    """
    table = total.cpu().double()
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    levels = min(table.shape)
    if levels < 2:
        return float("nan")
    n = table.sum()
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / n
    chi2 = ((table - expected) ** 2 / expected).sum()
    return float((chi2 / (n * (levels - 1))).sqrt().clamp(max=1))


def _ratio(hits: Tensor, total: Tensor) -> Tensor:
    # fetched before it is made float64, which not every device has
    return hits.cpu().double() / total.cpu().double()


def _lowest(accuracy: Tensor) -> float:
    return float(accuracy.min()) if len(accuracy) else float("nan")


def _check_shape(what: str, table: Tensor, c: GroupCounts) -> None:
    # without this, a table of one row or column would be broadcast
    if table.shape != c.total.shape:
        raise DataError(
            f"{what} must be of shape [classes, values] = {list(c.total.shape)};"
            f" got {list(table.shape)}"
        )


def _check_range(what: str, values: Tensor, low: int, high: int) -> None:
    if len(values) and (int(values.min()) < low or int(values.max()) >= high):
        raise DataError(
            f"every {what} must lie in {low}..{high - 1};"
            f" found {int(values.min())}..{int(values.max())}"
        )
