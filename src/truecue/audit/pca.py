"""Components instead of features: class-wise neural PCA, and removing components without training.

Source: Neuhaus, Augustin, Boreiko, Hein 2023, *Spurious Features Everywhere* (arXiv 2212.04871).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from truecue.errors import DataError

_LARGE, _FEW = 256, 8  # features from which on, and an eighth of which, a few vectors are quicker


class Components(NamedTuple):
    """Directions in which the contributions to one class's logit vary."""

    weight: Tensor
    """float64 [f], the class's row of the head."""
    mean: Tensor
    """float64 [f], mean contribution of each feature over the class's training images."""
    vectors: Tensor
    """float64 [l, f], orthonormal, by falling variance; the signs mean nothing."""
    variances: Tensor
    """float64 [l], eigenvalues of the covariance (divided by n - 1)."""

    def alpha(self, phi: Tensor) -> Tensor:
        """Each component's part of the logit.

        With all components the parts of an image add up to its logit minus the mean logit.

        Args:
            phi: [n, f], features.

        Returns:
            float64 [n, l].
        """
        centred = phi.double() * self.weight - self.mean
        return centred @ self.vectors.T * self.vectors.sum(1)


def neural_pca(phi: Tensor, weight: Tensor, components: int | None = None) -> Components:
    """The principal components of what features contribute to one class's logit.

    Args:
        phi: [n, f], features of the class's training images.
        weight: [f], the class's row of the head.
        components: how many are kept; None: all.

    Raises:
        DataError: there are no images.
    """
    if not len(phi):
        raise DataError("components need at least one image of the class; there is none")
    w = weight.double()
    psi = phi.double() * w
    mean = psi.mean(0)
    centred = psi - mean
    covariance = centred.T @ centred / max(1, len(phi) - 1)
    keep = len(w) if components is None else min(components, len(w))
    values, vectors = _leading(covariance, keep)
    return Components(w, mean, vectors.T.flip(0)[:keep], values.flip(0)[:keep].clamp(min=0))


def _leading(covariance: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues and vectors: the largest ones, or all where that is as quick."""
    f = len(covariance)
    if f < _LARGE or _FEW * keep > f or not float(covariance.trace()) > 0:
        all_values, all_vectors = torch.linalg.eigh(covariance)
        return all_values, all_vectors
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).normal(size=f)  # so that the same comes out again
    values, vectors = eigsh(covariance.numpy(), k=keep, v0=start)
    return torch.from_numpy(values.copy()), torch.from_numpy(vectors.copy())


def spufix(
    logits: Tensor, phi: Tensor, found: Mapping[int, Components],
    spurious: Mapping[int, Iterable[int]],
) -> Tensor:  # fmt: skip
    """Logits without what spurious components add to them.

    Only what raises a logit is taken away: logit_c loses the sum of max(alpha_l, 0).

    Args:
        logits: [n, classes].
        phi: [n, f], features that the logits were made from.
        found: components by class.
        spurious: numbers of the spurious components by class.

    Returns:
        [n, classes], of the type of `logits`.
    """
    fixed = logits.clone()
    for c, components in spurious.items():
        chosen = sorted(set(components))
        if chosen:
            fixed[:, c] -= found[c].alpha(phi)[:, chosen].clamp(min=0).sum(1).to(logits.dtype)
    return fixed


class Direction(NamedTuple):
    """Spurious directions in another model's contributions to one class's logit."""

    weight: Tensor
    """float64 [f], the class's row of the other model's head."""
    mean: Tensor
    """float64 [f]."""
    vectors: Tensor
    """float64 [l, f], of length 1; not orthogonal."""


def transfer(alpha: Tensor, phi: Tensor, weight: Tensor) -> Direction:
    """Where another model carries the components that were judged in the first one.

    Args:
        alpha: [n, l], the spurious components of the class's training images in the first model.
        phi: [n, f], features of the same images in the other model.
        weight: [f], the class's row of its head.

    Raises:
        DataError: a component is constant, or the other model does not vary with it.
    """
    w = weight.double()
    psi = phi.double() * w
    mean = psi.mean(0)
    along = alpha.double().T @ (psi - mean)
    norm = along.norm(dim=1, keepdim=True)
    if bool((norm < 1e-12).any()):
        raise DataError(
            f"component {int((norm < 1e-12).flatten().nonzero()[0])} of those given does not go"
            " with anything that the other model's features do on these images; leave it out"
        )
    return Direction(w, mean, along / norm)


def spufix_other(logits: Tensor, phi: Tensor, directions: Mapping[int, Direction]) -> Tensor:
    """Another model's logits without what its spurious directions add to them.

    An image's coefficients are those of the least-squares fit of all directions of a class.

    Args:
        logits: [n, classes], of the other model.
        phi: [n, f], its features.
        directions: by class, see `transfer`.
    """
    fixed = logits.clone()
    for c, d in directions.items():
        centred = phi.double() * d.weight - d.mean
        coefficients = centred @ torch.linalg.pinv(d.vectors)
        parts = (coefficients * d.vectors.sum(1)).clamp(min=0)
        fixed[:, c] -= parts.sum(1).to(logits.dtype)
    return fixed


class Separability(NamedTuple):
    """How well a class's probability tells its images from images of its cue alone."""

    auroc: float
    """Area under the ROC curve, what the authors' README calls their score."""
    ap: float
    """Average precision, what their code computes."""


def separability(of_class: Tensor, of_cue: Tensor) -> Separability:
    """Score a class: probabilities on its validation images against those on its cue alone.

    Args:
        of_class: float [n], probability of the class on its own images.
        of_cue: float [m], on images that show only the cue.

    Raises:
        DataError: one of them is empty.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not len(of_class) or not len(of_cue):
        raise DataError("separating two kinds of images needs images of both; one set is empty")
    scores = torch.cat([of_class, of_cue]).double().numpy()
    labels = [1] * len(of_class) + [0] * len(of_cue)
    return Separability(
        float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))
    )
