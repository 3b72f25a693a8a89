"""Whether people who judge the same things agree."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from torch import Tensor


def fleiss_kappa(counts: Tensor) -> float:
    """Agreement of several raters beyond chance.

    Items may have different numbers of answers; those with fewer than two say nothing and are left
    out, and each other one counts once.

    Args:
        counts: int64 [items, categories], answers of each kind.

    Returns:
        At most 1; nan where no item has two answers, or all answers are of one kind.

    Source: Fleiss 1971.
    """
    counts = counts[counts.sum(1) >= 2].double()
    if not len(counts):
        return float("nan")
    n = counts.sum(1)
    agree = float((((counts * (counts - 1)).sum(1)) / (n * (n - 1))).mean())
    chance = float((counts.sum(0) / counts.sum()).square().sum())
    return float("nan") if chance == 1 else (agree - chance) / (1 - chance)


def cohen_kappa(a: Mapping[Hashable, str], b: Mapping[Hashable, str]) -> float:
    """Agreement of two raters beyond chance, on the items that both have judged.

    Args:
        a: the first one's answer by item.
        b: the second one's.

    Returns:
        At most 1; nan where they share no item, or chance alone explains full agreement.

    Source: Cohen 1960.
    """
    both = a.keys() & b.keys()
    if not both:
        return float("nan")
    kinds = {a[i] for i in both} | {b[i] for i in both}
    agree = sum(a[i] == b[i] for i in both) / len(both)
    chance = (
        sum(sum(a[i] == kind for i in both) * sum(b[i] == kind for i in both) for kind in kinds)
        / len(both) ** 2
    )
    return float("nan") if chance == 1 else (agree - chance) / (1 - chance)
