"""DeepFool in a latent space: the released code's values, a slow loop, and the second try."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from truecue.audit.deepfool import deepfool

W = torch.tensor([[1, 0, 0.5], [0, 1, -0.5], [-1, 0.5, 1]])
C = torch.tensor([0.1, 0, -0.1])
Z = torch.tensor([[2, 0.5, 0.3], [1, 0.2, -0.4], [0.3, 1.5, 0.2]])
TARGETS = torch.tensor([1, 2, 0])


def head(z: Tensor) -> Tensor:
    return z.relu() @ W.T + C


class Deep(nn.Module):
    """A head whose gradient is not the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def by_hand(net, z: Tensor, target: int, steps: int, overshoot: float) -> tuple[Tensor, int]:
    """One vector at a time, as the algorithm is written down."""
    z, moved = z.clone(), 0
    for _ in range(steps):
        at = z.clone().requires_grad_()
        logits = net(at[None])[0]
        top = int(logits.argmax())
        if top == target:
            break
        r = logits[target] - logits[top]
        g = torch.autograd.grad(r, at)[0]
        z = z + (1 + overshoot) * r.abs().detach() / (g.square().sum() + 1e-8) * g
        moved += int(g.abs().sum() > 0)
    return z, moved


# Values of the released code's class, overshoot 0.02.


def test_logits_of_the_example() -> None:
    expected = torch.tensor([[2.25, 0.35, -1.55], [1.1, 0.2, -1.0], [0.5, 1.4, 0.55]])
    torch.testing.assert_close(head(Z), expected)


def test_one_step_is_the_published_one() -> None:
    moved = deepfool(head, Z, TARGETS, steps=1)
    expected = [[1.354, 1.146, -0.346], [-0.008, 0.452, -0.4], [0.606, 1.194, 0.506]]
    torch.testing.assert_close(moved.z, torch.tensor(expected), atol=5e-4, rtol=0)
    assert head(moved.z).argmax(1).tolist() == [0, 1, 0]
    assert moved.reached.tolist() == [False, False, True]


def test_twenty_steps_are_the_published_ones_and_one_vector_stands_still() -> None:
    moved = deepfool(head, Z, TARGETS, steps=20)
    expected = [[1.19692, 1.30308, -0.346], [-0.008, -0.21304, -0.4], [0.606, 1.194, 0.506]]
    torch.testing.assert_close(moved.z, torch.tensor(expected), atol=2e-5, rtol=0)
    assert moved.reached.tolist() == [True, False, True]
    shifts = (moved.z - Z).norm(dim=1)
    torch.testing.assert_close(
        shifts, torch.tensor([1.306595, 1.089342, 0.530007]), atol=2e-6, rtol=0
    )
    # the second vector lost its gradient after two steps
    assert moved.steps.tolist() == [2, 2, 1]
    assert not moved.rescued.any()


def test_a_vector_below_zero_everywhere_does_not_move() -> None:
    z = torch.tensor([[-1.0, -2.0, -0.5]])
    moved = deepfool(head, z, torch.tensor([1]))
    assert torch.equal(moved.z, z)
    assert moved.reached.tolist() == [False]
    assert moved.steps.tolist() == [0]


def test_two_classes_in_closed_form() -> None:
    def twice(z: Tensor) -> Tensor:
        return 2 * z.relu()

    moved = deepfool(twice, torch.tensor([[1.2, 0.4]]), torch.tensor([1]))
    torch.testing.assert_close(moved.z, torch.tensor([[0.792, 0.808]]))
    torch.testing.assert_close(twice(moved.z), torch.tensor([[1.584, 1.616]]))
    assert moved.reached.tolist() == [True]
    assert moved.steps.tolist() == [1]


def test_the_batch_is_the_same_as_one_at_a_time() -> None:
    torch.manual_seed(0)
    net, z = Deep(), torch.randn(60, 6)
    target = torch.randint(5, (60,))
    moved = deepfool(net, z, target, steps=20, overshoot=0.05)
    slow = [by_hand(net, z[i], int(target[i]), 20, 0.05) for i in range(60)]
    torch.testing.assert_close(moved.z, torch.stack([s[0] for s in slow]), atol=1e-5, rtol=1e-5)
    assert moved.steps.tolist() == [s[1] for s in slow]
    assert torch.equal(moved.reached, net(moved.z).argmax(1) == target)
    assert moved.reached.float().mean() > 0.9
    assert len(set(moved.steps.tolist())) > 2


def test_what_says_the_target_already_stays() -> None:
    moved = deepfool(head, Z, torch.tensor([0, 0, 1]))
    assert torch.equal(moved.z, Z)
    assert moved.reached.all()
    assert moved.steps.tolist() == [0, 0, 0]


def test_nothing_else_is_touched() -> None:
    net, z = Deep(), torch.randn(4, 6, requires_grad=True)
    before = z.detach().clone()
    with torch.no_grad():  # the caller's mode does not matter
        moved = deepfool(net, z, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(z, before)
    assert not moved.z.requires_grad
    assert all(p.grad is None for p in net.parameters())


# The second try.


def test_the_second_try_reaches_what_stood_still_and_leaves_the_others() -> None:
    z = torch.cat([Z, torch.tensor([[-1.0, -2.0, -0.5]])])
    target = torch.tensor([1, 2, 0, 1])
    first = deepfool(head, z, target)
    second = deepfool(head, z, target, leak=0.1)
    assert first.reached.tolist() == [True, False, True, False]
    assert second.reached.all()
    assert second.rescued.tolist() == [False, True, False, True]
    assert torch.equal(head(second.z).argmax(1), target)
    for field in ("z", "steps"):
        assert torch.equal(getattr(second, field)[::2], getattr(first, field)[::2])


def test_a_vector_that_fails_twice_is_where_the_first_try_left_it() -> None:
    def stubborn(z: Tensor) -> Tensor:  # class 1 never wins
        return torch.stack([z[:, 0].relu() + 1, z[:, 0].relu()], 1)

    z = torch.tensor([[2.0]])
    first, second = (deepfool(stubborn, z, torch.tensor([1]), leak=k) for k in (0.0, 0.1))
    assert torch.equal(first.z, second.z)
    assert second.reached.tolist() == second.rescued.tolist() == [False]


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"leak must lie in \[0, 1\]; got 2"):
        deepfool(head, Z, TARGETS, leak=2)
