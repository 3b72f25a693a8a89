"""Convolutions by Fourier transforms against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from truecue.nets.fourier import _Wide, wide
from truecue.nets.small import SimpleConv


@pytest.mark.parametrize(
    ("kernel", "size"), [(7, (28, 28)), (7, (9, 13)), (5, (3, 16)), (1, (8, 8))]
)
def test_values_and_gradients_are_those_of_a_convolution(kernel, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, kernel, padding=kernel // 2)
    x = torch.randn(4, 3, *size, requires_grad=True)
    weights = torch.randn(4, 5, *size)
    found = []
    for y in (conv(x), wide(conv, x)):
        wanted = torch.autograd.grad((weights * y).sum(), [x, conv.weight, conv.bias])
        found.append([y, *wanted])
    for direct, fourier in zip(*found, strict=True):
        assert fourier.shape == direct.shape
        assert (fourier - direct).abs().max() < 3e-5 * direct.abs().max()


def test_gradients_are_exact_in_double_precision():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Wide.apply, (x, weight, bias))


def test_other_precisions_are_left_to_torch():
    conv = nn.Conv2d(2, 3, 7, padding=3)
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(wide(conv.double(), x.double()), conv(x.double()))
    net = SimpleConv(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net(torch.randn(4, 3, 12, 12))
    features.sum().backward()
    assert bool(net.conv4.weight.grad.isfinite().all())
    assert bool(net.conv4.weight.grad.any())


def test_no_images_have_no_features():
    conv = nn.Conv2d(2, 3, 7, padding=3)
    assert wide(conv, torch.zeros(0, 2, 8, 8)).shape == (0, 3, 8, 8)
    assert SimpleConv(3).eval()(torch.zeros(0, 3, 9, 9)).shape == (0, 128)
