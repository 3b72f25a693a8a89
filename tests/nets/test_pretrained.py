from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from truecue.errors import ConfigError, DataError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier, save_classifier
from truecue.nets.pretrained import LastLayer, Pretrained, _of_encoder, joined

X = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)


@pytest.fixture
def net() -> Classifier:
    torch.manual_seed(0)
    return build("conv3", channels=3, size=16, n_classes=5).eval()


def plain_file(net: Classifier, path: Path) -> Path:
    """Weights as other programs keep them: no prefix, a last layer called fc."""
    state = dict(net.encoder.state_dict())
    state |= {"fc.weight": torch.zeros(5, 64), "fc.bias": torch.zeros(5)}
    torch.save(state, path)
    return path


def test_plain_weights_without_their_last_layer(net: Classifier, tmp_path: Path) -> None:
    file = plain_file(net, tmp_path / "w.pt")
    got = Pretrained(weights=str(file), arch="conv3").load(3, 16)
    assert torch.equal(got.features(X), net.features(X))
    assert not got.training


def test_a_saved_model_says_its_own_architecture(net: Classifier, tmp_path: Path) -> None:
    save_classifier(net, tmp_path / "run")
    for given in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        got = Pretrained(weights=str(given)).load(3, 16)
        assert got.spec["arch"] == "conv3"
        assert torch.equal(got.features(X), net.features(X))


def test_a_saved_model_says_its_own_normalisation(tmp_path: Path) -> None:
    net = build("conv3", channels=3, size=16, n_classes=5, norm="cifar")
    save_classifier(net, tmp_path)
    got = Pretrained(weights=str(tmp_path)).load(3, 16)
    assert got.spec["norm"] == "cifar"
    assert torch.equal(got.pixels(X), net.pixels(X))


def test_normalisation_can_be_given(net: Classifier, tmp_path: Path) -> None:
    file = plain_file(net, tmp_path / "w.pt")
    got = Pretrained(weights=str(file), arch="conv3", norm="half").load(3, 16)
    assert got.pixels(X).min() >= -1
    assert got.pixels(X).min() < -0.9


def test_relative_names_are_looked_for_below_the_root(net: Classifier, tmp_path: Path) -> None:
    plain_file(net, tmp_path / "w.pt")
    pretrained = Pretrained(weights="w.pt", arch="conv3")
    assert pretrained.path(tmp_path) == tmp_path / "w.pt"
    with pytest.raises(DataError, match=r"no weights file w\.pt or .*nowhere"):
        pretrained.path(tmp_path / "nowhere")


def test_loading_leaves_the_random_state_alone(net: Classifier, tmp_path: Path) -> None:
    file = plain_file(net, tmp_path / "w.pt")
    before = torch.get_rng_state()
    Pretrained(weights=str(file), arch="conv3").load(3, 16)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_loaded(net: Classifier, tmp_path: Path) -> None:
    file = plain_file(net, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"which network are the weights w\.pt for"):
        Pretrained(weights=str(file)).load(3, 16)
    with pytest.raises(DataError, match="given as weights of mlp-3, does not fit"):
        Pretrained(weights=str(file), arch="mlp-3").load(3, 16)


def test_digest_follows_the_contents(net: Classifier, tmp_path: Path) -> None:
    file = plain_file(net, tmp_path / "a.pt")
    first = Pretrained(weights=str(file), arch="conv3")
    again = Pretrained(weights=str(shutil.copy(file, tmp_path / "b.pt")), arch="conv3")
    assert first.digest() == again.digest()
    with torch.no_grad():
        next(net.encoder.parameters()).add_(1)
    other = Pretrained(weights=str(plain_file(net, tmp_path / "c.pt")), arch="conv3")
    assert first.digest() != other.digest()


def test_digest_is_computed_once_for_a_file(net: Classifier, tmp_path: Path, monkeypatch) -> None:
    weights = Pretrained(weights=str(plain_file(net, tmp_path / "w.pt")), arch="conv3")
    first = weights.digest()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert weights.digest() == first
    with torch.no_grad():
        next(net.encoder.parameters()).add_(1)
    plain_file(net, tmp_path / "w.pt")
    assert weights.digest() != first


def test_layers_of_a_head_that_the_encoder_has_are_kept() -> None:
    state = {"stem.weight": torch.ones(1), "head.norm.weight": torch.ones(1),
             "head.fc.weight": torch.ones(1)}  # fmt: skip
    assert _of_encoder(state, {"stem.weight", "head.norm.weight"}).keys() == {
        "stem.weight", "head.norm.weight"
    }  # fmt: skip


def test_joined_network_takes_images_and_can_be_saved(net: Classifier, tmp_path: Path) -> None:
    from truecue.nets.classifier import load_classifier

    last = LastLayer(64, 7)
    whole = joined(net, last)
    z = net.features(X)[:, :, None, None]
    assert torch.equal(whole(X), last(z))
    save_classifier(whole, tmp_path)
    assert torch.equal(load_classifier(tmp_path)(X), whole(X))


def test_last_layer_takes_features_only() -> None:
    with pytest.raises(ValueError, match="expected float features"):
        LastLayer(64, 7)(X)


@pytest.mark.parametrize("arch", ["conv3", "unit:conv3"])
def test_a_saved_model_with_a_projection_comes_with_it(arch: str, tmp_path: Path) -> None:
    net = build(arch, channels=3, size=16, n_classes=5, n_features=7).eval()
    save_classifier(net, tmp_path)
    got = Pretrained(weights=str(tmp_path)).load(3, 16)
    assert got.n_features == 7
    assert torch.equal(got.features(X), net.features(X))


def test_tensors_without_names_are_refused(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="must hold a dictionary of tensors by name"):
        Pretrained(weights=str(tmp_path / "w.pt"), arch="conv3").load(3, 16)
