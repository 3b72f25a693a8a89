"""How well a ranking fits groups that are known: for checking rankings, not for making them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from truecue.metrics.ranking import Ranking, ends


def group_tau(ranking: Ranking, strength: Tensor) -> float:
    """Weighted Kendall tau between the groups that a ranking suggests and the known ones.

    The ranking of each class is cut into chunks of the known groups' sizes, the weakest first; an
    image's chunk is its predicted group.

    Args:
        ranking: of the images.
        strength: int64 [n], number or strength of the bias-aligned attributes of each image.

    Returns:
        The mean over classes with at least two groups, in [-1, 1]; nan where there is none.

    Source: the weighted tau is Vigna 2015, with its usual hyperbolic weights.
    """
    from scipy.stats import weightedtau

    found = []
    for c in range(len(ranking.starts) - 1):
        true = strength[ranking.of(c)].numpy()
        if len(np.unique(true)) > 1:
            found.append(float(weightedtau(true, np.sort(true)).statistic))
    return float(np.mean(found)) if found else float("nan")


def cue_auroc(scores: Tensor, y: Tensor, present: Tensor, n_classes: int) -> Tensor:
    """How well scores tell images that show a class's cue from those that do not.

    Args:
        scores: floating [n].
        y: int64 [n], labels.
        present: bool [n], whether the image shows the cue that goes with its label.
        n_classes: number of classes.

    Returns:
        float64 [n_classes], area under the ROC curve; nan where a class has no scores, or only
        images of one kind.
    """
    from scipy.stats import rankdata

    found = torch.full((n_classes,), torch.nan, dtype=torch.float64)
    for c in range(n_classes):
        ids = ((y == c) & ~scores.isnan()).nonzero().squeeze(1)
        shown = present[ids].numpy()
        n, m = int(shown.sum()), int((~shown).sum())
        if n and m:
            ranks = rankdata(scores[ids].numpy())
            found[c] = float((ranks[shown].sum() - n * (n + 1) / 2) / (n * m))
    return found


def low_end_purity(ranking: Ranking, present: Tensor, k: int | None) -> dict[int, float]:
    """The share of each low end's images that really do without the cue.

    Args:
        ranking: of the images.
        present: bool [n], whether the image shows the cue that goes with its label.
        k: images in each end, see `ends`.
    """
    return {c: float((~present[low]).double().mean()) for c, (low, _) in ends(ranking, k).items()}
