"""What a low rank does, on made-up vectors: errors find exceptions, more so the stronger it is.

A vector holds a core, one of several prototypes of its class under noise, and the prototype of a
"bias" class, which is the same class for a share of the vectors. The tables' means of three seeds
were measured with an independent implementation and other random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.learner import Learner
from truecue.engine.plan import Adam, AdamW, Plan
from truecue.engine.run import Run
from truecue.losses.rank import rank_penalty
from truecue.methods.lowrank import LowRank, Probe, SelfSupervised, bias_scores, upweights
from truecue.metrics.rank import rank_entropy, spectrum

SEEDS = (0, 1, 2)
K = 10


@dataclass(frozen=True)
class Vectors:
    x: Tensor
    y: Tensor
    b: Tensor

    @property
    def conflicting(self) -> Tensor:
        return self.y != self.b


def vectors(share: float, seed: int, *, colour: bool = False) -> tuple[Vectors, Vectors]:
    """4,000 for training with this share of aligned ones, 2,000 for testing without a bias."""
    rng = torch.Generator().manual_seed(123)
    modes = 4 if colour else 3
    core = torch.randn(K, modes, 32, generator=rng)
    bias = torch.rand(K, 3, generator=rng) * 2 - 1 if colour else torch.randn(K, 32, generator=rng)
    rng = torch.Generator().manual_seed(1000 + seed)

    def draw(n: int, aligned: float) -> Vectors:
        y = torch.randint(K, (n,), generator=rng)
        mode = torch.randint(modes, (n,), generator=rng)
        agrees = torch.rand(n, generator=rng) < aligned
        b = torch.where(agrees, y, (y + torch.randint(1, K, (n,), generator=rng)) % K)
        noise = torch.randn(n, 32, generator=rng)
        first = core[y, mode] + (0.8 if colour else 1.0) * noise
        more = torch.randn(n, bias.shape[1], generator=rng)
        second = 3 * (bias[b] + 0.05 * more) if colour else bias[b] + 0.2 * more
        return Vectors(torch.cat([first, second], 1), y, b)

    return draw(4000, share), draw(2000, 0.1)


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, K)
        self.n_features = 64

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Source:
    """Full batches of vectors, in order; two noisy views of each where asked."""

    def __init__(
        self, data: Vectors, rng: torch.Generator, weights: Tensor | None = None, *, views: int = 1
    ):
        self.data, self.rng, self.weights, self.views = data, rng, weights, views
        self.samples = len(data.y)
        self.per_epoch = self.samples // 256

    def batch(self, step: int) -> Batch:
        k, n = step % self.per_epoch, self.samples
        if k == 0:
            self.order = (
                torch.randperm(n, generator=self.rng) if self.weights is None
                else torch.multinomial(self.weights, n, replacement=True, generator=self.rng)
            )  # fmt: skip
        ids = self.order[256 * k : 256 * (k + 1)]
        x = self.data.x[ids]

        def view() -> Tensor:
            kept = torch.rand(x.shape, generator=self.rng) > 0.2
            return x * kept + 0.5 * torch.randn(x.shape, generator=self.rng)

        views = (x,) if self.views == 1 else (view(), view())
        return Batch(views, self.data.y[ids], ids)


def trained(learner: Learner, source: Source | ImageSet, plan: Plan, seed: int, **more) -> Learner:
    run = Run(None, seed, Device("cpu"))
    return run.train("fit", lambda: learner, source, plan, **more)


def fresh(width: int, seed: int) -> tuple[Net, torch.Generator]:
    """A network, and the random numbers that follow those of its weights."""
    torch.manual_seed(seed)
    return Net(width), following()


def following() -> torch.Generator:
    return torch.Generator().set_state(torch.get_rng_state())


@torch.no_grad()
def right(net: Net, data: Vectors) -> tuple[float, float]:
    """Accuracy on aligned and on conflicting vectors."""
    hits = (net(data.x).argmax(1) == data.y).float()
    return float(hits[~data.conflicting].mean()), float(hits[data.conflicting].mean())


@torch.no_grad()
def errors(net: Net, data: Vectors) -> tuple[Tensor, dict[str, float]]:
    wrong = bias_scores(net(data.x), data.y)[1]
    hits = float((wrong & data.conflicting).sum())
    return wrong, {
        "share": float(wrong.float().mean()),
        "precision": hits / float(wrong.sum()),
        "recall": hits / float(data.conflicting.sum()),
    }


@torch.no_grad()
def rank_of(net: Net, data: Vectors) -> dict[str, float]:
    z = net.features(data.x[:512])
    return {"H": rank_entropy(spectrum(z)), "penalty": float(rank_penalty(z))}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


ERM_PLAN = Plan(epochs=15, batch_size=256, optimizer=Adam(lr=1e-3, weight_decay=1e-4))


def supervised(share: float, strength: float, seed: int) -> dict[str, float]:
    train, test = vectors(share, seed)
    net, rng = fresh(64, seed)
    first = trained(LowRank(net, strength), Source(train, rng), ERM_PLAN, seed).net  # type: ignore[arg-type]
    wrong, found = errors(first, train)
    second = upweighted(train, test, wrong, seed)
    return rank_of(first, test) | found | {"biased": right(first, test)[1]} | second


def upweighted(train: Vectors, test: Vectors, wrong: Tensor, seed: int) -> dict[str, float]:
    net, rng = fresh(64, seed + 100)
    source = Source(train, rng, upweights(wrong, 10))
    net = trained(LowRank(net, 0.0), source, ERM_PLAN, seed).net  # type: ignore[arg-type]
    aligned, conflicting = right(net, test)
    return {"aligned": aligned, "debiased": conflicting}


def with_the_true_errors(share: float, seeds: tuple[int, ...]) -> float:
    rows = []
    for seed in seeds:
        train, test = vectors(share, seed)
        rows.append(upweighted(train, test, train.conflicting, seed))
    return mean(rows)["debiased"]


NEAR = 0.03
MORE = (0, 1, 2, 3, 4, 5)
"""Seeds for the last three columns, whose own seeds are not known."""
COLUMNS = ("H", "penalty", "biased", "precision", "recall", "debiased")
SUPERVISED = {  # strength: H, L_reg, biased network, precision, recall, upweighted network
    0: (3.096, 0.096, 0.632, 0.969, 0.126, 0.666),
    1: (2.228, 0.816, 0.470, 0.997, 0.291, 0.707),
    3: (1.946, 0.908, 0.299, 1.000, 0.583, 0.753),
    10: (1.767, 0.946, 0.016, 1.000, 0.975, 0.772),
    30: (1.704, 0.966, 0.020, 0.762, 0.975, 0.761),
}
FURTHER = {(30, "precision"): 0.1}
"""There the biased network has collapsed, and precision is anything from 0.45 to 0.99 by seed; the
mean of the six seeds was 0.71."""


@pytest.mark.slow
def test_biased_training_with_a_low_rank_finds_exceptions() -> None:
    rows = {k: [supervised(0.9, k, seed) for seed in MORE] for k in SUPERVISED}
    few = {k: mean(of[: len(SEEDS)]) for k, of in rows.items()}
    found = {k: mean(of) | {name: few[k][name] for name in COLUMNS[:3]} for k, of in rows.items()}
    for k, wanted in SUPERVISED.items():
        for name, value in zip(COLUMNS, wanted, strict=True):
            near = FURTHER.get((k, name), NEAR)
            assert found[k][name] == pytest.approx(value, abs=near), (k, name)
        assert found[k]["aligned"] > 0.98
    oracle = with_the_true_errors(0.9, MORE)
    assert oracle == pytest.approx(0.775, abs=NEAR)
    for key in ("H", "biased"):
        values = [found[k][key] for k in (0, 1, 3, 10)]
        assert values == sorted(values, reverse=True), key
    for key in ("penalty", "recall", "debiased"):
        values = [found[k][key] for k in (0, 1, 3, 10)]
        assert values == sorted(values), key
    assert found[0]["biased"] < found[0]["debiased"], "plain training, and its own errors"
    assert found[30]["precision"] < 0.9 < found[10]["precision"], "too strong: collapse"
    assert found[10]["debiased"] == pytest.approx(oracle, abs=0.02)


DEBIASED = {0: 0.520, 1: 0.578, 3: 0.618, 10: 0.623, 30: 0.623}
"""By strength, where 95 % are aligned; plainly trained 0.442, with the true errors 0.626."""


@pytest.mark.slow
def test_fewer_exceptions_are_found_as_well() -> None:
    found = {k: mean([supervised(0.95, k, seed) for seed in MORE]) for k in DEBIASED}
    assert found[0]["biased"] == pytest.approx(0.442, abs=NEAR), "strength 0: plain training"
    assert with_the_true_errors(0.95, MORE) == pytest.approx(0.626, abs=NEAR)
    for k, value in DEBIASED.items():
        assert found[k]["debiased"] == pytest.approx(value, abs=NEAR), k
        assert found[k]["aligned"] > 0.98
    assert found[10]["recall"] == pytest.approx(0.992, abs=NEAR)
    assert found[30]["precision"] < 0.9 < found[10]["precision"]
    values = [found[0]["biased"], *(found[k]["debiased"] for k in (0, 1, 3, 10))]
    assert values == sorted(values)


def selfsupervised(seed: int) -> dict[float, dict[str, float]]:
    train, test = vectors(0.9, seed)
    plan = Plan(epochs=15, batch_size=256, optimizer=Adam(lr=1e-3, weight_decay=1e-4))
    probe = Plan(
        epochs=40, batch_size=256, drop_last=True, optimizer=Adam(lr=1e-2, weight_decay=1e-4)
    )
    rows, main = {}, None
    for strength in SELFSUPERVISED:
        start, _ = fresh(64, seed)
        projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        rng = following()
        learner = SelfSupervised(
            start, "simclr", strength=strength, tau=0.3, expander=1  # type: ignore[arg-type]
        )  # fmt: skip
        learner.projector = projector
        net = trained(learner, Source(train, rng, views=2), plan, seed).net
        main = main or net

        def probed(encoder: Net, weights: Tensor | None) -> Net:
            one, _ = fresh(64, seed + 7)
            one.encoder.load_state_dict(encoder.encoder.state_dict())
            with torch.no_grad():
                z = one.features(train.x)
            data = ImageSet(z[:, :, None, None], train.y, tuple("0123456789"))
            return trained(Probe(one), data, probe, seed, weights=weights).net  # type: ignore[arg-type]

        biased = probed(net, None)
        wrong, found = errors(biased, train)
        debiased = right(probed(main, upweights(wrong, 10)), test)[1]
        plain = right(biased, test)[1] if net is main else rows[0]["plain"]
        rows[strength] = rank_of(net, test) | found | {"plain": plain, "debiased": debiased}
    return rows


SELFSUPERVISED = {  # strength: H, L_reg, share of errors, precision, recall, plain, upweighted
    0: (3.622, 0.045, 0.073, 1.000, 0.723, 0.210, 0.417),
    0.3: (3.523, 0.127, 0.080, 1.000, 0.787, 0.210, 0.425),
    1: (2.681, 0.725, 0.096, 1.000, 0.943, 0.210, 0.439),
    3: (2.142, 0.939, 0.100, 1.000, 0.980, 0.210, 0.440),
    10: (1.853, 0.963, 0.101, 0.997, 0.988, 0.210, 0.439),
}


@pytest.mark.slow
def test_pretraining_with_a_low_rank_finds_exceptions() -> None:
    of = [selfsupervised(seed) for seed in SEEDS]
    found = {k: mean([rows[k] for rows in of]) for k in SELFSUPERVISED}
    names = ("H", "penalty", "share", "precision", "recall", "plain", "debiased")
    for k, wanted in SELFSUPERVISED.items():
        for name, value in zip(names, wanted, strict=True):
            assert found[k][name] == pytest.approx(value, abs=NEAR), (k, name)
    rows = list(found.values())
    assert [r["H"] for r in rows] == sorted((r["H"] for r in rows), reverse=True)
    for key in ("penalty", "recall", "share"):
        assert [r[key] for r in rows] == sorted(r[key] for r in rows), key
    assert found[10]["share"] == pytest.approx(0.1, abs=0.01)
    assert found[0]["plain"] + 0.1 < found[0]["debiased"] < found[3]["debiased"]


@pytest.mark.slow
def test_rank_falls_with_the_bias() -> None:
    plan = Plan(epochs=30, batch_size=256, optimizer=AdamW(lr=2e-3, weight_decay=1e-3))

    @cache
    def rank(share: float) -> float:
        values = []
        for seed in SEEDS:
            train, _ = vectors(share, seed, colour=True)
            net, rng = fresh(35, seed)
            learner = LowRank(net, 0.0)  # type: ignore[arg-type]
            values.append(rank_of(trained(learner, Source(train, rng), plan, seed).net, train))
        return mean(values)["H"]

    assert rank(0.1) > rank(0.99) > rank(1.0)
