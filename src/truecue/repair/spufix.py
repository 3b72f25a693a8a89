"""SpuFix: taking off a class's logit what its spurious features add to it, without training.

Neuhaus, Augustin, Boreiko, Hein, ICCV 2023, arXiv 2212.04871. There people judge principal
components of what features contribute to a logit; in an audit they judge features. A feature's
contribution is the component along its own axis, so that the same formula holds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from truecue.audit.pca import Direction
from truecue.errors import ConfigError, DataError
from truecue.nets.corrected import CorrectedHead

_FLAT = 1e-12  # a direction shorter than this, of those that the model's features vary in


def directions(phi: Tensor, weight: Tensor, own: list[int], others: Tensor) -> Direction:
    """Where a model carries what was judged spurious for a class.

    Args:
        phi: [n, f], the model's features of the class's training images.
        weight: [f], the class's row of the model's last layer.
        own: the model's own features that were judged; each is a direction as it is.
        others: [n, l], values of what else was judged on the same images: another encoder's
            features, or other cues. Their directions are where the model's contributions go along
            with them.

    Raises:
        DataError: there are no images, or nothing in the model goes along with one of the others.
    """
    if not len(phi):
        raise DataError("there are no training images of the class")
    w = weight.double()
    psi = phi.double() * w
    mean = psi.mean(0)
    axes = torch.zeros(len(own), len(w), dtype=torch.float64)
    axes[torch.arange(len(own)), torch.tensor(own, dtype=torch.int64)] = 1
    alpha = others.double()
    along = (alpha - alpha.mean(0)).T @ (psi - mean)
    norm = along.norm(dim=1, keepdim=True)
    if bool((norm < _FLAT).any()):
        raise DataError(
            "what was judged spurious does not go along with anything that the model's features"
            " do on the class's training images"
        )
    return Direction(w, mean, torch.cat([axes, along / norm]))


def corrected(head: nn.Linear, found: Mapping[int, Direction]) -> CorrectedHead:
    """A last layer with the correction built in; it gives what `audit.pca.spufix_other` gives.

    Args:
        head: of the model.
        found: spurious directions by class.

    Raises:
        ConfigError: the last layer has been corrected before.
    """
    if isinstance(head, CorrectedHead):
        raise ConfigError(
            "the model has been repaired by SpuFix before; tune its last layer (--method low), or"
            " audit the model that it was made from"
        )
    n = sum(len(d.vectors) for d in found.values())
    made = CorrectedHead(head.in_features, head.out_features, n)
    along, offset, of = [], [], []
    for c, d in found.items():
        # coefficient times what a unit of the direction adds to the logit, in one matrix
        parts = torch.linalg.pinv(d.vectors) * d.vectors.sum(1)
        along.append((parts * d.weight[:, None]).T)
        offset.append(d.mean @ parts)
        of.append(torch.full((len(d.vectors),), c))
    state = {
        "along": torch.cat(along).float(),
        "offset": torch.cat(offset).float(),
        "of": torch.cat(of),
    }
    made.load_state_dict({k: v.detach().cpu() for k, v in head.state_dict().items()} | state)
    return made
