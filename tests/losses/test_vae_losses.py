"""SiH's weights, the divergence and the reconstruction: given values, slow sums, borders."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truecue.errors import ConfigError
from truecue.losses.classification import ce, gce
from truecue.losses.precision import wide
from truecue.losses.vae import easy_and_hard, kl_to_normal, reconstruction, sampled

BIASED = torch.tensor([[2, 0, -1], [0.5, 0.5, 0], [-1, 3, 0], [0, 0, 0]])
SIGNAL = torch.tensor([[1, 0, 0], [0, 1, -1], [0.2, 0.1, 0], [1, -1, 0.5]])
Y = torch.tensor([0, 2, 0, 1])
BIASED_SLOPE = torch.tensor([
    [-0.138695, 0.101394, 0.037301], [0.138258, 0.138258, -0.276516],
    [-0.057074, 0.054367, 0.002707], [0.154488, -0.308975, 0.154488],
])  # fmt: skip
SIGNAL_SLOPE = torch.tensor([
    [-0.028892, 0.014446, 0.014446], [0.050828, 0.138164, -0.188992],
    [-0.156305, 0.082057, 0.074248], [0.108059, -0.173600, 0.065541],
])  # fmt: skip


def close(found: torch.Tensor, wanted: list[float] | float | torch.Tensor) -> None:
    torch.testing.assert_close(
        found.detach(), torch.as_tensor(wanted, dtype=found.dtype), rtol=0, atol=2e-6
    )


def test_weighted_losses_of_given_logits() -> None:
    """Values of the released classes."""
    ce_biased = ce(BIASED, Y)
    easy, hard = easy_and_hard(ce_biased, 0.7)
    close((-ce_biased).exp(), [0.843795, 0.232697, 0.017148, 0.333333])
    close(easy, [0.887903, 0.360374, 0.058069, 0.463463])
    close(hard, [0.272638, 0.830763, 0.987965, 0.752898])
    close(easy * ce_biased, [0.150807, 0.525432, 0.236103, 0.509166])
    close((easy * ce_biased).mean(), 0.355377)
    close(hard * ce(SIGNAL, Y), [0.150345, 2.000149, 0.989885, 1.923622])
    close((hard * ce(SIGNAL, Y)).mean(), 1.266000)
    close(0.7 * easy * ce_biased, [0.105565, 0.367802, 0.165272, 0.356416])
    close(gce(BIASED, Y, 0.7), [0.160138, 0.913752, 1.345615, 0.766481])


def test_slopes_are_those_of_generalised_cross_entropy_and_of_constant_weights() -> None:
    biased, signal = BIASED.clone().requires_grad_(), SIGNAL.clone().requires_grad_()
    ce_biased = ce(biased, Y)
    easy, hard = easy_and_hard(ce_biased, 0.7)
    loss = (hard * ce(signal, Y)).mean() + (easy * ce_biased).mean()
    slopes = torch.autograd.grad(loss, [biased, signal])
    close(4 * slopes[0], BIASED_SLOPE)
    close(slopes[1], SIGNAL_SLOPE)
    (exact,) = torch.autograd.grad(gce(biased, Y, 0.7).sum(), biased)
    close(4 * slopes[0], exact)


def test_uniform_classifiers() -> None:
    ce_biased = torch.full((3,), math.log(10))
    easy, hard = easy_and_hard(ce_biased, 0.7)
    close(easy, [0.199526] * 3)
    close(hard, [0.928902] * 3)
    close(easy * ce_biased, [0.459426] * 3)
    close(hard * ce_biased, [2.138875] * 3)
    close(sum(easy_and_hard(torch.tensor(math.log(2)), 0.7)), 2 * 0.615572)


@given(p=st.floats(1e-30, 1), q=st.floats(0.01, 1))
@settings(deadline=None)
def test_weights_of_any_probability(p: float, q: float) -> None:
    ce_biased = torch.tensor([-math.log(p)], dtype=torch.float64)
    easy, hard = easy_and_hard(ce_biased, q)
    assert float(easy) == pytest.approx(p**q, rel=1e-9)
    assert float(hard) == pytest.approx((-math.expm1(math.log(p))) ** q, rel=1e-9)
    if q == 1:
        assert float(easy + hard) == pytest.approx(1)


def test_a_certain_classifier_leaves_no_weight_and_no_endless_slope() -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    y = torch.tensor([0, 0])
    ce_biased = ce(logits, y)
    easy, hard = easy_and_hard(ce_biased, 0.7)
    assert easy.tolist() == pytest.approx([1, 0], abs=1e-30)
    assert hard.tolist() == [0, 1]
    (slope,) = torch.autograd.grad((easy * ce_biased + hard).sum(), logits)
    assert bool(slope.isfinite().all())


def test_a_cross_entropy_that_rounds_below_0_is_that_of_a_certain_classifier() -> None:
    assert [w.tolist() for w in easy_and_hard(torch.tensor([-1e-7]), 0.7)] == [[1], [0]]


@pytest.mark.parametrize("q", [0.0, -0.5, 1.5])
def test_q_out_of_range(q: float) -> None:
    with pytest.raises(ConfigError, match=r"q of the weights must lie in \(0, 1\]"):
        easy_and_hard(torch.ones(2), q)


def test_divergence_of_a_given_latent() -> None:
    mean, logvar = torch.tensor([[0.5, -1, 0, 2]]), torch.tensor([[0, -0.5, 1, -2]])
    close(kl_to_normal(mean, logvar), [3.605074])
    close(kl_to_normal(mean, logvar) / 12, [0.300423])
    assert kl_to_normal(torch.zeros(2, 5), torch.zeros(2, 5)).tolist() == [0, 0]


def test_divergence_is_torchs() -> None:
    rng = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 6, 9, generator=rng, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, (logvar / 2).exp())
    rest = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    exact = torch.distributions.kl_divergence(normal, rest).sum(1)
    torch.testing.assert_close(kl_to_normal(mean, logvar), exact)


IMAGE = torch.tensor([0, 0.25, 0.5, 0.75, 1, 0, 0.1, 0.9, 0.3, 0.6, 0.2, 0.8]).view(1, 3, 2, 2)
DRAWN = torch.tensor([0.1, 0.2, 0.6, 0.7, 0.9, 0.05, 0.2, 0.8, 0.4, 0.5, 0.3, 0.7]).view(1, 3, 2, 2)


def test_reconstruction_of_given_pixels() -> None:
    bce, mse = (reconstruction(DRAWN.logit(), IMAGE, how) for how in ("bce", "mse"))
    close(bce, [5.215217])
    close(mse, [0.097500])
    assert float(100 / 12 * bce) == pytest.approx(43.460140, abs=1e-5)
    assert float(100 / 12 * mse) == pytest.approx(0.812500, abs=1e-6)
    perfect = reconstruction(IMAGE.double().logit(eps=1e-12), IMAGE.double(), "bce")
    assert float(100 / 12 * perfect) == pytest.approx(39.605530, abs=1e-4)


def test_reconstruction_is_finite_where_the_sigmoid_is_flat() -> None:
    logits = torch.tensor([[[[300.0, -300.0]]]], requires_grad=True)
    loss = reconstruction(logits, torch.tensor([[[[0.0, 1.0]]]]), "bce")
    assert loss.tolist() == [600]
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert slope.flatten().tolist() == [1, -1]


def test_samples_have_the_mean_and_the_deviation() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.0, -2.0, -200.0])
    z = sampled(mean.expand(20_000, 3), logvar.expand(20_000, 3))
    torch.testing.assert_close(z.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(0), (logvar / 2).exp(), atol=0.02, rtol=0)
    assert float(z[:, 2].std()) == pytest.approx(1e-8, rel=0.05)  # never a point, as in the code


def test_narrow_numbers_are_widened_and_wide_ones_left() -> None:
    kinds = {torch.bfloat16: torch.float32, torch.float32: torch.float32,
             torch.float64: torch.float64}  # fmt: skip
    assert {kind: wide(torch.ones(1, dtype=kind)).dtype for kind in kinds} == kinds


def test_images_of_another_shape_and_unknown_comparisons_are_refused() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    for how in ("bce", "mse"):
        with pytest.raises(
            ValueError, match=r"are \[2, 3, 4, 4\] and the true ones \[2, 1, 4, 4\]"
        ):
            reconstruction(logits, torch.zeros(2, 1, 4, 4), how)
    with pytest.raises(ConfigError, match="by bce or mse; got 'l1'"):
        reconstruction(logits, logits, "l1")
