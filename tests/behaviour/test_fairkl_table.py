"""What the losses do to an embedding of synthetic vectors, against a table made beforehand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truecue.losses.classification import ce
from truecue.losses.contrastive import contrastive, similarities
from truecue.losses.fairkl import exact_moments, fairkl

pytestmark = pytest.mark.slow

SHARES = (0.90, 0.95, 0.99)
# loss, margin, variant, lambda: accuracy on conflicting samples where 90, 95 and 99 % are aligned
TABLE = {
    ("ce", 0, "none", 0): (0.740, 0.565, 0.128),
    ("supcon", 0, "none", 0): (0.740, 0.490, 0.043),
    ("supinfonce", 0, "none", 0): (0.767, 0.542, 0.080),
    ("supinfonce", 0.5, "none", 0): (0.768, 0.536, 0.077),
    ("supinfonce", 0, "means", 1): (0.804, 0.618, 0.131),
    ("supinfonce", 0, "means", 10): (0.852, 0.705, 0.194),
    ("supinfonce", 0, "mean_std", 1): (0.806, 0.614, 0.131),
    ("supinfonce", 0, "mean_std", 10): (0.861, 0.713, 0.195),
    ("supinfonce", 0, "kl", 0.1): (0.819, 0.629, 0.132),
    ("supinfonce", 0, "kl", 1): (0.872, 0.733, 0.217),
    ("supinfonce", 0, "jeffreys", 0.1): (0.847, 0.680, 0.180),
    ("supinfonce", 0, "jeffreys", 1): (0.866, 0.749, 0.234),
    ("supinfonce", 0, "official", 1): (0.844, 0.691, 0.178),
    ("supinfonce", 0, "official", 10): (0.877, 0.769, 0.253),
}
SEEDS = (0, 1, 2)
NEAR = 0.045
"""The table was made with other draws from the same distribution. When this test was written, 35 of
the 42 values lay within 0.03 of it, and all within 0.04."""
PLAIN, KL = ("supinfonce", 0, "none", 0), ("supinfonce", 0, "kl", 1)


def samples(n: int, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    fixed = torch.Generator().manual_seed(123)
    core = torch.randn(10, 3, 32, generator=fixed)
    cue = torch.randn(10, 32, generator=fixed)
    y, mode = torch.randint(10, (n,), generator=rng), torch.randint(3, (n,), generator=rng)
    other = (y + torch.randint(1, 10, (n,), generator=rng)) % 10
    b = torch.where(torch.rand(n, generator=rng) < share, y, other)
    x = core[y, mode] + torch.randn(n, 32, generator=rng)
    noise = 0.2 * torch.randn(n, 32, generator=rng)
    return torch.cat([x, cue[b] + noise], 1), y, b


@cache
def outcome(
    row: tuple[str, float, str, float], share: float, seed: int
) -> tuple[float, float, list[float]]:
    """Accuracy on conflicting and on aligned samples, and the means of the four sets of pairs."""
    kind, eps, variant, weight = row
    rng = torch.Generator().manual_seed(seed)
    x, y, b = samples(4000, share, rng)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh())
        head = nn.Linear(64, 10)
    slow = torch.optim.Adam(encoder.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    fast = torch.optim.Adam(head.parameters(), lr=1e-2, fused=True)
    for _ in range(15):
        for ids in torch.randperm(4000, generator=rng).split(256):
            z = F.normalize(encoder(x[ids]), dim=1)
            loss = ce(10 * head(z if kind == "ce" else z.detach()), y[ids]).mean()
            if kind != "ce":
                s = similarities(z)
                loss = loss + contrastive(s, y[ids], kind, eps=eps).loss
                loss = loss + weight * fairkl(s, y[ids], b[ids], variant).loss
            for optimizer in (slow, fast):
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in (slow, fast):
                optimizer.step()
    x, y, b = samples(2000, 0.1, rng)
    with torch.no_grad():
        z = F.normalize(encoder(x), dim=1)
        right = (head(z).argmax(1) == y).float()
    means = exact_moments(z, y, b).mean.tolist()
    return float(right[b != y].mean()), float(right[b == y].mean()), means


def conflicting(row: tuple[str, float, str, float], share: float) -> float:
    return sum(outcome(row, share, seed)[0] for seed in SEEDS) / len(SEEDS)


def means(row: tuple[str, float, str, float], share: float) -> list[float]:
    columns = zip(*(outcome(row, share, seed)[2] for seed in SEEDS), strict=True)
    return [sum(column) / len(SEEDS) for column in columns]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}-{row[3]}")
def test_accuracy_is_that_of_the_table(row, share):
    assert conflicting(row, share) == pytest.approx(TABLE[row][SHARES.index(share)], abs=NEAR)
    assert min(outcome(row, share, seed)[1] for seed in SEEDS) > 0.95


@pytest.mark.parametrize("share", SHARES)
def test_fairkl_helps_and_kl_is_not_behind_means(share):
    slack = 0.02
    assert conflicting(KL, share) > conflicting(PLAIN, share) + slack
    assert conflicting(KL, share) > conflicting(("supinfonce", 0, "means", 10), share) - slack
    if share >= 0.95:
        sup_con = conflicting(("supcon", 0, "none", 0), share)
        assert conflicting(PLAIN, share) > sup_con + slack


def test_order_of_the_four_means():
    moderate = means(PLAIN, 0.9)
    assert moderate == sorted(moderate, reverse=True)
    assert moderate == pytest.approx([0.590, 0.414, 0.088, -0.061], abs=0.04)
    strong = means(PLAIN, 0.99)
    assert strong[2] > strong[1] + 0.3  # sorted by the cue: same cue beats same class
    fair = means(KL, 0.9)
    assert fair == pytest.approx([0.586, 0.531, -0.024, -0.058], abs=0.04)
    assert fair[0] - fair[1] < (moderate[0] - moderate[1]) / 2
    assert fair[2] - fair[3] < (moderate[2] - moderate[3]) / 2
