"""Raising a feature of an image, on features known by hand and on robust networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from truecue.audit.attack import amplified, feature_attack, length_for
from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier, read_weights


def weighted(x: Tensor) -> Tensor:
    """Two features of images [b, 3, 1, 1]: <[3, -4, 0], x> and <[0, 0, 1], x>."""
    return x.flatten(1) @ torch.tensor([[3.0, 0], [-4, 0], [0, 1]])


START = torch.full((1, 3, 1, 1), 0.5)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [0.56, 0.42, 0.5]), (2, [0.62, 0.34, 0.5]), (3, [0.68, 0.26, 0.5]), (100, [1, 0, 0.5])],
)
def test_steps_by_hand(steps: int, expected: list[float]) -> None:
    got = feature_attack(weighted, START, torch.tensor([0]), eta=0.1, steps=steps)
    torch.testing.assert_close(got.flatten(), torch.tensor(expected))
    assert (START == 0.5).all()


def test_each_image_has_its_own_feature_and_length() -> None:
    both = START.expand(2, -1, -1, -1)
    got = feature_attack(weighted, both, torch.tensor([0, 1]), eta=0.1, steps=1).flatten(1)
    torch.testing.assert_close(got, torch.tensor([[0.56, 0.42, 0.5], [0.5, 0.5, 0.6]]))


def test_an_image_without_a_gradient_stays() -> None:
    def dead(x: Tensor) -> Tensor:
        return (x.flatten(1) - 10).relu()

    got = feature_attack(dead, START, torch.tensor([0]), eta=0.1, steps=5)
    assert torch.equal(got, START)


def test_a_broken_gradient_is_an_error() -> None:
    with pytest.raises(DataError, match="gradient of a feature is not finite"):
        feature_attack(lambda x: (x.flatten(1) * 0).sqrt(), START, torch.tensor([0]), steps=2)


def test_the_length_of_a_step_is_that_of_the_paper_at_its_size() -> None:
    assert length_for(3, 224, 224) == pytest.approx(10)
    assert length_for(1, 28, 28) == pytest.approx(10 / 387.98 * 28, rel=1e-4)


def test_classifiers_are_left_as_they_are_and_batches_do_not_matter() -> None:
    torch.manual_seed(0)
    net = build("conv3", channels=3, size=16, n_classes=2).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    features = torch.tensor([3, 9, 40, 3])
    got = amplified(net, x, features, steps=5)
    alone = [amplified(net, x[i : i + 1], features[i : i + 1], steps=5) for i in range(4)]
    assert (got.int() - torch.cat(alone).int()).abs().max() <= 1
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    net.eval()
    rows = torch.arange(4)
    assert (net.features(got)[rows, features] > net.features(x)[rows, features]).all()


def robust_mnist(real_data) -> Classifier:
    layers = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    layers.load_state_dict(read_weights(real_data / "weights" / "mnist_robust_linf01.pt"))
    spec = {"arch": "robust", "channels": 1, "size": 28}
    return Classifier(layers[:7], layers[7], mean=(0.0,), std=(1.0,), spec=spec).eval()


@torch.no_grad()
def test_amplifying_a_class_feature_makes_other_digits_look_like_the_class(real_data) -> None:
    net = robust_mnist(real_data)
    with np.load(real_data / "mnist" / "mnist.npz") as file:
        x = torch.from_numpy(file["x_test"][:300])[:, None]
        y = torch.from_numpy(file["y_test"][:300]).long()
    features = net.features(x)
    zeros, others = y == 0, x[y != 0][:60]
    feature = int((net.head.weight[0] * features[zeros].mean(0)).argmax())
    wanted = torch.full((len(others),), feature)
    changed = amplified(net, others, wanted)
    before, after = (net.features(part)[:, feature] for part in (others, changed))
    dead = before == 0  # without a gradient
    assert torch.equal(changed[dead], others[dead])
    assert dead.float().mean() < 0.2
    assert (after > before + 5)[~dead].all()
    logits = (net(part)[:, 0] for part in (others, changed))
    first, then = logits
    assert float((then - first).mean()) > 5
    # it changes what is between and around strokes, not every pixel
    assert 0.02 < float((changed.int() - others.int()).abs().float().mean()) / 255 < 0.5
