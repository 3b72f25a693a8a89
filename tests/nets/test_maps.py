"""Finding the maps whose means are the features."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.nets.build import build
from truecue.nets.classifier import Classifier, read_weights
from truecue.nets.maps import FeatureMaps, evaluating
from truecue.nets.resnet import load_cifar_resnet


def pictures(n: int, channels: int, side: int, seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=rng, dtype=torch.uint8)


def around(encoder: nn.Module, n_features: int, side: int, channels: int = 3) -> Classifier:
    """A classifier around a network that `build` does not know."""
    spec = {"arch": "strange", "channels": channels, "size": side}
    head = nn.Linear(n_features, 2)
    return Classifier(
        encoder, head, mean=(0.5,) * channels, std=(0.25,) * channels, spec=spec
    ).eval()


def check_pooled(net: Classifier, x: Tensor) -> FeatureMaps:
    source = FeatureMaps(net)
    assert source.kind == "pooled"
    assert source.note.endswith("whose mean is the feature")
    maps = source.maps(x)
    assert maps[0, 0].numel() > 1
    with torch.no_grad():
        features = net.eval().features(x)
    scale = float(features.abs().max())
    torch.testing.assert_close(maps.mean((2, 3)), features, atol=1e-5 * scale, rtol=0)
    wanted = torch.arange(len(x)) * 7 % net.n_features
    assert torch.equal(source.of(x, wanted), maps[torch.arange(len(x)), wanted])
    return source


@pytest.mark.parametrize(
    ("arch", "side"),
    [("conv3", 16), ("cnn3", 40), ("cnn4", 64), ("resnet20", 32), ("resnet18", 64),
     ("resnet50", 64), ("resnet18-64", 64), ("pair:resnet20", 32)],
)  # fmt: skip
def test_means_of_maps_are_the_features(arch: str, side: int) -> None:
    torch.manual_seed(0)
    check_pooled(build(arch, channels=3, size=side, n_classes=2), pictures(3, 3, side))


def test_images_need_not_be_square() -> None:
    torch.manual_seed(0)
    net = build("resnet20", channels=3, size=32, n_classes=2).eval()
    x = torch.cat([pictures(2, 3, 32), pictures(2, 3, 32, seed=2)], 3)
    assert FeatureMaps(net).maps(x).shape == (2, 64, 8, 16)


def test_published_resnet20(real_data) -> None:
    net = build("resnet20", channels=3, size=32, n_classes=10, norm="imagenet")
    assert load_cifar_resnet(net, real_data / "weights" / "cifar10_resnet20.pt")
    check_pooled(net, pictures(4, 3, 32))


class _Fire(nn.Module):
    def __init__(self, before: int, squeezed: int, after: int):
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, after // 2, 1)
        self.expand3x3 = nn.Conv2d(squeezed, after // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def squeezenet() -> nn.Sequential:
    """SqueezeNet 1.0 with torchvision's names, pooled to 512 features."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [
        nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool(), _Fire(96, 16, 128), _Fire(128, 16, 128),
        _Fire(128, 32, 256), pool(), _Fire(256, 32, 256), _Fire(256, 48, 384),
        _Fire(384, 48, 384), _Fire(384, 64, 512), pool(), _Fire(512, 64, 512),
    ]  # fmt: skip
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_published_squeezenet_whose_maps_are_found(real_data) -> None:
    encoder = squeezenet()
    state = read_weights(real_data / "weights" / "imagenet_squeezenet1_0_torchvision.pt")
    own = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    encoder.load_state_dict(own)
    source = check_pooled(around(encoder, 512, 224), pictures(2, 3, 224))
    assert source.maps(pictures(1, 3, 224)).shape == (1, 512, 13, 13)


def test_a_layer_with_as_many_channels_is_not_taken_for_the_maps() -> None:
    torch.manual_seed(0)
    # as many channels as features, but mixed before they become them
    encoder = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)
    )
    assert FeatureMaps(around(encoder, 8, 12)).kind == "gradient"


def test_a_map_of_one_place_says_nothing() -> None:
    torch.manual_seed(0)
    net = build("cnn3", channels=3, size=32, n_classes=2).eval()
    assert FeatureMaps(net).kind == "gradient"


def test_a_network_without_maps_says_so() -> None:
    torch.manual_seed(0)
    source = FeatureMaps(build("mlp-3", channels=1, size=28, n_classes=2).eval())
    assert source.kind == "gradient"
    assert source.note.startswith("no maps: ")
    with pytest.raises(ValueError, match="mlp-3 has no maps"):
        source.maps(pictures(1, 1, 28))
    assert source.of(pictures(2, 1, 28), torch.tensor([3, 4])).shape == (2, 14, 14)


def test_gradient_times_input_of_a_linear_network() -> None:
    linear = nn.Linear(3 * 4 * 4, 2)
    net = around(nn.Sequential(nn.Flatten(), linear), 2, 4)
    x = pictures(2, 3, 4)
    got = FeatureMaps(net).of(x, torch.tensor([1, 0]))
    weights = linear.weight.detach().view(2, 3, 4, 4)[[1, 0]]
    expected = (weights * net.pixels(x)).sum(1).clamp(min=0)
    torch.testing.assert_close(got, expected)
    assert linear.weight.grad is None


def test_training_mode_comes_back_and_statistics_stay() -> None:
    torch.manual_seed(0)
    net = build("conv3", channels=3, size=16, n_classes=2).train()
    frozen = net.encoder.bn1.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    source = FeatureMaps(net)
    x = pictures(4, 3, 16)
    together = source.maps(x)
    alone = torch.cat([source.maps(part) for part in x.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert net.training
    assert not frozen.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_modes_come_back_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(RuntimeError), evaluating(net):
        raise RuntimeError
    assert net[0].training


timm = [
    pytest.mark.timm,
    pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed"),
]


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        pytest.param("mobilenetv2_100,pad_type=same", 96, marks=timm),
        pytest.param("timm:resnet18", 96, marks=timm),
        pytest.param("densenet121", 96, marks=timm),
        pytest.param("swin_tiny_patch4_window7_224", 224, marks=timm),
    ],
)
def test_maps_of_timms_networks_are_found(arch: str, side: int) -> None:
    torch.manual_seed(0)
    net = build(arch, channels=3, size=side, n_classes=2).eval()
    check_pooled(net, pictures(2, 3, side))


@pytest.mark.timm
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_patch_tokens_of_a_transformer() -> None:
    torch.manual_seed(0)
    net = build("vit_tiny_patch16_224", channels=3, size=224, n_classes=2).eval()
    source = FeatureMaps(net)
    assert source.kind == "tokens"
    assert source.note.startswith("patch tokens")
    x = pictures(1, 3, 224)
    maps = source.maps(x)
    assert maps.shape == (1, 192, 14, 14)
    with torch.no_grad():
        tokens = net.encoder.forward_features(net.pixels(x))
    # the class token comes first, then patches row by row
    torch.testing.assert_close(maps[0, :, 2, 5], tokens[0, 1 + 2 * 14 + 5])
