"""The group metrics of one model on one set of images, with intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from truecue.metrics.groups import GroupCounts, check_mask
from truecue.metrics.intervals import Estimate, mean_of_cells, wilson


def summarise(
    c: GroupCounts, aligned_mask: Tensor, *, at_least: int = 1, level: float = 0.95
) -> dict[str, Estimate]:
    """The six numbers that describe a table of groups, each with its interval.

    `average`, `worst_group` and `worst_class` carry Wilson intervals; `unbiased`, `aligned` and
    `conflicting`, means over cells, carry MOVER intervals.

    The interval of `worst_group` (and `worst_class`) is that of the group which came out worst, as
    if it had been chosen beforehand; it is **not** corrected for picking the minimum. With many
    small groups the minimum is too low on average, and the interval covers the lowest true
    accuracy less often than `level` says.

    Args:
        c: counts.
        aligned_mask: bool [classes, values], the cells in which the attribute agrees with the
            label.
        at_least: groups with fewer samples cannot be the worst group.
        level: confidence, in (0, 1).

    Returns:
        Estimates by name; all nan, with n = 0, where a metric has no sample.

    Raises:
        DataError: the mask is not bool or not of the table's shape.
        ConfigError: the level is not in (0, 1).
    """
    mask = check_mask(aligned_mask, c)
    hits, total = c.hits.cpu(), c.total.cpu()
    return {
        "average": wilson(int(hits.sum()), int(total.sum()), level),
        "unbiased": mean_of_cells(hits, total, level),
        "aligned": mean_of_cells(hits[mask], total[mask], level),
        "conflicting": mean_of_cells(hits[~mask], total[~mask], level),
        "worst_group": _worst(hits, total, max(at_least, 1), level),
        "worst_class": _worst(hits.sum(1), total.sum(1), 1, level),
    }


def _worst(hits: Tensor, total: Tensor, at_least: int, level: float) -> Estimate:
    """The lowest proportion; of equal ones that with the fewest samples and the widest interval."""
    counts = torch.stack([hits.flatten(), total.flatten()], 1).tolist()
    judged = [(h / n, n, h) for h, n in counts if n >= at_least]
    _, n, h = min(judged, default=(0.0, 0, 0))
    return wilson(h, n, level)
