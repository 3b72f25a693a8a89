"""DeNetDM's losses on small numbers: the product of experts, distillation, one training step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truecue.losses.classification import ce, distil


def tensor(values: list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: list) -> None:
    # the expected values are printed to six decimals
    wanted = torch.tensor(expected, dtype=torch.float64).reshape(found.shape)
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=6e-7)


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None, dtype=torch.float64)
    layer.weight.data = tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return layer


Y = torch.tensor([0, 2])


@pytest.fixture
def head() -> nn.Linear:
    return linear([[1, 0], [0.5, -1], [-0.5, 2]], [0.1, -0.2, 0.3])


@pytest.fixture
def shallow() -> Tensor:
    return tensor([[1, -0.5], [0.2, 0.8]]).requires_grad_()


@pytest.fixture
def deep() -> Tensor:
    return tensor([[0.3, 0.7], [-1, 0.4]]).requires_grad_()


def test_logits_of_the_experts_and_of_both(head, shallow, deep):
    close(head(shallow + deep), [[1.40, 0.25, 0.05], [-0.70, -1.80, 3.10]])
    close(head(shallow), [[1.10, 0.80, -1.20], [0.30, -0.90, 1.80]])
    close(head(deep), [[0.40, -0.75, 1.55], [-0.90, -1.10, 1.60]])
    both = head(shallow) + head(deep) - head.bias
    torch.testing.assert_close(head(shallow + deep), both)


def test_cross_entropy_of_both_and_its_gradient(head, shallow, deep):
    loss = ce(head(shallow + deep), Y)
    close(loss, [0.454812, 0.029381])
    close(loss.mean(), [0.242097])
    loss.mean().backward()
    close(shallow.grad, [[-0.173611, 0.064042], [0.019908, -0.032570]])
    assert torch.equal(shallow.grad, deep.grad)
    assert head.weight.grad.any()
    assert head.bias.grad.any()


def test_both_are_the_product_of_the_experts_over_the_bias(head, shallow, deep):
    joint = head(shallow + deep).softmax(1)
    close(joint, [[0.634567, 0.200927, 0.164505], [0.021723, 0.007231, 0.971046]])
    product = head(shallow).softmax(1) * head(deep).softmax(1)
    plain = product / product.sum(1, keepdim=True)
    close(plain, [[0.644659, 0.151218, 0.204123], [0.017907, 0.004416, 0.977677]])
    assert float((plain - joint).detach().abs().max()) == pytest.approx(0.049709, abs=1e-6)
    over_bias = product / head.bias.exp()
    torch.testing.assert_close(over_bias / over_bias.sum(1, keepdim=True), joint)


def test_without_a_bias_both_are_the_product(head, shallow, deep):
    head.bias.data.zero_()
    joint = head(shallow + deep).softmax(1)
    close(joint, [[0.609881, 0.260672, 0.129446], [0.026283, 0.011810, 0.961907]])
    product = head(shallow).softmax(1) * head(deep).softmax(1)
    torch.testing.assert_close(product / product.sum(1, keepdim=True), joint)


def test_distillation():
    teacher = tensor([[2, 0.5, -1], [0, 1, 0.5]]).requires_grad_()
    student = tensor([[1, 1, 0], [-0.5, 0.5, 1.5]]).requires_grad_()
    p = (teacher / 2).softmax(1)
    close(p, [[0.589798, 0.278601, 0.131602], [0.254275, 0.419229, 0.326496]])
    log_s = (student / 2).log_softmax(1)
    close(log_s, [[-0.958020, -0.958020, -1.458020], [-1.680270, -1.180270, -0.680270]])
    loss = distil(student, teacher, 2.0).mean()
    close(loss, [4.335960])
    close(loss / 4, [1.083990])
    close(distil(teacher, teacher, 2.0).mean(), [4.024857])
    kl = 4 * F.kl_div(log_s, p, reduction="batchmean")
    close(kl, [0.311104])
    torch.testing.assert_close(loss - distil(teacher, teacher, 2.0).mean(), kl)
    loss.backward()
    close(student.grad, [[-0.206146, 0.105051, 0.101095], [-0.067951, -0.112033, 0.179985]])
    assert teacher.grad is None


def test_both_terms_of_the_second_stage(head, shallow, deep):
    teacher = tensor([[2, 0.5, -1], [0, 1, 0.5]])
    student = tensor([[1, 1, 0], [-0.5, 0.5, 1.5]])
    total = ce(head(shallow + deep), Y).mean() + distil(student, teacher, 2.0).mean()
    close(total, [4.578057])


def test_one_step_of_the_first_stage():
    x, y = tensor([[1, 2], [-1, 0.5]]), torch.tensor([0, 1])
    shallow = nn.Sequential(linear([[0.5, 0.1], [-0.2, 0.3]]), nn.ReLU())
    first, second = linear([[0.4, -0.3], [0.2, 0.6]]), linear([[1, 0.5], [-0.5, 1]])
    deep = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
    head = linear([[0.7, -0.2], [-0.3, 0.9]], [0.05, -0.05])
    close(shallow(x), [[0.7, 0.4], [0, 0.35]])
    close(deep(x), [[0.7, 1.4], [0.05, 0.1]])
    close(head(shallow(x)), [[0.46, 0.10], [-0.02, 0.265]])
    close(head(deep(x)), [[0.26, 1.00], [0.065, 0.025]])

    joint = head(shallow(x) + deep(x))
    close(joint, [[0.67, 1.15], [-0.005, 0.34]])
    loss = ce(joint, y).mean()
    close(loss, [0.748564])
    loss.backward()
    close(shallow[0].weight.grad, [-0.308874, -0.617748, 0.567789, 0.565509])
    close(first.weight.grad, [0, 0, 0.309703, 0.308459])
    close(second.weight.grad, [0, -0.411694, 0, 0.452863])
    close(head.weight.grad, [-0.422059, -0.462689, 0.422059, 0.462689])
    close(head.bias.grad, [-0.101576, 0.101576])

    parameters = [*shallow.parameters(), *deep.parameters(), *head.parameters()]
    torch.optim.SGD(parameters, lr=0.1).step()
    close(ce(head(shallow(x) + deep(x)), y).mean(), [0.548192])
