"""Losses of two views: given values, slow loops, another library, gradients, borders."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from truecue.errors import ConfigError
from truecue.losses.selfsup import nt_xent, simsiam, vicreg


def circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack((angles.cos(), angles.sin()), 1)


def views(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, n, d, generator=rng, dtype=torch.float64)
    return one, one + other


@pytest.mark.parametrize(("tau", "expected"), [(0.5, 0.526620), (0.07, 0.034548)])
def test_nt_xent_of_angles(tau: float, expected: float) -> None:
    found = nt_xent(circle(0, 80, 200), 3 * circle(30, 120, 185), tau)
    assert found.shape == (6,)
    assert float(found.mean()) == pytest.approx(expected, abs=1e-6)


def slow_nt_xent(z1: Tensor, z2: Tensor, tau: float) -> list[float]:
    rows = [row.tolist() for row in torch.cat([z1, z2])]
    n, losses = len(z1), []

    def alike(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
        sizes = [math.sqrt(sum(a * a for a in rows[k])) for k in (i, j)]
        return dot / (sizes[0] * sizes[1]) / tau

    for i in range(2 * n):
        total = sum(math.exp(alike(i, j)) for j in range(2 * n) if j != i)
        losses.append(math.log(total) - alike(i, (i + n) % (2 * n)))
    return losses


def test_nt_xent_is_that_of_a_slow_loop() -> None:
    z1, z2 = views(5, 4)
    expected = torch.tensor(slow_nt_xent(z1, z2, 0.2), dtype=torch.float64)
    torch.testing.assert_close(nt_xent(z1, z2, 0.2), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_nt_xent_is_that_of_another_library(tau: float) -> None:
    from pytorch_metric_learning.losses import NTXentLoss

    z1, z2 = views(6, 5, seed=1)
    which = torch.arange(6).repeat(2)
    theirs = NTXentLoss(temperature=tau)(torch.cat([z1, z2]), which)
    torch.testing.assert_close(nt_xent(z1, z2, tau).mean(), theirs)


@pytest.mark.timm
@pytest.mark.skipif(find_spec("lightly") is None, reason="lightly is not installed")
@pytest.mark.parametrize("size", [0.3, 2.0])  # features within VICReg's hinge, and beyond it
def test_losses_and_gradients_are_those_of_lightly(size: float) -> None:
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss, VICRegLoss

    cosine = NegativeCosineSimilarity()
    q1, q2 = (z.float() for z in views(16, 8, seed=3))
    pairs = [
        (lambda a, b: nt_xent(a, b, 0.07).mean(), NTXentLoss(temperature=0.07)),
        (
            lambda a, b: simsiam(a, b, q1, q2).mean(),
            lambda a, b: (cosine(a, q2) + cosine(b, q1)) / 2,
        ),
        (vicreg, VICRegLoss()),
    ]
    z = [(size * z).float().requires_grad_() for z in views(16, 8, seed=2)]
    for ours, theirs in pairs:
        values = [loss(*z) for loss in (ours, theirs)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
        gradients = [torch.cat(torch.autograd.grad(value, z)) for value in values]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_nt_xent_of_one_image_is_0_and_of_copies_is_the_logarithm() -> None:
    z1, z2 = views(1, 3)
    assert nt_xent(z1, z2, 0.07).tolist() == pytest.approx([0, 0])
    same = torch.ones(4, 3)
    assert nt_xent(same, same, 0.07).tolist() == pytest.approx([math.log(7)] * 8)


def test_simsiam_has_the_right_sign() -> None:
    q = torch.tensor([[1, 0], [0.6, 0.8], [0, 1], [0.8, 0.6]])
    z = torch.tensor([[0.8, 0.6], [0, 1], [1, 0], [0.6, 0.8]])
    found = simsiam(q[:2], q[2:], z[:2], z[2:])
    assert float(found.mean()) == pytest.approx(-0.8, abs=1e-6)
    torch.testing.assert_close(simsiam(z[:2], z[2:], z[2:], z[:2]), -torch.ones(2))


def test_no_gradient_of_simsiam_reaches_the_projections() -> None:
    q1, q2 = (x.requires_grad_() for x in views(3, 4))
    z1, z2 = (x.requires_grad_() for x in views(3, 4, seed=1))
    simsiam(q1, q2, z1, z2).sum().backward()
    assert z1.grad is None
    assert z2.grad is None
    assert float(q1.grad.norm()) > 0  # type: ignore[union-attr]


def test_vicreg_of_given_values() -> None:
    z1 = torch.tensor([[1.0, 0], [0, 1], [2, 1]], dtype=torch.float64)
    z2 = torch.tensor([[1, 0.5], [0.5, 1], [1.5, 0.5]], dtype=torch.float64)
    assert float(vicreg(z1, z2)) == pytest.approx(14.392385, abs=1e-5)
    still = torch.ones(3, 2, dtype=torch.float64)  # the whole hinge, and nothing else
    assert float(vicreg(still, still)) == pytest.approx(25 * (1 - 0.01), abs=1e-9)


def slow_vicreg(z1: Tensor, z2: Tensor) -> float:
    n, d = z1.shape
    apart = sum((float(z1[i, k]) - float(z2[i, k])) ** 2 for i in range(n) for k in range(d))
    narrow = correlated = 0.0
    for z in (z1, z2):
        means = [sum(float(z[i, k]) for i in range(n)) / n for k in range(d)]
        for a in range(d):
            for b in range(d):
                cov = sum(
                    (float(z[i, a]) - means[a]) * (float(z[i, b]) - means[b]) for i in range(n)
                ) / (n - 1)
                if a == b:
                    narrow += max(0.0, 1 - math.sqrt(cov + 1e-4)) / d / 2
                else:
                    correlated += cov**2 / d
    return 25 * apart / (n * d) + 25 * narrow + correlated


@pytest.mark.parametrize("shape", [(7, 3), (3, 7)])
def test_vicreg_is_that_of_a_slow_loop(shape: tuple[int, int]) -> None:
    z1, z2 = (0.4 * z for z in views(*shape, seed=4))
    assert float(vicreg(z1, z2)) == pytest.approx(slow_vicreg(z1, z2), abs=1e-10)


@pytest.mark.parametrize("loss", [lambda a, b: nt_xent(a, b, 0.5), vicreg])
def test_gradients_are_exact(loss) -> None:
    z1, z2 = (z.requires_grad_() for z in views(4, 3, seed=5))
    assert torch.autograd.gradcheck(loss, (z1, z2))


def test_gradient_of_simsiam_is_exact() -> None:
    z1, z2 = views(4, 3, seed=6)
    q1, q2 = (q.requires_grad_() for q in views(4, 3, seed=7))
    assert torch.autograd.gradcheck(lambda a, b: simsiam(a, b, z1, z2), (q1, q2))


def test_computed_in_float32_under_mixed_precision() -> None:
    z1, z2 = (z.bfloat16() for z in views(8, 4))
    wide = z1.float(), z2.float()
    losses = (lambda a, b: nt_xent(a, b, 0.07), lambda a, b: simsiam(a, b, b, a), vicreg)
    for loss in losses:
        exact = loss(*wide)
        for given in ((z1, z2), wide):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = loss(*given)
            assert found.dtype == torch.float32
            assert torch.equal(found, exact)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_temperature_out_of_range(tau: float) -> None:
    with pytest.raises(ConfigError, match="temperature of NT-Xent must be above 0"):
        nt_xent(torch.ones(2, 2), torch.ones(2, 2), tau)
