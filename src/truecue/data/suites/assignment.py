"""Which image gets which value of the misleading attribute."""

from __future__ import annotations

import numpy as np

from truecue.data.suites.splitting import Ids


def assign(y: Ids, aligned: float, values: int) -> Ids:
    """The misleading attribute of every image, in blocks along the data set's order.

    Of the images of class l, in order, the first share gets value 0, the next value 1 and so on.
    Value l gets the share `aligned`, the others divide the rest evenly. The blocks end at
    milestones that are rounded half to even, as in the code of LfF, SiH and DeNetDM; nothing is
    random.

    Args:
        y: int64 [n], labels in 0..values-1.
        aligned: share of the images of class l that get value l, in [0, 1]; 1 / values makes the
            attribute independent of the label.
        values: number of attribute values.

    Returns:
        int64 [n].
    """
    shares = np.full((values, values), (1 - aligned) / (values - 1))
    np.fill_diagonal(shares, aligned)
    # cumulated first and multiplied then: with the other order some halves round the other way
    ends = np.round(np.bincount(y, minlength=values)[:, None] * np.cumsum(shares, axis=1))
    given = np.zeros_like(y)
    for label in range(values):
        places = np.flatnonzero(y == label)
        given[places] = np.searchsorted(ends[label], np.arange(len(places)), side="right")
    return given
