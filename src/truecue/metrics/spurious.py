"""Which features matter for a class, and how strongly each image shows those that are spurious.

Features may be a tensor or an array that is mapped from a file; both are read in blocks of rows, so
that memory does not grow with the number of images.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truecue.errors import DataError

Features = Tensor | npt.NDArray[Any]
"""[n, f], floating: a tensor, or an array (mapped from a file, say)."""
GroupRule = Literal["correct", "label", "predicted"]
"""Over which images a feature's contribution to a class is averaged."""
StatsFrom = Literal["own", "train"]
"""By which images' mean and deviation features are standardised."""

BLOCK = 1024
"""Rows of features in memory at a time. 8 MiB of 2,048 features in float32: memory of this size is
used again, where that of larger blocks goes back to the system and comes back page by page."""
FEW = 30
"""With fewer images of a class, the training images' statistics are used, and two ends mean little.
A rule of our own: the paper's classes have 50 images or more."""
_HELD = 64  # blocks of a mapped file that are held in memory, 256 MiB of 2,048 features
_CONSTANT = 1e-8  # times max(1, |mean|): a feature that varies less does not order images


class Importance(NamedTuple):
    """How much each feature contributes to each class."""

    values: Tensor
    """float64 [classes, f], mean contribution to the logit; nan for a class that is undefined."""
    top: Tensor
    """int64 [classes, keep], the most important features first; -1 where fewer contribute."""
    counts: Tensor
    """int64 [classes], images that the means are over."""
    rules: tuple[str, ...]
    """For each class the rule that was used: `label` where nothing fits the one asked for, and
    `undefined` where there is no image at all."""


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of columns by class; parts add up with `merge`."""

    n: Tensor
    """int64 [classes]."""
    mean: Tensor
    """float64 [classes, m]; 0 for a class without images."""
    m2: Tensor
    """float64 [classes, m], squared deviations from the mean, added up."""

    @property
    def std(self) -> Tensor:
        """float64 [classes, m], population standard deviation; nan for a class without images."""
        return (self.m2 / self.n[:, None]).sqrt()

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together.

        Source: Chan, Golub, LeVeque 1979.
        """
        n = self.n + other.n
        share = (other.n.double() / n.clamp(min=1))[:, None]
        delta = other.mean - self.mean
        mean = self.mean + delta * share
        return Moments(n, mean, self.m2 + other.m2 + delta.square() * share * self.n[:, None])


def importance(
    features: Features,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: GroupRule = "correct",
    keep: int = 5,
    pred: Tensor | None = None,
) -> Importance:
    """The mean contribution of every feature to every class's logit, and the largest ones.

    A class's values add up to the mean logit over the group, less the bias. Contributions of zero
    or below are never important; of equal ones the feature with the lower number comes first.

    Args:
        features: [n, f].
        y: int64 [n], labels.
        weight: [classes, f], the linear head.
        bias: [classes]; None: zeros. Only used for the predictions.
        group: `correct`, images of the class that the head gets right; `label`, all images of the
            class; `predicted`, images that the head puts into the class, whatever they show.
        keep: how many features of each class are listed.
        pred: int64 [n], the head's predictions, where they are known; saves one product a block.

    Raises:
        DataError: lengths do not fit, or a label is out of range.

    Source: Moayeri et al. 2023 (arXiv 2212.02648), section 3, and its code for `correct`; Singla &
    Feizi 2022 (arXiv 2110.04301) for `predicted`.
    """
    n, f = features.shape
    classes = len(weight)
    _check(n, f, y, weight)
    of = y
    if group != "label":
        said = _predicted(features, weight, bias) if pred is None else pred
        of = said if group == "predicted" else torch.where(said == y, y, -1)
    sums, counts = _class_sums(features, of, classes)
    empty = counts == 0
    if group != "label" and bool(empty.any()):
        rest, n_rest = _class_sums(features, torch.where(empty[y], y, -1), classes)
        sums, counts = sums + rest, counts + n_rest
    values = weight.double() * sums / counts[:, None]
    rules = tuple(
        "undefined" if not k else "label" if fell else group
        for k, fell in zip(counts.tolist(), empty.tolist(), strict=True)
    )
    return Importance(values, _largest(values, keep), counts, rules)


def _predicted(features: Features, weight: Tensor, bias: Tensor | None) -> Tensor:
    found = torch.zeros(len(features), dtype=torch.int64)
    for start, stop in _blocks(features):
        logits = _read(features, start, stop) @ weight.T.float()
        found[start:stop] = (logits if bias is None else logits + bias.float()).argmax(1)
    return found


def _class_sums(features: Features, of: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Sums of the rows of each class, float64, and their numbers; rows with -1 are left out."""
    sums = torch.zeros(n_classes, features.shape[1], dtype=torch.float64)
    for start, stop in _blocks(features):
        mine = of[start:stop]
        use = mine >= 0
        if bool(use.any()):
            block = _read(features, start, stop)
            whole = bool(use.all())
            sums.index_add_(
                0, mine if whole else mine[use], (block if whole else block[use]).double()
            )
    return sums, torch.bincount(of[of >= 0], minlength=n_classes)


def _largest(values: Tensor, keep: int) -> Tensor:
    found = values.nan_to_num(nan=-1.0).sort(stable=True, dim=1, descending=True)
    top = torch.where(found.values > 0, found.indices, -1)[:, :keep]
    return torch.nn.functional.pad(top, (0, keep - top.shape[1]), value=-1)


def pair_table(spurious: Mapping[int, Iterable[int]], n_classes: int) -> Tensor:
    """Features by class as one table: int64 [n_classes, widest], padded with -1.

    A feature that is named twice counts once.
    """
    sets = {c: sorted(set(features)) for c, features in spurious.items()}
    width = max((len(features) for features in sets.values()), default=0)
    table = torch.full((n_classes, width), -1)
    for c, features in sets.items():
        table[c, : len(features)] = torch.tensor(features, dtype=torch.int64)
    return table


def own_columns(features: Features, y: Tensor, table: Tensor) -> Tensor:
    """Of every image the features that are listed for its own class, in one pass.

    Args:
        features: [n, f].
        y: int64 [n], labels.
        table: int64 [classes, m], features of each class; -1: none.

    Returns:
        float32 [n, m]; nan where the table has -1.
    """
    n = len(features)
    columns = torch.full((n, table.shape[1]), float("nan"))
    for start, stop in _blocks(features):
        mine = table[y[start:stop]]
        picked = _pick(features, start, stop, mine)
        columns[start:stop] = torch.where(mine >= 0, picked, float("nan"))
    return columns


def _pick(features: Features, start: int, stop: int, mine: Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features[start:stop].gather(1, mine.clamp(min=0)).float()
    picked = np.take_along_axis(features[start:stop], mine.clamp(min=0).numpy(), 1)
    return torch.from_numpy(picked.astype(np.float32))


def class_stats(columns: Tensor, y: Tensor, n_classes: int) -> Moments:
    """Count, mean and squared deviations of columns within each class.

    Two passes over each block in float64, and Chan's formula between blocks: the formula
    E[x²] - E[x]² loses all digits of features that vary little.

    Args:
        columns: floating [n, m]; nan makes a class's entry nan.
        y: int64 [n], labels.
        n_classes: number of classes.
    """
    m = columns.shape[1]
    nothing = torch.zeros(n_classes, m, dtype=torch.float64)
    found = Moments(torch.zeros(n_classes, dtype=torch.int64), nothing, nothing)
    size = BLOCK * 512 // max(1, m)
    for start in range(0, len(columns), size):
        x, labels = columns[start : start + size].double(), y[start : start + size]
        n = torch.bincount(labels, minlength=n_classes)
        mean = nothing.index_add(0, labels, x) / n.clamp(min=1)[:, None]
        m2 = nothing.index_add(0, labels, (x - mean[labels]).square())
        found = found.merge(Moments(n, mean, m2))
    return found


def statistics(own: Moments, train: Moments | None, stats_from: StatsFrom = "own") -> Moments:
    """The moments to standardise by: a split's own, or the training images'.

    Classes with fewer than `FEW` images take those of the training images in any case, where they
    are given.
    """
    if train is None:
        return own
    use = own.n < FEW if stats_from == "own" else torch.ones_like(own.n, dtype=torch.bool)
    wide = use[:, None]
    return Moments(
        torch.where(use, train.n, own.n),
        torch.where(wide, train.mean, own.mean),
        torch.where(wide, train.m2, own.m2),
    )


def varies(stats: Moments) -> Tensor:
    """Which columns vary within each class, as far as numbers can tell: bool [classes, m].

    A column that is nan, and one of a class without images, does not.
    """
    return stats.std >= _CONSTANT * stats.mean.abs().clamp(min=1)


def scores(columns: Tensor, y: Tensor, stats: Moments, chosen: Tensor | None = None) -> Tensor:
    """The mean standardised value of each image's chosen columns.

    Columns that do not vary within the class are left out of its mean, and so are those that are
    nan.

    Args:
        columns: floating [n, m], of the images' own classes.
        y: int64 [n], labels.
        stats: of the columns, by class.
        chosen: bool [classes, m], the columns that count; None: all.

    Returns:
        float64 [n]; nan for images of a class with no usable column.
    """
    usable = varies(stats) if chosen is None else varies(stats) & chosen
    scale = torch.where(usable, 1 / stats.std, 0.0)
    shift = torch.where(usable, stats.mean, 0.0)
    total = torch.zeros(len(columns), dtype=torch.float64)
    for j in range(columns.shape[1]):
        x = torch.where(usable[:, j][y], columns[:, j].double(), 0.0)
        total += (x - shift[:, j][y]) * scale[:, j][y]
    return total / usable.sum(1).double()[y].where(usable.any(1)[y], torch.nan)


def spuriosity(
    features: Features,
    y: Tensor,
    spurious: Mapping[int, Iterable[int]],
    n_classes: int,
    *,
    train: tuple[Features, Tensor] | None = None,
    stats_from: StatsFrom = "own",
) -> Tensor:
    """How strongly each image shows what is spurious for its class.

    Args:
        features: [n, f].
        y: int64 [n], labels.
        spurious: for each class the features that were judged spurious.
        n_classes: number of classes.
        train: features and labels of the training images; needed for `stats_from="train"` and used
            for classes with fewer than `FEW` images.
        stats_from: by which images' statistics features are standardised.

    Returns:
        float64 [n], mean 0 and at most variance 1 in each class; nan (missing, not 0) for classes
        without a spurious feature that varies.

    Raises:
        DataError: training statistics are asked for and there are no training images; lengths do
            not fit; or a label, or a class or feature of `spurious`, is out of range.

    Source: Moayeri et al. 2023, section 3.
    """
    for x, labels in [(features, y)] if train is None else [(features, y), train]:
        if len(x) != len(labels):
            raise DataError(f"there are {len(x):,} rows of features and {len(labels):,} labels")
        _check_range("labels", labels, n_classes)
    spurious = {c: list(chosen) for c, chosen in spurious.items()}
    _check_range("classes with spurious features", torch.tensor(list(spurious)), n_classes)
    for c, chosen in spurious.items():
        wanted = torch.tensor(chosen, dtype=torch.int64)
        _check_range(f"spurious features of class {c}", wanted, features.shape[1])
    if stats_from == "train" and train is None:
        raise DataError("statistics of the training images are asked for; give their features")
    table = pair_table(spurious, n_classes)
    columns = own_columns(features, y, table)
    own = class_stats(columns, y, n_classes)
    other = None
    if train is not None:
        other = class_stats(own_columns(train[0], train[1], table), train[1], n_classes)
    return scores(columns, y, statistics(own, other, stats_from))


def _blocks(features: Features) -> Iterator[tuple[int, int]]:
    """Where blocks of rows begin and end; lets go of a mapped file's pages now and then."""
    n = len(features)
    for i, start in enumerate(range(0, n, BLOCK), 1):
        yield start, min(start + BLOCK, n)
        if i % _HELD == 0 or start + BLOCK >= n:
            _let_go(features)


def _let_go(features: Features) -> None:
    """Count the pages of a mapped file no longer as this process's memory.

    They stay in the system's cache. A file that is mapped for writing is left alone.
    """
    base: Any = features
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _read(features: Features, start: int, stop: int) -> Tensor:
    """Rows in float32, in memory of their own where they are mapped from a file."""
    if isinstance(features, Tensor):
        return features[start:stop].float()
    # numpy takes fifteen times as long as torch to turn half precision into single
    return torch.from_numpy(np.array(features[start:stop])).float()


def _check(n: int, f: int, y: Tensor, weight: Tensor) -> None:
    if len(y) != n or weight.shape[1] != f:
        raise DataError(
            f"there are {n:,} rows of {f:,} features, {len(y):,} labels, and weights for"
            f" {weight.shape[1]:,} features"
        )
    _check_range("labels", y, len(weight))


def _check_range(what: str, found: Tensor, size: int) -> None:
    if len(found) and (int(found.min()) < 0 or int(found.max()) >= size):
        raise DataError(
            f"{what} must lie in 0..{size - 1}; found {int(found.min())}..{int(found.max())}"
        )
