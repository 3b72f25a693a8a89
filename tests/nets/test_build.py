"""Names to networks, and the sentences for names that are none."""

from __future__ import annotations

import sys

import pytest
import torch

from truecue.errors import ConfigError, MissingExtra
from truecue.nets.build import build, default_arch, names, on_sphere, pair_for
from truecue.nets.classifier import load_classifier, save_classifier
from truecue.nets.small import MLP, Pair, Projected


@pytest.mark.parametrize("arch", names())
@pytest.mark.parametrize("channels", [1, 3])
def test_every_name_gives_a_classifier(arch, channels):
    size = 42 if arch == "cnn4" else 32
    net = build(arch, channels=channels, size=size, n_classes=4).eval()
    x = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
    with torch.no_grad():
        logits, features = net(x), net.features(x)
    assert logits.shape == (2, 4)
    assert features.shape == (2, net.n_features)
    assert net.spec["arch"] == arch
    assert net.spec["n_features"] == net.n_features
    assert names()[arch]


def test_initial_weights_come_from_torchs_random_state():
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(build("conv3", channels=3, size=16, n_classes=2).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(nets[0].values(), nets[1].values(), strict=True))
    assert not torch.equal(nets[0]["head.weight"], nets[2]["head.weight"])


def test_mlps_of_any_depth_and_width():
    net = build("mlp-4x7", channels=1, size=8, n_classes=2)
    assert [p.shape[0] for n, p in net.encoder.named_parameters() if "weight" in n] == [7, 7, 7]
    assert build("mlp-2", channels=1, size=8, n_classes=2).n_features == 100
    for wrong in ("mlp-1", "mlp-x", "mlp", "mlp-3x0", "mlp-3x"):
        with pytest.raises(ConfigError, match=f"no network '{wrong}': write mlp-N"):
            build(wrong, channels=1, size=8, n_classes=2)


def test_features_of_a_wanted_length():
    net = build("mlp-3", channels=1, size=8, n_classes=2, n_features=6)
    assert isinstance(net.encoder, Projected)
    x = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    assert net.features(x).shape == (64, 6)
    assert (net.features(x) < 0).any()  # no ReLU after the last layer
    same = build("mlp-3", channels=1, size=8, n_classes=2, n_features=100)
    assert isinstance(same.encoder, MLP)


@pytest.mark.parametrize("arch", ["mlp-3", "simple_conv-tanh", "resnet20"])
def test_features_on_the_unit_sphere(arch, tmp_path):
    plain = build(arch, channels=3, size=8, n_classes=2).eval()
    net = build(f"unit:{arch}", channels=3, size=8, n_classes=2).eval()
    net.encoder.encoder.load_state_dict(plain.encoder.state_dict())
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(net.features(x).norm(dim=1), torch.ones(5))
    expected = torch.nn.functional.normalize(plain.features(x), dim=1)
    torch.testing.assert_close(net.features(x), expected)
    save_classifier(net, tmp_path)
    assert torch.equal(load_classifier(tmp_path)(x), net(x))
    same = on_sphere(plain)
    assert same.spec == net.spec
    assert torch.equal(same.features(x), net.features(x))


@pytest.mark.parametrize("prefix", ["unit:", "centred:", "unit:centred:"])
def test_features_of_a_wanted_length_are_scaled_last(prefix, tmp_path):
    net = build(f"{prefix}mlp-3", channels=3, size=8, n_classes=2, n_features=6)
    x = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    z = net.features(x)
    assert z.shape == (64, 6)
    assert net.spec["n_features"] == 6
    if prefix.startswith("unit:"):
        torch.testing.assert_close(z.norm(dim=1), torch.ones(64))
    else:
        torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    save_classifier(net.eval(), tmp_path)
    assert torch.equal(load_classifier(tmp_path)(x), net(x))


@pytest.mark.parametrize("centred", [False, True])
def test_a_projected_network_on_the_sphere_comes_back(centred, tmp_path):
    plain = build("mlp-3", channels=3, size=8, n_classes=2, n_features=6)
    net = on_sphere(plain, centred=centred).eval()
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    save_classifier(net, tmp_path)
    assert torch.equal(load_classifier(tmp_path)(x), net(x))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_features_on_the_sphere_have_the_type_of_the_network(kind):
    net = build("unit:mlp-3", channels=3, size=8, n_classes=2).eval()
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    expected, mixed = net(x), torch.autocast("cpu", dtype=torch.bfloat16)
    with mixed:
        assert net.features(x).dtype == torch.float32
        torch.testing.assert_close(net.features(x).norm(dim=1), torch.ones(5))
    found = net.to(kind)(x)
    assert found.dtype == kind
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    if kind == torch.float64:
        one = torch.ones(5, dtype=kind)
        torch.testing.assert_close(net.features(x).norm(dim=1), one, rtol=1e-12, atol=0)


def test_centred_features(tmp_path):
    torch.manual_seed(0)
    net = build("unit:centred:mlp-3", channels=3, size=8, n_classes=2)
    x = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    z = net.encoder.encoder(net.pixels(x))
    alive = z.std(0) > 0.1  # a unit that is off for all images stays where it is
    torch.testing.assert_close(z.mean(0), torch.zeros(100), atol=1e-5, rtol=0)
    assert bool(alive.any())
    assert not list(net.encoder.encoder.norm.parameters())  # the head scales, and nothing else
    torch.testing.assert_close(z.std(0, correction=0)[alive].mean().item(), 1.0, atol=0.05, rtol=0)
    save_classifier(net.eval(), tmp_path)
    assert torch.equal(load_classifier(tmp_path)(x), net(x))
    start = build("mlp-3", channels=3, size=8, n_classes=2)
    assert on_sphere(start, centred=True).spec == net.spec


@pytest.mark.parametrize("arch", ["mlp-3", "conv3", "resnet20"])
def test_two_encoders_side_by_side(arch, tmp_path):
    net = build(f"pair:{arch}", channels=3, size=16, n_classes=2).eval()
    assert isinstance(net.encoder, Pair)
    alone = build(arch, channels=3, size=16, n_classes=2)
    assert net.n_features == net.encoder.n_features == 2 * alone.n_features
    assert (net.spec["norm"], net.spec["mean"]) == (alone.spec["norm"], alone.spec["mean"])
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        halves = [half(net.pixels(x)) for half in (net.encoder.first, net.encoder.second)]
        assert not torch.equal(*halves)
        assert torch.equal(net.features(x), torch.cat(halves, 1))
        save_classifier(net, tmp_path)
        assert torch.equal(load_classifier(tmp_path)(x), net(x))
    with pytest.raises(ConfigError, match="no network 'mlp-1'"):
        build("pair:mlp-1", channels=3, size=16, n_classes=2)


@pytest.mark.parametrize(
    ("arch", "channels", "norm", "mean"),
    [
        ("mlp-3", 3, "unit", [0, 0, 0]),
        ("conv3", 1, "unit", [0]),
        ("resnet20", 3, "cifar", [0.4914, 0.4822, 0.4465]),
        ("resnet18", 3, "imagenet", [0.485, 0.456, 0.406]),
        ("resnet18", 1, "half", [0.5]),
    ],
)
def test_usual_normalisation(arch, channels, norm, mean):
    spec = build(arch, channels=channels, size=32, n_classes=2).spec
    assert spec["norm"] == norm
    assert spec["mean"] == mean


def test_settings_out_of_range_are_explained():
    with pytest.raises(ConfigError, match="n_classes must be at least 1; got 0"):
        build("conv3", channels=3, size=32, n_classes=0)
    with pytest.raises(ConfigError, match="n_features must be at least 1; got -2"):
        build("conv3", channels=3, size=32, n_classes=2, n_features=-2)
    with pytest.raises(ConfigError, match="'cnn3' needs images of at least 32 pixels; these have"):
        build("cnn3", channels=3, size=28, n_classes=2)
    with pytest.raises(ConfigError, match="no normalisation 'cfar'; did you mean 'cifar'"):
        build("conv3", channels=3, size=32, n_classes=2, norm="cfar")
    with pytest.raises(ConfigError, match="for three channels and the images have 1"):
        build("conv3", channels=1, size=32, n_classes=2, norm="imagenet")


@pytest.mark.parametrize("arch", ["mlp-3", "conv3", "cnn3", "cnn4", "resnet20"])
def test_the_smallest_size_is_the_smallest_that_works(arch):
    def features(size):
        return (
            build(arch, channels=3, size=size, n_classes=2)
            .eval()
            .features(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        )

    smallest = {"mlp-3": 1, "conv3": 4, "cnn3": 32, "cnn4": 42, "resnet20": 4}[arch]
    assert features(smallest).isfinite().all()
    if smallest > 1:
        with pytest.raises(ConfigError, match=f"at least {smallest} pixels"):
            features(smallest - 1)


def test_without_timm_other_names_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"did you mean 'resnet18'\? .*truecue\[timm\]"):
        build("resent18", channels=3, size=32, n_classes=2)
    with pytest.raises(MissingExtra, match=r"own networks \(mlp-3, .*pip install"):
        build("efficientvit_b0", channels=3, size=32, n_classes=2)
    with pytest.raises(MissingExtra, match="'timm:resnet18' is a network of timm's"):
        build("timm:resnet18", channels=3, size=32, n_classes=2)


def test_a_timm_that_cannot_be_imported_is_missing_too(monkeypatch, tmp_path):
    # what torchvision does beside a torch of another build
    fault = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "timm.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(MissingExtra, match=r"nms does not exist.*builds for the same device"):
        build("vit_tiny_patch16_224", channels=3, size=224, n_classes=2)


def test_defaults_by_size():
    assert [default_arch(3, s) for s in (8, 31, 32, 96, 97, 224)] == [
        *("mlp-5", "mlp-5", "resnet20", "resnet20", "resnet18", "resnet18")
    ]
    assert pair_for(28) == ("mlp-5", "mlp-3", "mlp-5", 100)
    assert pair_for(32) == pair_for(64) == ("resnet20", "cnn3", "resnet18-64", 64)
    assert pair_for(65) == pair_for(224) == ("resnet18", "cnn4", "resnet18", 512)


@pytest.mark.parametrize("size", [8, 28, 29, 31, 32, 64, 65])
def test_the_networks_of_a_pair_share_a_feature_length(size):
    *archs, n_features = pair_for(size)
    nets = [build(a, channels=3, size=size, n_classes=2) for a in archs]
    assert [net.n_features for net in nets] == [n_features] * 3
