"""The small encoders: sizes of DeNetDM's networks, features, published CIFAR weights."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from truecue.errors import ConfigError, DataError
from truecue.nets.build import build
from truecue.nets.resnet import load_cifar_resnet
from truecue.nets.small import CNN3, CNN4, MLP, CifarResNet, Conv3, SimpleConv, Unit


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "size", "parameters", "n_features"),
    [  # the table of architectures in the paper's code, heads left out
        ("mlp-5", 28, 265_600, 100),
        ("mlp-3", 28, 245_400, 100),
        ("resnet20", 32, 269_072, 64),
        ("cnn3", 32, 156_480, 64),
        ("resnet18-64", 32, 11_209_344, 64),
        ("resnet18", 224, 11_176_512, 512),
        ("cnn4", 224, 3_035_904, 512),
        ("simple_conv", 28, 529_920, 128),  # that of FairKL
        ("simple_conv-tanh", 28, 529_920, 128),
    ],
)
def test_denetdm_networks_have_the_papers_sizes(arch, size, parameters, n_features):
    net = build(arch, channels=3, size=size, n_classes=10)
    assert count(net.encoder) == parameters
    assert count(net.head) == 10 * (n_features + 1)
    x = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with torch.no_grad():
        assert net.features(x).shape == (2, n_features)


def test_conv_has_the_size_of_the_code():
    net = build("conv", channels=3, size=64, n_classes=10)
    assert count(net.encoder) == 659_328
    with torch.no_grad():
        for size in (8, 28, 64):
            assert net.features(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, 256)
    with pytest.raises(ConfigError, match="at least 8 pixels"):
        build("conv", channels=3, size=7, n_classes=10)


def test_leaky_units_have_the_slope_that_is_said():
    torch.manual_seed(0)
    net = build("mlp-2x3-leaky", channels=1, size=2, n_classes=2)
    x = torch.randn(5, 1, 2, 2)
    before = x.flatten(1) @ net.encoder.layers[0].weight.T + net.encoder.layers[0].bias
    assert bool((before < 0).any())
    torch.testing.assert_close(net.encoder(x), torch.where(before > 0, before, 0.1 * before))


def test_conv3_takes_maxima_before_it_normalises():
    torch.manual_seed(0)
    net = Conv3(3).train()
    x = torch.randn(4, 3, 12, 9)
    maps = net.maps(x)
    y = x
    for conv, norm, pooled in ((net.conv1, net.bn1, True), (net.conv2, net.bn2, True),
                               (net.conv3, net.bn3, False)):  # fmt: skip
        y = conv(y)
        if pooled:
            height, width = (side // 2 for side in y.shape[2:])
            y = y[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).amax(4)
            y = y.unflatten(2, (height, 2)).amax(3)
        y = norm(y).relu()
    torch.testing.assert_close(maps, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x), y.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_short_features_get_length_1_and_none_stay_none():
    z = torch.tensor([[3e-6, 4e-6], [0, 0]])
    found = Unit(nn.Flatten(), 2)(z[:, :, None, None])
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0, 0]]))


def test_mlp_is_linear_layers_with_relu():
    net = MLP(12, [5, 4])
    x = torch.randn(3, 3, 2, 2)
    first, second = (m for m in net.layers if isinstance(m, nn.Linear))
    expected = F.relu(second(F.relu(first(x.reshape(3, 12)))))
    assert torch.equal(net(x), expected)
    assert (net(x) >= 0).all()


def test_mlp_names_the_size_it_takes():
    with pytest.raises(ValueError, match=r"images of 12 values; got \[3, 4, 4\]"):
        MLP(12, [5])(torch.zeros(1, 3, 4, 4))


def test_simple_conv_is_four_convolutions_and_an_average():
    torch.manual_seed(0)
    net, x = SimpleConv(3).eval(), torch.randn(2, 3, 9, 9)
    signed = SimpleConv(3, signed=True).eval()
    signed.load_state_dict(net.state_dict())
    h = x
    for k in (1, 2, 3, 4):
        conv, bn = getattr(net, f"conv{k}"), getattr(net, f"bn{k}")
        h = bn(F.conv2d(F.relu(h) if k > 1 else h, conv.weight, conv.bias, padding=3))
    torch.testing.assert_close(net(x), F.relu(h).mean((2, 3)))
    torch.testing.assert_close(signed(x), h.tanh().mean((2, 3)))
    assert bool((signed(x) < 0).any())
    # drawn as by He et al. from what goes out: 16 maps of 7x7
    assert net.conv1.weight.std().item() == pytest.approx((2 / (16 * 49)) ** 0.5, rel=0.05)


def test_cnn3_is_the_papers_chain_at_32_pixels():
    net = CNN3(3).train()
    x = torch.randn(4, 3, 32, 32)
    plain = nn.Sequential(  # ReLU before pooling, and a flatten at the end, as written in the paper
        *(net.conv1, net.bn1, nn.ReLU(), nn.MaxPool2d(2)),
        *(net.conv2, net.bn2, nn.ReLU(), nn.MaxPool2d(2)),
        *(net.conv3, net.bn3, nn.ReLU(), nn.Flatten()),
    )
    assert torch.equal(net(x), plain(x))
    gradients = []
    for f in (net, plain):
        net.zero_grad()
        f(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_cnn3_averages_larger_maps():
    with torch.no_grad():
        assert CNN3(1)(torch.randn(2, 1, 48, 48)).shape == (2, 64)


def test_cnn4_pools_before_the_third_batch_norm():
    net = CNN4(3).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # negative weights: the order matters
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = torch.randn(1, 3, 46, 46)
    pool = nn.MaxPool2d(2)
    plain = nn.Sequential(
        *(net.conv1, net.bn1, nn.ReLU(), pool),
        *(net.conv2, net.bn2, nn.ReLU(), pool),
        *(net.conv3, pool, net.bn3, nn.ReLU()),
        *(net.conv4, net.bn4, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    with torch.no_grad():
        torch.testing.assert_close(net(x), plain(x))


def test_cifar_shortcut_takes_every_second_pixel_and_adds_empty_channels():
    net = CifarResNet(3, 20).eval()
    block = net.layer2[0]
    nn.init.zeros_(block.bn2.weight)  # the block's branch gives nothing
    x = torch.rand(2, 16, 8, 8)
    with torch.no_grad():
        y = block(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_cifar_resnet_starts_kaiming_normal():
    torch.manual_seed(0)
    weight = CifarResNet(3, 20).layer3[2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert CifarResNet(3, 56).layer1[8].conv2.weight.shape == (16, 16, 3, 3)


def test_published_resnet20_classifies_cifar(real_data):
    net = build("resnet20", channels=3, size=32, n_classes=10, norm="imagenet").eval()
    assert load_cifar_resnet(net, real_data / "weights" / "cifar10_resnet20.pt")
    table = pq.read_table(
        real_data / "cifar10" / "cifar10_jpeg.parquet",
        columns=["label", "jpeg"],
        filters=[("split", "=", "test")],
    )
    rows = np.random.default_rng(0).choice(len(table), 2000, replace=False)
    table = table.take(rows)
    images = [np.asarray(Image.open(io.BytesIO(j.as_py()))) for j in table["jpeg"]]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        hits = torch.cat([net(part).argmax(1) for part in x.split(250)]).numpy()
    accuracy = (hits == table["label"].to_numpy()).mean()
    assert accuracy > 0.78


def test_weights_of_another_depth_are_refused_in_one_sentence(real_data):
    net = build("resnet56", channels=3, size=32, n_classes=10)
    with pytest.raises(DataError, match=r"'layer1.3.conv1.weight' is absent; .* more\)"):
        load_cifar_resnet(net, real_data / "weights" / "cifar10_resnet20.pt")


def test_weights_for_another_head_leave_it_alone(real_data):
    net = build("resnet20", channels=3, size=32, n_classes=2)
    before = net.head.weight.clone()
    assert not load_cifar_resnet(net, real_data / "weights" / "cifar10_resnet20.pt")
    assert torch.equal(net.head.weight, before)


def test_names_of_a_network_in_parallel_are_those_of_the_network(tmp_path):
    source = CifarResNet(3, 20)
    torch.save({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "a.pt")
    net = CifarResNet(3, 20)
    assert not load_cifar_resnet(net, tmp_path / "a.pt")
    assert torch.equal(net.layer3[2].conv2.weight, source.layer3[2].conv2.weight)
