"""Whether images are those of an audit, although they lie elsewhere or were decoded again."""

from __future__ import annotations

import torch

from truecue.audit.audit import Audit
from truecue.data.sets import ImageSet, Splits
from truecue.errors import DataError

LOOKED_AT = 32
"""Images of a split that are compared."""
_CLOSE = 1e-2


def check_images(audit: Audit, data: Splits) -> None:
    """Refuse images that are not the audit's.

    An audit knows large sets by the file that they were decoded to. Where that differs, as the
    images were moved or the cache was emptied, labels must be the same, and the encoder must give
    for images from all over each split the features that the audit holds.

    Args:
        audit: opened.
        data: the images.

    Raises:
        DataError: they are others; the message names a split.
    """
    try:
        audit.check(data)
    except DataError:
        parts = data.parts()
        if data.train.classes != audit.classes or data.train.encoded:
            raise
        if not all(s in parts and _same(audit, s, parts[s]) for s in audit.splits):
            raise


@torch.no_grad()
def _same(audit: Audit, split: str, part: ImageSet) -> bool:
    y = audit.labels(split)
    if len(part) != len(y) or not torch.equal(part.y, y):
        return False
    net = audit.encoder().eval()
    if part.shape[0] != net.channels:
        return False
    ids = torch.arange(0, len(y), max(1, len(y) // LOOKED_AT))
    found = net.features(part.images[ids])
    known = audit.columns(split)[ids]
    for row, i in enumerate(ids.tolist()):
        for feature in audit.features(int(y[i])):
            if feature.rank is None:
                continue
            value, kept = float(found[row, feature.feature]), float(known[row, feature.slot])
            if not abs(value - kept) <= _CLOSE * max(1.0, abs(kept)):
                return False
    return True
