"""How well codes of images match known factors: BetaVAE, FactorVAE, MIG, DCI and SAP.

Codes are computed once, for every image of a full grid of factors; every metric draws from that
table. Where an image belongs in the table: the sum of factor index times the product of later
factors' sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.errors import DataError
from truecue.seeds import derive

PAIRS = 64
"""Pairs (BetaVAE) or images (FactorVAE) that one vote rests on."""
BINS = 20
"""Equal-width bins that MIG cuts a code into."""
DEAD = 0.05
"""Codes with a smaller deviation do not vote (FactorVAE)."""
_TINY = 1e-11
_BLOCK = 500


class FactorTable(NamedTuple):
    """Codes of all images of a grid of factors."""

    codes: Tensor
    """float [n, k], n the product of the sizes."""
    sizes: tuple[int, ...]
    """Values of each factor; at least two factors of at least two values."""

    def check(self) -> FactorTable:
        """This table.

        Raises:
            DataError: the number of codes is not that of the grid, a code is not finite, or there
                are fewer than two factors or values of one.
        """
        if len(self.sizes) < 2 or min(self.sizes) < 2:
            raise DataError(
                "codes are held against at least two factors of at least two values each; got"
                f" factors of {', '.join(map(str, self.sizes)) or 'no'} values"
            )
        n = math.prod(self.sizes)
        if self.codes.dim() != 2 or len(self.codes) != n:
            raise DataError(
                f"a grid of {' x '.join(map(str, self.sizes))} factors has {n:,} images; there are"
                f" codes {list(self.codes.shape)}"
            )
        if not bool(self.codes.isfinite().all()):
            raise DataError("a code is not finite")
        return self

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Codes [n, k] and factor values int64 [n, f] of images drawn with replacement."""
        values = self.values((n,), rng)
        return self.at(values), values

    def values(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Factor values, each drawn by itself: int64 [*shape, f]."""
        drawn = [torch.randint(size, shape, generator=rng) for size in self.sizes]
        return torch.stack(drawn, -1)

    def at(self, values: Tensor) -> Tensor:
        """Codes [..., k] of factor values [..., f]."""
        count = torch.tensor(self.sizes)
        later = count.flip(0).cumprod(0).flip(0) // count
        return self.codes[(values * later).sum(-1)]


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float
    """Accuracy on test images, averaged over factors."""
    importance: Tensor
    """float [k, f], how much each code counts in predicting each factor."""

    @property
    def score(self) -> float:
        """The mean of the three."""
        return sum(self[:3]) / 3

    @property
    def score_as_released(self) -> float:
        """The released code's mean, which subtracts informativeness though more is better."""
        return (self.disentanglement + self.completeness + 1 - self.informativeness) / 3


def beta_vae(table: FactorTable, *, votes: int = 5000, seed: int = 0) -> float:
    """How often the factor that pairs of images agree in can be told from their codes.

    For each vote, 64 pairs that agree in one factor; the feature is the mean absolute difference of
    each code, in deviations of that code over the grid. A logistic regression says which factor.

    Args:
        table: codes of the grid.
        votes: for training, and again for testing.
        seed: of what is drawn.

    Returns:
        Accuracy on the test votes.

    Source: Higgins et al., ICLR 2017.
    """
    from sklearn.linear_model import LogisticRegression

    rng = torch.Generator().manual_seed(derive(seed, "betavae"))
    parts = [_agreeing(table.check(), votes, rng) for _ in range(2)]
    (x, y), (x_test, y_test) = ((f.numpy(), j.numpy()) for f, j in parts)
    model = LogisticRegression(max_iter=1000).fit(x, y)
    return float(model.score(x_test, y_test))


def factor_vae(table: FactorTable, *, votes: int = 5000, seed: int = 0) -> float:
    """How often the code that varies least among images that share a factor gives it away.

    Args:
        table: codes of the grid; those with a deviation below 0.05 are left out.
        votes: for the table of majorities, and again for testing.
        seed: of what is drawn.

    Returns:
        Accuracy of the majority of each code; 0 where no code is left.

    Source: Kim & Mnih, ICML 2018.
    """
    rng = torch.Generator().manual_seed(derive(seed, "factorvae"))
    codes, _ = table.check().draw(5000, rng)
    variance = codes.double().var(0)
    kept = variance.sqrt() >= DEAD
    if not bool(kept.any()):
        return 0.0
    counts = []
    for _ in range(2):
        j = torch.randint(len(table.sizes), (votes,), generator=rng)
        least = [
            (_sharing(table, part, rng)[..., kept].double().var(1) / variance[kept]).argmin(1)
            for part in j.split(_BLOCK)
        ]
        n_codes, n_factors = int(kept.sum()), len(table.sizes)
        cells = torch.cat(least) * n_factors + j
        counts.append(torch.bincount(cells, minlength=n_codes * n_factors).view(n_codes, n_factors))
    return majority_accuracy(*counts)


def majority_accuracy(train: Tensor, test: Tensor) -> float:
    """Accuracy of saying, for each code, the factor that most training votes gave it.

    Args:
        train: int64 [codes, factors], votes.
        test: int64 [codes, factors], other votes.
    """
    said = train.argmax(1, keepdim=True)
    return float(test.gather(1, said).sum() / test.sum())


def mig(table: FactorTable, *, n: int = 10_000, seed: int = 0) -> float:
    """Mutual information gap: how much more the best code knows of a factor than the second best.

    Args:
        table: codes of the grid.
        n: images drawn; with n at least as large as the grid, the grid itself.
        seed: of what is drawn.

    Returns:
        Mean over factors of the gap in nats, divided by the factor's entropy.

    Source: Chen et al., NeurIPS 2018.
    """
    if n >= len(table.check().codes):
        grids = torch.meshgrid(*map(torch.arange, table.sizes), indexing="ij")
        values = torch.stack([g.flatten() for g in grids], 1)
        codes = table.codes
    else:
        codes, values = table.draw(n, torch.Generator().manual_seed(derive(seed, "mig")))
    known = mutual_information(codes, values)
    entropy = torch.stack([_entropy(torch.bincount(v)) for v in values.T])
    return float(((gap(known)) / entropy).mean())


def mutual_information(codes: Tensor, values: Tensor) -> Tensor:
    """Mutual information in nats [k, f] of codes [n, k], cut into 20 bins, and factors [n, f]."""
    low, high = codes.amin(0), codes.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    bins = ((codes - low) / width * BINS).long().clamp(max=BINS - 1)
    rows = []
    for b in bins.T:
        row = []
        for v in values.T:
            size = int(v.max()) + 1
            joint = torch.bincount(b * size + v, minlength=BINS * size).view(BINS, size)
            row.append(_entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint.flatten()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def dci(table: FactorTable, *, n: int = 5000, seed: int = 0) -> DCI:
    """How far each code knows one factor, each factor needs one code, and codes know factors.

    Gradient-boosted trees predict each factor from the codes of n images, and are tested on n
    others.

    Source: Eastwood & Williams, ICLR 2018, with Locatello et al.'s use of boosted trees.
    """
    from sklearn.ensemble import GradientBoostingClassifier

    rng = torch.Generator().manual_seed(derive(seed, "dci"))
    (x, y), (x_test, y_test) = (table.check().draw(n, rng) for _ in range(2))
    columns, right = [], []
    for j in range(len(table.sizes)):
        model = GradientBoostingClassifier(random_state=derive(seed, "dci", j) % 2**32)
        model.fit(x.numpy(), y[:, j].numpy())
        columns.append(torch.from_numpy(model.feature_importances_))
        right.append(float(model.score(x_test.numpy(), y_test[:, j].numpy())))
    importance = torch.stack(columns, 1)
    return DCI(*purity(importance), sum(right) / len(right), importance)


def purity(importance: Tensor) -> tuple[float, float]:
    """Disentanglement and completeness of a table of importances [k, f].

    With a single code completeness says nothing: it is 1, since no factor needs another.
    """
    return _pure(importance), _pure(importance.T)


def sap(
    table: FactorTable, *, n: int = 10_000, categorical: Sequence[int] = (), seed: int = 0
) -> float:
    """Separated attribute predictability: how much better the best code is than the second best.

    A code's score for a factor is the R^2 of a straight line; for categorical factors the accuracy
    of saying the class with the nearest mean.

    Args:
        table: codes of the grid.
        n: images drawn.
        categorical: positions of factors whose values have no order.
        seed: of what is drawn.

    Returns:
        Mean over factors of the gap.

    Source: Kumar et al., ICLR 2018.
    """
    rng = torch.Generator().manual_seed(derive(seed, "sap"))
    codes, values = table.check().draw(n, rng)
    return float(gap(_predictability(codes.double(), values, categorical)).mean())


def gap(scores: Tensor) -> Tensor:
    """The largest minus the second largest score of each column: [f] of [k, f]; 0 below nothing."""
    best = torch.cat([scores, torch.zeros_like(scores[:1])]).topk(2, dim=0).values
    return best[0] - best[1]


def _predictability(codes: Tensor, values: Tensor, categorical: Sequence[int]) -> Tensor:
    c = codes - codes.mean(0)
    v = values.double() - values.double().mean(0)
    spread = c.square().sum(0)[:, None] * v.square().sum(0)
    squared = (c.T @ v).square() / spread.clamp(min=_TINY)
    for j in categorical:
        classes = torch.nn.functional.one_hot(values[:, j]).double()
        drawn = classes.sum(0)[:, None]
        means = torch.where(drawn > 0, classes.T @ codes / drawn, torch.inf)  # [m, k]
        said = (codes[:, None] - means).abs().argmin(1)
        squared[:, j] = (said == values[:, j, None]).double().mean(0)
    return squared


def _agreeing(table: FactorTable, votes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features [votes, k] of pairs that agree in one factor, and which: int64 [votes]."""
    scale = table.codes.std(0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    j = torch.randint(len(table.sizes), (votes,), generator=rng)
    features = []
    for part in j.split(_BLOCK):
        first = table.values((len(part), PAIRS), rng)
        second = table.values((len(part), PAIRS), rng)
        same = torch.nn.functional.one_hot(part, len(table.sizes)).bool()[:, None]
        second = torch.where(same, first, second)
        apart = (table.at(first) - table.at(second)).abs() / scale
        features.append(apart.mean(1))
    return torch.cat(features), j


def _sharing(table: FactorTable, j: Tensor, rng: torch.Generator) -> Tensor:
    """Codes [votes, 64, k] of images that share the value of one factor."""
    values = table.values((len(j), PAIRS), rng)
    same = torch.nn.functional.one_hot(j, len(table.sizes)).bool()[:, None]
    return table.at(torch.where(same, values[:, :1], values))


def _entropy(counts: Tensor) -> Tensor:
    """In nats, of counts [m]."""
    p = counts.double() / counts.sum()
    entropy: Tensor = torch.special.entr(p).sum()
    return entropy


def _pure(importance: Tensor) -> float:
    """One minus the entropy of each row, to the base of its length; mean weighted by the rows.

    Rows of length 1 have no entropy.
    """
    weights = importance.double() + _TINY
    p = weights / weights.sum(1, keepdim=True)
    pure = 1 - torch.special.entr(p).sum(1) / math.log(max(p.shape[1], 2))
    shares = importance.double().sum(1)
    return float((pure * shares).sum() / shares.sum().clamp(min=_TINY))
