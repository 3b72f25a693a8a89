"""Class-wise neural PCA in an audit: the leading components of each class are candidates.

A component belongs to one class. Its value is its part of that class's logit, alpha of Neuhaus et
al. 2023 (arXiv 2212.04871), which is the higher, the more the image shows what speaks for the class
along one direction of all features. Among the features of an audit each class has components of its
own. In the table of cues, which asks about all classes together, component l is the l-th component
of every class: as many numbers for each image as there are classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truecue.audit.audit import Audit
from truecue.audit.candidates import CueColumn
from truecue.audit.features import Store
from truecue.audit.pca import neural_pca
from truecue.data.files import cached_arrays
from truecue.data.sets import Splits
from truecue.engine.device import Device

MOST = 10_000
"""Training images of a class that its components are made of, at most: evenly spaced ones."""
_VERSION = 1
"""Raise it when components would come out differently."""
_FLAT = 1e-12  # variance, as a share of the first component's, below which there is none


class ClassComponents(NamedTuple):
    """The leading components of every class, as directions among the features."""

    key: str
    """Changes when features, images, labels or the head do."""
    directions: Tensor
    """float64 [k, l, f]; zeros where a class has not so many components that vary."""
    offsets: Tensor
    """float64 [k, l]."""

    def parts(self, phi: Tensor) -> Tensor:
        """Each component's part of its class's logit: float32 [n, k, l] of features [n, f]."""
        return (torch.einsum("nf,klf->nkl", phi.double(), self.directions) - self.offsets).float()

    def own(self, store: Store, y: Tensor) -> Tensor:
        """The components of each image's own class: float32 [n, l].

        Args:
            store: features of n images.
            y: int64 [n], their classes.
        """
        found = torch.zeros(len(y), self.offsets.shape[1])
        for c in y.unique().tolist():
            mine = (y == c).nonzero().squeeze(1)
            of_class = self._replace(directions=self.directions[[c]], offsets=self.offsets[[c]])
            found[mine] = of_class.parts(store.rows(mine))[:, 0]
        return found


def class_components(store: Store, y: Tensor, weight: Tensor, each: int) -> ClassComponents:
    """The leading components of every class, computed or from the cache.

    Args:
        store: features of the training images.
        y: int64 [n], their classes.
        weight: [k, f], the head's.
        each: components of a class.
    """
    head = hashlib.blake2b(weight.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
    key = (_VERSION, store.folder.name, head, each)  # the folder's name has images and labels in it

    def make() -> dict[str, Any]:
        directions = torch.zeros(len(weight), each, weight.shape[1], dtype=torch.float64)
        offsets = torch.zeros(len(weight), each, dtype=torch.float64)
        for c in y.unique().tolist():
            mine = (y == c).nonzero().squeeze(1)
            mine = mine[:: -(-len(mine) // MOST)]
            found = neural_pca(store.rows(mine), weight[c], each)
            varies = found.variances > _FLAT * found.variances[:1]
            v = found.vectors * (found.vectors.sum(1) * varies).unsqueeze(1)
            directions[c, : len(v)] = v * found.weight
            offsets[c, : len(v)] = v @ found.mean
        return {"directions": directions.numpy(), "offsets": offsets.numpy()}

    made = cached_arrays("components", key, make)
    arrays = (torch.from_numpy(made[name].copy()) for name in ("directions", "offsets"))
    return ClassComponents(hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest(), *arrays)


def names_of(each: int) -> list[str]:
    """What components are called, the one with the largest variance first."""
    return [f"component {i + 1}" for i in range(each)]


def component_columns(
    audit: Audit, data: Splits, rows: Mapping[str, Tensor], device: Device, *, quiet: bool
) -> dict[str, CueColumn]:
    """An audit's components as candidates for `find_cues`; none where it has none.

    Args:
        audit: opened.
        data: the audited images.
        rows: int64 [m], images of `train` and `test` that are wanted.
        device: where features are computed if they are no longer in the cache.
        quiet: show no progress.
    """
    if not audit.facts.get("components"):
        return {}
    each, net = int(audit.facts["components"]["each"]), audit.encoder()
    stores = {s: audit.store(data, s, net, device=device, quiet=quiet) for s in rows}
    weight = net.head.weight.detach().cpu()
    found = class_components(stores["train"], audit.labels("train"), weight, each)
    parts = {split: found.parts(stores[split].rows(ids)) for split, ids in rows.items()}
    about = "neural PCA: of every class, its part of the logit along one direction of all features"
    return {
        name: CueColumn(parts["train"][:, :, i], parts["test"][:, :, i], "feature", about)
        for i, name in enumerate(names_of(each))
    }
