"""Losses of directions: given values, slopes, what cancels, expected values of a perfect scorer."""

from __future__ import annotations

import math

import pytest
import torch

from truecue.losses.ordering import moved_further, ranked_right, scale_ranking, shift_prediction

EPS1 = torch.tensor([[0.5, -0.2], [-1, 0.3]])
EPS2 = torch.tensor([[-0.1, 0.4], [0.2, 0.3]])
S1 = torch.tensor([[1.0, 0], [0.5, 2]])
S2 = torch.tensor([[0.0, 1], [1, 2]])


def test_given_scores() -> None:
    y = moved_further(EPS1, EPS2)
    assert y.tolist() == [[1, 0], [0, 0]]  # the last is a tie
    assert moved_further(EPS2, EPS1).tolist() == [[0, 1], [1, 0]]
    s1, s2 = S1.clone().requires_grad_(), S2.clone().requires_grad_()
    loss = scale_ranking(s1, s2, y).mean()
    assert float(loss.detach()) == pytest.approx(0.4484369, abs=1e-6)
    loss.backward()
    slopes = torch.tensor([[-0.0672354, 0.0672354], [0.0943852, 0.125]])
    torch.testing.assert_close(s1.grad, slopes, rtol=0, atol=1e-6)
    torch.testing.assert_close(s2.grad, -slopes, rtol=0, atol=1e-6)


def test_against_a_slow_sum() -> None:
    y = moved_further(EPS1, EPS2)
    found = scale_ranking(S1, S2, y)
    for i in range(2):
        for k in range(2):
            p = 1 / (1 + math.exp(float(S2[i, k] - S1[i, k])))
            wanted = -math.log(p if y[i, k] else 1 - p)
            assert float(found[i, k]) == pytest.approx(wanted, abs=1e-6)


def test_scores_without_meaning_cost_ln_2() -> None:
    zero = torch.zeros(5, 3)
    y = (torch.arange(15).view(5, 3) % 2).float()
    torch.testing.assert_close(scale_ranking(zero, zero, y), torch.full((5, 3), math.log(2)))


def test_what_both_images_share_cancels() -> None:
    y = moved_further(EPS1, EPS2)
    shared = torch.tensor([[3.0], [-7.0]])
    torch.testing.assert_close(scale_ranking(S1 + shared, S2 + shared, y), scale_ranking(S1, S2, y))
    torch.testing.assert_close(  # labels and scores turned round
        scale_ranking(-S1, -S2, 1 - y), scale_ranking(S1, S2, y)
    )
    assert not torch.allclose(scale_ranking(S1 + 1, S2, y), scale_ranking(S1, S2, y))


def test_large_scores_stay_finite() -> None:
    s1, y = torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 0.0]])
    assert scale_ranking(s1, torch.zeros(1, 2), y).tolist() == [[1e4, 0.0]]


@pytest.mark.parametrize(("reach", "wanted"), [(1, 0.438262), (3, 0.224208), (10, 0.077739)])
def test_expected_loss_of_a_scorer_that_knows_the_step(reach: float, wanted: float) -> None:
    rng = torch.Generator().manual_seed(0)
    eps = (torch.rand(2, 200_000, 1, generator=rng) * 2 - 1) * reach
    y = moved_further(*eps)
    assert float(scale_ranking(*eps, y).mean()) == pytest.approx(wanted, abs=0.005)
    assert bool(ranked_right(*eps, y).all())
    assert not bool(ranked_right(*-eps, y).any())


def test_scores_of_another_shape_are_refused() -> None:
    y = moved_further(EPS1, EPS2)
    with pytest.raises(ValueError, match="scores and labels must be"):
        scale_ranking(S1[:1], S2, y)
    with pytest.raises(ValueError, match="scores and labels must be"):
        scale_ranking(S1[0], S2[0], y[0])  # squeezed


def test_shift_prediction_of_given_logits() -> None:
    logits = torch.tensor([[2.0, 0, -1], [0, 1, 0]])
    k, said = torch.tensor([0, 2]), torch.tensor([1.0, -2])
    step = torch.tensor([3.0, -0.5])
    found = shift_prediction(logits, said, k, step)
    assert float(found.mean()) == pytest.approx(1.2981451, abs=1e-6)
    assert float(shift_prediction(logits, said, k, step, 0).mean()) == pytest.approx(0.8606454)
    with pytest.raises(ValueError, match="steps must be"):
        shift_prediction(logits, said[:, None], k, step)  # would be compared with every other's
