"""How many directions the features of trained models use: spectra, ranks, correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, count, predictions
from truecue.engine.judge import aligned_mask
from truecue.errors import ConfigError, DataError
from truecue.losses.rank import correlations, rank_penalty
from truecue.metrics.groups import aligned, conflicting
from truecue.metrics.rank import rank_entropy, spectrum
from truecue.nets.classifier import Classifier
from truecue.seeds import derive

LARGEST = 256
"""Features a side of a picture of correlations, at most; more are averaged in blocks."""


class Subject(NamedTuple):
    """A model and the data on which it is looked at, best that it was trained on."""

    name: str
    net: Classifier
    data: Splits
    trained_on: bool = True
    """Whether it was; if not, the share of conflicting training images is not the model's."""


@dataclass(frozen=True)
class FeatureRank:
    """What was found of one model's features."""

    name: str
    n: int
    """Images."""
    n_features: int
    sizes: Tensor
    """Singular values, largest first: float64 [min(n, n_features)]."""
    entropy: float
    """H, of the singular values over their sum, in nats."""
    penalty: float
    """Mean squared correlation of different features, L_reg."""
    dead: int
    """Features that are the same for all images."""
    correlation: Tensor
    """Absolute correlations in hierarchical order, float [k, k], k at most `LARGEST`; without
    features that never change."""
    conflicting_share: float | None
    """Share of the training images of known bias that contradict it; None without a bias, or where
    the model was trained on others."""
    aligned: float | None
    """Accuracy on aligned test images; None without a bias, or where the model's classes are others
    than the data's."""
    conflicting: float | None
    """Accuracy on conflicting test images."""
    strength: float | None
    """Of the rank regularisation of the encoder, where the model says so."""

    @property
    def effective_rank(self) -> float:
        """The exponential of `entropy`."""
        return math.exp(self.entropy)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the correlations, as plain values."""
        share = self.sizes / self.sizes.sum().clamp(min=1e-300)
        return {
            "name": self.name,
            "entropy": self.entropy,
            "effective_rank": self.effective_rank,
            "n": self.n,
            "n_features": self.n_features,
            "penalty": self.penalty,
            "dead": self.dead,
            "conflicting_share": self.conflicting_share,
            "strength": self.strength,
            "aligned": self.aligned,
            "conflicting": self.conflicting,
            "spectrum": [float(f"{value:.5g}") for value in share.tolist()],
        }


@dataclass(frozen=True)
class RankComparison:
    """Models side by side, looked at in the same way."""

    split: str
    center: bool
    n: int
    """Images of each model."""
    models: tuple[FeatureRank, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "split": self.split,
            "center": self.center,
            "n": self.n,
            "models": [model.to_dict() for model in self.models],
        }


def compare_ranks(
    subjects: Sequence[Subject],
    *,
    split: str = "train",
    n: int | None = None,
    center: bool = False,
    seed: int = 0,
    device: Device | None = None,
) -> RankComparison:
    """Effective rank, spectrum and correlations of the features of some models.

    Features are those that the last layer sees, of images without augmentation. All models are
    looked at with the same number of images, which are the same ones where the data is.

    Args:
        subjects: models with their data.
        split: "train", "val" or "test". A bias shows in the rank on images that have it as often as
            in training; on unbiased images hardly.
        n: images; None: twice the largest number of features and at least 512, as far as there are
            that many everywhere.
        center: subtract the features' mean first; better for comparing networks that end in ReLU,
            whose mean is the largest direction.
        seed: of the choice of images.
        device: where to compute; None: the best there is.

    Raises:
        ConfigError: there is no model, or n is below 2.
        DataError: a split is not there or holds too few images, a model takes other images, or its
            features are not finite.
    """
    if not subjects:
        raise ConfigError("there is no model to look at")
    device = device or Device()
    parts = [_part(subject, split) for subject in subjects]
    widest = max(subject.net.n_features for subject in subjects)
    fewest = min(len(part) for part in parts)
    wanted = min(fewest, max(512, 2 * widest)) if n is None else n
    if wanted < 2:
        raise ConfigError(f"a rank needs at least 2 images; got {wanted}")
    if wanted > fewest:
        raise DataError(
            f"{wanted:,} images are wanted and the {split} split holds {fewest:,}; use a smaller n"
        )
    made = [
        _ranked(subject, part, wanted, center=center, seed=seed, device=device)
        for subject, part in zip(subjects, parts, strict=True)
    ]
    return RankComparison(split, center, wanted, tuple(made))


def _part(subject: Subject, split: str) -> ImageSet:
    part = subject.data.parts().get(split)
    if part is None:
        known = ", ".join(subject.data.parts())
        raise DataError(f"the data of {subject.name} has no split '{split}' ({known})")
    net, (channels, height, width) = subject.net, part.shape
    size = net.spec.get("size")
    if net.channels != channels or (size is not None and size != max(height, width)):
        raise DataError(
            f"{subject.name} takes images of {net.channels} channels and {size} pixels; these have"
            f" {channels} and {max(height, width)}"
        )
    return part


def _ranked(
    subject: Subject, part: ImageSet, n: int, *, center: bool, seed: int, device: Device
) -> FeatureRank:
    name, net, data, trained_on = subject
    net = net.to(device.device).eval()
    rng = torch.Generator().manual_seed(derive(seed, "rank", len(part)))
    some = torch.randperm(len(part), generator=rng)[:n].sort().values
    z = apply(net.features, part.select(some), device).double()
    if not bool(z.isfinite().all()):
        bad = int((~z.isfinite()).any(1).sum())
        raise DataError(
            f"the features of {name} hold numbers that are not finite, for {bad:,} of {n:,} images:"
            " its weights are broken; train it again or leave it out"
        )
    sizes = spectrum(z, center=center)
    right = _accuracies(net, data, device)
    return FeatureRank(
        name=name,
        n=n,
        n_features=z.shape[1],
        sizes=sizes,
        entropy=rank_entropy(sizes),
        penalty=float(rank_penalty(z)),
        dead=int((~_alive(z)).sum()),
        correlation=correlation_map(z),
        conflicting_share=_conflicting_share(data) if trained_on else None,
        aligned=right[0],
        conflicting=right[1],
        strength=net.spec.get("rank_strength"),
    )


def _accuracies(net: Classifier, data: Splits, device: Device) -> tuple[float | None, float | None]:
    mask, names = aligned_mask(data), net.spec.get("extra", {}).get("classes")
    same = net.n_classes == len(data.test.classes) and names in (None, list(data.test.classes))
    if mask is None or data.bias not in data.test.attributes or not same:
        return None, None
    counts = count(predictions(net, data.test, device), data.test, data.bias)
    values = aligned(counts, mask), conflicting(counts, mask)
    first, second = (None if math.isnan(value) else value for value in values)
    return first, second


def _conflicting_share(data: Splits) -> float | None:
    mask = aligned_mask(data)
    if mask is None or data.bias not in data.train.attributes:
        return None
    total = count(data.train.y, data.train, data.bias).total
    known = int(total.sum())
    return 1 - float(total[mask].sum()) / known if known else None


def correlation_map(z: Tensor, largest: int = LARGEST) -> Tensor:
    """Which features go together, alike ones side by side.

    Args:
        z: float [n, d], features of n images.
        largest: features a side, at most; more are averaged in blocks.

    Returns:
        float [k, k] in [0, 1], absolute correlations in hierarchical order, without features that
        are the same for all images.
    """
    return _ordered(correlations(z[:, _alive(z)]).abs(), largest)


def _alive(z: Tensor) -> Tensor:
    return (z != z[0]).any(0)


def _ordered(c: Tensor, largest: int) -> Tensor:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(c) > 2:
        apart = (1 - c).clamp(min=0)
        apart = ((apart + apart.T) / 2).fill_diagonal_(0)
        order = leaves_list(linkage(squareform(apart.numpy(), checks=False), "average"))
        place = torch.from_numpy(order.astype("int64"))
        c = c[place][:, place]
    if len(c) > largest:
        c = F.adaptive_avg_pool2d(c[None, None], largest)[0, 0]
    return c.float()
