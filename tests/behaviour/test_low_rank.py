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
    """Batches of vectors; two noisy views of each where asked."""

    def __init__(self, data: Vectors, weights: Tensor | None = None, *, views: int = 1, seed: int):
        self.data, self.weights, self.views, self.seed = data, weights, views, seed
        self.samples = len(data.y)
        self.per_epoch = self.samples // 256 + (views == 1)

    def batch(self, step: int) -> Batch:
        epoch, k = divmod(step, self.per_epoch)
        rng = torch.Generator().manual_seed(10_000 * self.seed + epoch)
        if self.weights is None:
            ids = torch.randperm(self.samples, generator=rng)
        else:
            ids = torch.multinomial(self.weights, self.samples, replacement=True, generator=rng)
        ids = ids[256 * k : 256 * (k + 1)]
        x = self.data.x[ids]
        if self.views == 1:
            return Batch((x,), self.data.y[ids], ids)
        rng.manual_seed(10_000 * self.seed + step + 5000)

        def view() -> Tensor:
            kept = torch.rand(x.shape, generator=rng) > 0.2
            return x * kept + 0.5 * torch.randn(x.shape, generator=rng)

        return Batch((view(), view()), self.data.y[ids], ids)


def trained(learner: Learner, source: Source | ImageSet, plan: Plan, seed: int, **more) -> Learner:
    run = Run(None, seed, Device("cpu"))
    return run.train("fit", lambda: learner, source, plan, **more)


def fresh(width: int, seed: int) -> Net:
    torch.manual_seed(seed)
    return Net(width)


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
    first = trained(
        LowRank(fresh(64, seed), strength), Source(train, seed=seed), ERM_PLAN, seed  # type: ignore[arg-type]
    ).net  # fmt: skip
    wrong, found = errors(first, train)
    second = upweighted(train, test, wrong, seed)
    return rank_of(first, test) | found | {"biased": right(first, test)[1]} | second


def upweighted(train: Vectors, test: Vectors, wrong: Tensor, seed: int) -> dict[str, float]:
    source = Source(train, upweights(wrong, 10), seed=seed + 50)
    net = trained(LowRank(fresh(64, seed + 50), 0.0), source, ERM_PLAN, seed).net  # type: ignore[arg-type]
    aligned, conflicting = right(net, test)
    return {"aligned": aligned, "debiased": conflicting}


SUPERVISED = {  # strength: H, L_reg, biased network, precision, recall, upweighted network
    0: (3.096, 0.096, 0.632, 0.969, 0.126, 0.666),
    1: (2.228, 0.816, 0.470, 0.997, 0.291, 0.707),
    3: (1.946, 0.908, 0.299, 1.000, 0.583, 0.753),
    10: (1.767, 0.946, 0.016, 1.000, 0.975, 0.772),
    30: (1.704, 0.966, 0.020, 0.762, 0.975, 0.761),
}


@pytest.mark.slow
def test_biased_training_with_a_low_rank_finds_exceptions() -> None:
    found = {k: mean([supervised(0.9, k, seed) for seed in SEEDS]) for k in SUPERVISED}
    oracle = mean([
        upweighted(*(data := vectors(0.9, seed)), data[0].conflicting, seed) for seed in SEEDS
    ])["debiased"]  # fmt: skip
    for key in ("H", "biased"):
        values = [found[k][key] for k in (0, 1, 3, 10)]
        assert values == sorted(values, reverse=True), key
    for key in ("penalty", "recall", "debiased"):
        values = [found[k][key] for k in (0, 1, 3, 10)]
        assert values == sorted(values), key
    assert found[30]["precision"] < 0.9 < found[10]["precision"], "too strong: collapse"
    assert found[10]["debiased"] == pytest.approx(oracle, abs=0.03)
    for k, (_, penalty, *_, debiased) in SUPERVISED.items():
        assert found[k]["penalty"] == pytest.approx(penalty, abs=0.03), k
        assert found[k]["debiased"] == pytest.approx(debiased, abs=0.03), k
        assert found[k]["aligned"] > 0.96


def selfsupervised(seed: int) -> dict[float, dict[str, float]]:
    train, test = vectors(0.9, seed)
    plan = Plan(epochs=15, batch_size=256, optimizer=Adam(lr=1e-3))
    probe = Plan(epochs=40, batch_size=256, drop_last=True, optimizer=Adam(lr=1e-2))
    rows, main = {}, None
    for strength in SELFSUPERVISED:
        learner = SelfSupervised(
            fresh(64, seed), "simclr", strength=strength, tau=0.3, expander=1  # type: ignore[arg-type]
        )  # fmt: skip
        learner.projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        net = trained(learner, Source(train, views=2, seed=seed), plan, seed).net
        main = main or net

        def probed(encoder: Net, weights: Tensor | None) -> Net:
            one = fresh(64, seed + 7)
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


SELFSUPERVISED = {  # strength: L_reg, share of errors, precision, recall, plain, upweighted
    0: (0.045, 0.073, 1.000, 0.723, 0.210, 0.417),
    0.3: (0.127, 0.080, 1.000, 0.787, 0.210, 0.425),
    1: (0.725, 0.096, 1.000, 0.943, 0.210, 0.439),
    3: (0.939, 0.100, 1.000, 0.980, 0.210, 0.440),
    10: (0.963, 0.101, 0.997, 0.988, 0.210, 0.439),
}


@pytest.mark.slow
def test_pretraining_with_a_low_rank_finds_exceptions() -> None:
    of = [selfsupervised(seed) for seed in SEEDS]
    found = {k: mean([rows[k] for rows in of]) for k in SELFSUPERVISED}
    rows = list(found.values())
    assert [r["H"] for r in rows] == sorted((r["H"] for r in rows), reverse=True)
    for key in ("penalty", "recall", "share"):
        assert [r[key] for r in rows] == sorted(r[key] for r in rows), key
    assert found[10]["share"] == pytest.approx(0.1, abs=0.01)
    assert found[0]["plain"] + 0.1 < found[0]["debiased"] < found[3]["debiased"]
    for k, (penalty, share, precision, recall, plain, debiased) in SELFSUPERVISED.items():
        wanted = {"share": share, "precision": precision, "recall": recall, "debiased": debiased}
        near = 0.05 if k == 0.3 else 0.03  # there, seeds differ most: the rank begins to fall
        for key, value in (wanted | {"penalty": penalty, "plain": plain}).items():
            assert found[k][key] == pytest.approx(value, abs=near), (k, key)


@pytest.mark.slow
def test_rank_falls_with_the_bias() -> None:
    plan = Plan(epochs=30, batch_size=256, optimizer=AdamW(lr=2e-3, weight_decay=1e-3))

    @cache
    def rank(share: float) -> float:
        values = []
        for seed in SEEDS:
            train, _ = vectors(share, seed, colour=True)
            learner = LowRank(fresh(35, seed), 0.0)  # type: ignore[arg-type]
            values.append(
                rank_of(trained(learner, Source(train, seed=seed), plan, seed).net, train)
            )
        return mean(values)["H"]

    assert rank(0.1) > rank(0.99) > rank(1.0)
