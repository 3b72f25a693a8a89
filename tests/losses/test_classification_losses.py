"""Each loss against a loop over samples and classes, at its limits, and by gradcheck."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from truecue.errors import ConfigError
from truecue.losses.classification import ce, distil, gce


def random_logits(seed: int, n: int = 6, classes: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, classes, generator=rng, dtype=torch.float64)


def random_labels(seed: int, n: int = 6, classes: int = 4) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed + 100))


def softmax_slowly(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


# --- cross-entropy


@pytest.mark.parametrize("seed", range(3))
def test_ce_equals_a_loop(seed):
    logits, y = random_logits(seed), random_labels(seed)
    expected = [
        -math.log(softmax_slowly(row)[k]) for row, k in zip(logits.tolist(), y, strict=True)
    ]
    assert ce(logits, y).tolist() == pytest.approx(expected, rel=1e-12)


def test_ce_limits():
    y = torch.tensor([0, 3])
    assert ce(torch.zeros(2, 4), y).tolist() == pytest.approx([math.log(4)] * 2)
    assert ce(torch.tensor([[1e4, 0.0]]), torch.tensor([0])).item() == 0
    assert ce(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).item() == 1e4


def test_ce_gradient():
    logits, y = random_logits(0).requires_grad_(), random_labels(0)
    assert torch.autograd.gradcheck(lambda z: ce(z, y), logits)
    onehot = torch.nn.functional.one_hot(y, 4)
    torch.testing.assert_close(gradient(ce(logits, y), logits), logits.softmax(1) - onehot)


# --- generalised cross-entropy


@pytest.mark.parametrize("q", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_gce_equals_a_loop(seed, q):
    logits, y = random_logits(seed), random_labels(seed)
    expected = [
        (1 - softmax_slowly(row)[k] ** q) / q for row, k in zip(logits.tolist(), y, strict=True)
    ]
    assert gce(logits, y, q).tolist() == pytest.approx(expected, rel=1e-12)


def test_gce_limits_in_q():
    logits, y = random_logits(0), random_labels(0)
    torch.testing.assert_close(gce(logits, y, 1e-12), ce(logits, y))
    right = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(gce(logits, y, 1.0), 1 - right)
    # float32 must not lose the limit to cancellation
    single = logits.float()
    torch.testing.assert_close(gce(single, y, 1e-6), ce(single, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_gce_gradient(q):
    logits, y = random_logits(0).requires_grad_(), random_labels(0)
    assert torch.autograd.gradcheck(lambda z: gce(z, y, q), logits)
    assert torch.autograd.gradgradcheck(lambda z: gce(z, y, q), logits)
    right = logits.detach().softmax(1).gather(1, y[:, None])
    expected = right**q * gradient(ce(logits, y), logits)
    torch.testing.assert_close(gradient(gce(logits, y, q), logits), expected)


@pytest.mark.parametrize("gap", [1e-3, 0.5, 1.0, 10.0, 30.0, 60.0, 100.0])
def test_gce_is_accurate_in_float32_for_every_probability(gap):
    # p = 1 / (1 + e^gap) and its complement; the reference is float64
    y = torch.tensor([0, 1])
    found = {}
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[0.0, gap], [0.0, gap]], dtype=dtype, requires_grad=True)
        loss = gce(logits, y, 0.7)
        found[dtype] = loss.detach().double(), gradient(loss, logits).double()
    (loss, slope), (exact, exact_slope) = found[torch.float32], found[torch.float64]
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-7)
    # the rare class: p^q must keep its relative accuracy down to e^-70
    torch.testing.assert_close(slope[0], exact_slope[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(slope[1], exact_slope[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gap", [1e4, 1e30, math.inf])
def test_gce_of_a_vanishing_probability_is_finite(gap):
    logits = torch.tensor([[-gap, 0.0]], requires_grad=True)
    loss = gce(logits, torch.tensor([0]), 0.7)
    assert loss.item() == pytest.approx(1 / 0.7)
    assert gradient(loss, logits).tolist() == [[0, 0]]


@pytest.mark.parametrize("q", [0, -0.1, 1.1, math.nan])
def test_gce_refuses_other_q(q):
    with pytest.raises(ConfigError, match="must lie in"):
        gce(random_logits(0), random_labels(0), q)


# --- distillation


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_distil_equals_a_loop(seed, tau):
    student, teacher = random_logits(seed), random_logits(seed + 10)
    expected = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = softmax_slowly([v / tau for v in s]), softmax_slowly([v / tau for v in t])
        expected.append(-(tau**2) * sum(b * math.log(a) for a, b in zip(p_s, p_t, strict=True)))
    assert distil(student, teacher, tau).tolist() == pytest.approx(expected, rel=1e-12)


def test_distil_of_a_certain_teacher_is_cross_entropy():
    logits, y = random_logits(0), random_labels(0)
    certain = 1e4 * torch.nn.functional.one_hot(y, 4).double()
    torch.testing.assert_close(distil(logits, certain, 1.0), ce(logits, y))


def test_distil_is_least_where_student_and_teacher_agree():
    teacher = random_logits(0)
    p = (teacher / 2).softmax(1)
    entropy = torch.special.entr(p).sum(1)
    torch.testing.assert_close(distil(teacher, teacher, 2.0), 4 * entropy)
    # a constant added to the logits is no difference
    torch.testing.assert_close(distil(teacher + 7, teacher, 2.0), 4 * entropy)
    assert (distil(random_logits(1), teacher, 2.0) > 4 * entropy).all()


def test_distil_gradient_reaches_the_student_only():
    student, teacher = random_logits(0).requires_grad_(), random_logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distil(z, teacher.detach(), 2.0), student)
    distil(student, teacher, 2.0).sum().backward()
    assert teacher.grad is None
    expected = 2 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)).detach()
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("tau", [0, -1, math.nan])
def test_distil_refuses_other_temperatures(tau):
    with pytest.raises(ConfigError, match="temperature"):
        distil(random_logits(0), random_logits(1), tau)


# --- all


@pytest.mark.parametrize(
    "loss",
    [ce, lambda z, y: gce(z, y, 0.7), lambda z, y: distil(z, z.flip(1), 2.0)],
    ids=["ce", "gce", "distil"],
)
def test_one_value_for_each_sample_whatever_the_others_are(loss):
    logits, y = random_logits(0), random_labels(0)
    together = loss(logits, y)
    assert together.shape == (6,)
    alone = torch.cat([loss(logits[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)
    assert loss(logits[:0], y[:0]).shape == (0,)
