"""Classifier: normalisation, sentences for wrong images, and the two files it is kept in."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from truecue.errors import DataError, StorageError
from truecue.nets.build import build, names
from truecue.nets.classifier import Classifier, load_classifier, save_classifier


def images(n=4, channels=3, size=32):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("norm", ["unit", "half", "cifar", "imagenet"])
def test_pixels_are_normalised(norm):
    net = build("conv3", channels=3, size=32, n_classes=2, norm=norm)
    mean, std = (torch.tensor(net.spec[k]).view(3, 1, 1) for k in ("mean", "std"))
    x = images()
    torch.testing.assert_close(net.pixels(x), (x / 255 - mean) / std, atol=2e-6, rtol=0)
    assert net.pixels(x).is_contiguous()


@pytest.mark.parametrize("norm", ["unit", "half", "cifar"])
def test_images_that_are_being_changed_are_normalised_alike(norm):
    net = build("mlp-3", channels=3, size=4, n_classes=2, norm=norm)
    x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(net.normalised(x / 255), net.pixels(x))


def test_black_and_white_are_exactly_0_and_1():
    net = build("mlp-3", channels=1, size=2, n_classes=2)
    x = torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)
    assert net.pixels(x).flatten().tolist() == [0, 1, 1, 0]


def test_the_steps_are_pixels_encoder_head():
    net = build("resnet20", channels=3, size=32, n_classes=5).eval()
    x = images()
    assert torch.equal(net.features(x), net.encoder(net.pixels(x)))
    assert torch.equal(net(x), net.head(net.features(x)))
    assert (net.n_features, net.n_classes) == (64, 5)


def test_images_are_left_as_they_are():
    net, x = build("conv3", channels=3, size=32, n_classes=2, norm="half"), images()
    before = x.clone()
    net(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (torch.zeros(2, 3, 8, 8), r"float32 \[2, 3, 8, 8\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"uint8 \[2, 1, 8, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"uint8 \[3, 8, 8\]"),
    ],
)
def test_other_images_are_refused(x, found):
    net = build("conv3", channels=3, size=8, n_classes=2)
    with pytest.raises(ValueError, match=rf"takes uint8 images \[b, 3, h, w\]; got {found}"):
        net(x)


def test_mean_and_std_belong_together():
    with pytest.raises(ValueError, match="mean has 3 channels and std has 1"):
        Classifier(nn.Flatten(), nn.Linear(3, 2), mean=(0, 0, 0), std=(1,), spec={})


def test_normalisation_follows_the_weights_type_and_is_not_saved():
    net = build("mlp-3", channels=3, size=8, n_classes=2, norm="cifar").double()
    assert net(images(size=8)).dtype == torch.float64
    assert not any("scale" in name or "shift" in name for name in net.state_dict())


@settings(max_examples=20, deadline=None)
@given(
    arch=st.sampled_from(["mlp-2x3", "mlp-4x5", "conv3"]),
    channels=st.integers(1, 4),
    size=st.integers(4, 12),
    n_classes=st.integers(1, 5),
    n_features=st.none() | st.integers(1, 8),
)
def test_saving_and_loading_changes_no_bit(
    tmp_path_factory, arch, channels, size, n_classes, n_features
):
    net = build(arch, channels=channels, size=size, n_classes=n_classes, n_features=n_features)
    folder = tmp_path_factory.mktemp("model")
    save_classifier(net, folder)
    back = load_classifier(folder)
    x = images(3, channels, size)
    assert not back.training
    assert torch.equal(back(x), net.eval()(x))
    assert back.spec == net.spec


@pytest.mark.parametrize("arch", names())
def test_every_network_comes_back(arch, tmp_path):
    size = 42 if arch == "cnn4" else 32
    net = build(arch, channels=3, size=size, n_classes=2)
    with torch.no_grad():
        net(images(size=size))  # moves the running statistics
    save_classifier(net, tmp_path)
    back = load_classifier(tmp_path).state_dict()
    own = net.state_dict()
    assert own.keys() == back.keys()
    assert all(torch.equal(own[k], back[k]) for k in own)


def test_channels_last_weights_can_be_saved(tmp_path):
    net = build("conv3", channels=3, size=8, n_classes=2).to(memory_format=torch.channels_last)
    save_classifier(net, tmp_path)
    assert torch.equal(load_classifier(tmp_path).encoder.conv2.weight, net.encoder.conv2.weight)


def test_the_card_tells_people_and_keeps_what_else_is_known(tmp_path):
    net = build("conv3", channels=3, size=16, n_classes=2)
    save_classifier(net, tmp_path / "a", {"classes": ["cat", "dog"]})
    card = json.loads((tmp_path / "a" / "model.json").read_text())
    assert card == {
        "format": 1,
        "arch": "conv3",
        "channels": 3,
        "size": 16,
        "n_classes": 2,
        "n_features": 64,
        "norm": "unit",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "extra": {"classes": ["cat", "dog"]},
    }
    back = load_classifier(tmp_path / "a")
    assert back.spec["extra"]["classes"] == ["cat", "dog"]
    save_classifier(back, tmp_path / "b" / "net.safetensors")
    again = load_classifier(tmp_path / "b" / "net.safetensors")
    assert again.spec == back.spec
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["net.json", "net.safetensors"]


def test_loading_leaves_the_random_state(tmp_path):
    save_classifier(build("conv3", channels=3, size=16, n_classes=2), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_classifier(tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_a_failed_save_leaves_the_earlier_model(tmp_path, monkeypatch):
    old = build("mlp-2x3", channels=1, size=4, n_classes=2)
    save_classifier(old, tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"could not write .*model\.\w+: No space left"):
        save_classifier(build("mlp-2x3", channels=1, size=4, n_classes=2), tmp_path)
    assert torch.equal(load_classifier(tmp_path).head.weight, old.head.weight)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_card_that_cannot_be_written_leaves_the_earlier_weights(tmp_path):
    card, _ = _saved(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    card.unlink()
    card.mkdir()
    with pytest.raises(StorageError, match=r"could not write .*model\.json"):
        _saved(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def _saved(folder):
    save_classifier(build("mlp-3x4", channels=1, size=4, n_classes=2), folder)
    return folder / "model.json", json.loads((folder / "model.json").read_text())


def test_faulty_files_are_explained(tmp_path):
    card, good = _saved(tmp_path)
    faults = {
        "not": r"cannot be read as a model's card: Expecting value",
        "[]": "it is not a JSON object",
        json.dumps(good | {"format": 9}): "has format 9, and this version reads 1",
        json.dumps({"format": 1, "arch": "mlp-3"}): "does not say channels, size, n_classes",
        json.dumps(good | {"arch": "mlp-x"}): r"model\.json: there is no network 'mlp-x'",
        json.dumps(
            good | {"channels": "3"}
        ): r"model\.json: channels must be a whole number; it .*'3'",
        json.dumps(good | {"n_features": 4.5}): r"n_features must be a whole number; it says 4\.5",
        json.dumps(good | {"arch": None}): r"model\.json: arch must be a name; it says None",
        json.dumps(good | {"norm": ["half"]}): r"norm must be a name; it says \['half'\]",
        json.dumps(good | {"size": 10**7}): r"model\.json: .*memory",
        json.dumps(good | {"n_classes": 3}): r"calls mlp-3x4, does not fit .*'head\.weight' is",
        json.dumps(good | {"arch": "mlp-4x4"}): r"'encoder\.layers\.4\.weight' is absent",
        json.dumps(good | {"arch": "mlp-2x4"}): r"'encoder\.layers\.2\.weight' is unknown",
    }
    for text, sentence in faults.items():
        card.write_text(text)
        with pytest.raises(DataError, match=sentence):
            load_classifier(tmp_path)
    card.unlink()
    with pytest.raises(DataError, match=r"no card .*model\.json that says which network"):
        load_classifier(tmp_path)


def test_faulty_weights_are_explained(tmp_path):
    _saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", b"rubbish", whole[:-8]):
        weights.write_bytes(damaged)
        with pytest.raises(DataError, match=r"model\.safetensors cannot be read as weights"):
            load_classifier(tmp_path)
    weights.unlink()
    with pytest.raises(DataError, match="there is no weights file"):
        load_classifier(tmp_path)
