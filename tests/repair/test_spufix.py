"""SpuFix as a last layer: the formula, files, and what else reads models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from world import network, splits

from truecue.audit.make import make_audit
from truecue.audit.pca import Components, spufix, spufix_other, transfer
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError
from truecue.nets.build import build
from truecue.nets.classifier import load_classifier, save_classifier
from truecue.nets.corrected import CorrectedHead
from truecue.nets.pretrained import LastLayer, joined
from truecue.repair.spufix import corrected, directions
from truecue.repair.tune import TuneSettings, train_epochs

CPU = Device("cpu")


@pytest.fixture
def phi() -> torch.Tensor:
    return torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).relu()


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(5, 3)


def test_features_by_hand():
    head = nn.Linear(3, 2)
    head.load_state_dict({"weight": torch.tensor([[1.0, 2, -1], [0, 1, 3]]),
                          "bias": torch.tensor([0.5, -0.5])})  # fmt: skip
    phi = torch.tensor([[1.0, 1, 0], [0, 3, 2]])  # contributions 1 and 2 to logit 0: [1, 2], [0, 6]
    found = directions(phi, head.weight[0].detach(), [1], torch.zeros(2, 0))
    made = corrected(head, {0: found})
    z = torch.tensor([[0.0, 5, 1], [4, 1, 0], [0, 2, 0]])
    # feature 1 adds 10, 2, 4 to logit 0, on average 4: what is above is taken off
    expected = torch.tensor([[9.5 - 6, 7.5], [6.5, 0.5], [4.5, 1.5]])
    torch.testing.assert_close(made(z), expected)


def test_own_features_are_components_along_their_axes(phi: torch.Tensor, head: nn.Linear):
    w = head.weight.detach()
    found = {
        c: directions(phi, w[c], own, torch.zeros(60, 0)) for c, own in ((0, [3]), (2, [0, 4]))
    }
    axes = {c: Components(w[c].double(), (phi.double() * w[c]).mean(0), torch.eye(5).double(),
                          torch.zeros(5)) for c in (0, 2)}  # fmt: skip
    z = torch.randn(40, 5)
    expected = spufix(head(z), z, axes, {0: [3], 2: [0, 4]})
    torch.testing.assert_close(corrected(head, found)(z), expected, atol=1e-5, rtol=1e-5)


def test_other_features_go_by_projection(phi: torch.Tensor, head: nn.Linear):
    w = head.weight.detach()
    # two features of another encoder, on another scale, one of them the other way round
    others = torch.stack([100 * phi[:, 1] + 3, -phi[:, 2] + 0.1 * phi[:, 0]], 1)
    found = {1: directions(phi, w[1], [], others)}
    alpha = others - others.mean(0)
    known = {1: transfer(alpha, phi, w[1])}
    z = torch.randn(40, 5)
    torch.testing.assert_close(
        corrected(head, found)(z), spufix_other(head(z), z, known), atol=1e-5, rtol=1e-5
    )
    mixed = directions(phi, w[1], [4], others)
    assert mixed.vectors.shape == (3, 5)
    expected = spufix_other(head(z), z, {1: mixed})
    torch.testing.assert_close(corrected(head, {1: mixed})(z), expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_corrected(phi: torch.Tensor, head: nn.Linear):
    w = head.weight.detach()
    with pytest.raises(DataError, match="does not go along with anything"):
        directions(phi, w[0], [], torch.ones(60, 1))
    with pytest.raises(DataError, match="no training images"):
        directions(phi[:0], w[0], [1], torch.zeros(0, 0))
    made = corrected(head, {0: directions(phi, w[0], [1], torch.zeros(60, 0))})
    with pytest.raises(ConfigError, match="repaired by SpuFix before"):
        corrected(made, {})


def test_tuning_leaves_the_correction(phi: torch.Tensor, head: nn.Linear):
    made = corrected(head, {0: directions(phi, head.weight[0].detach(), [1], torch.zeros(60, 0))})
    along, weight = made.along.clone(), made.weight.detach().clone()
    y = torch.arange(60) % 3
    list(train_epochs(made, phi, y, TuneSettings(epochs=1), 0))
    assert torch.equal(made.along, along)
    assert not torch.equal(made.weight, weight)


def test_a_corrected_model_is_kept_in_files(tmp_path: Path, phi: torch.Tensor):
    torch.manual_seed(0)
    net = build("mlp-2x5", channels=1, size=3, n_classes=3)
    found = {c: directions(phi, net.head.weight.detach()[c], [c, 4], torch.zeros(60, 0))
             for c in (0, 2)}  # fmt: skip
    plain = net.head
    net.head = corrected(plain, found)
    net.spec = net.spec | {"corrections": 4}
    save_classifier(net, tmp_path / "fixed.safetensors")
    again = load_classifier(tmp_path / "fixed.safetensors")
    x = torch.randint(256, (20, 1, 3, 3), dtype=torch.uint8)
    assert isinstance(again.head, CorrectedHead)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
        assert not torch.equal(again(x), plain(net.features(x)))
    # another last layer on the same encoder is a plain one, and its card says so
    other = joined(again, LastLayer(5, 2))
    save_classifier(other, tmp_path / "other.safetensors")
    assert load_classifier(tmp_path / "other.safetensors").n_classes == 2

    card = json.loads((tmp_path / "fixed.json").read_text())
    for wrong in (0, "4", None):
        (tmp_path / "fixed.json").write_text(json.dumps(card | {"corrections": wrong}))
        with pytest.raises(DataError, match="number of corrections must be 1 or more"):
            load_classifier(tmp_path / "fixed.safetensors")
    (tmp_path / "fixed.json").write_text(json.dumps(card | {"corrections": 3}))
    with pytest.raises(DataError, match=r"'head.along' is \[4, 5\], not \[3, 5\]"):
        load_classifier(tmp_path / "fixed.safetensors")


def test_an_audit_goes_by_the_corrected_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    data: Splits = splits((200, 60, 60))
    net = network(data)
    with torch.no_grad():
        phi = net.features(data.train.images[:])
        mine = phi[data.train.y == 0]
        found = {0: directions(mine, net.head.weight[0], [0, 2], torch.zeros(len(mine), 0))}
        net.head = corrected(net.head, found)
        net.spec = net.spec | {"corrections": 2}
        said = net(data.test.images[:]).argmax(1)
    plain = nn.functional.linear(phi, net.head.weight, net.head.bias)
    assert not torch.equal(net.head(phi).argmax(1), plain.argmax(1))
    audit = make_audit(tmp_path / "audit", data, net, device=CPU)
    assert torch.equal(audit.predicted("test"), said)
