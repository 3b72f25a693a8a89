"""ResNet-18 and ResNet-50: sizes, shapes, and weight files with torchvision's names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.resnet import ResNet, load_torchvision


@pytest.mark.parametrize(("depth", "size", "n"), [(18, 11_176_512, 512), (50, 23_508_032, 2048)])
def test_sizes_and_shapes(depth, size, n):
    net = ResNet(3, depth).eval()
    assert sum(p.numel() for p in net.parameters()) == size
    with torch.no_grad():
        maps, features = net.maps(torch.randn(1, 3, 64, 64)), net(torch.zeros(2, 3, 33, 47))
    assert maps.shape == (1, n, 2, 2)
    assert features.shape == (2, n)
    assert net.n_features == n


def test_names_are_torchvisions():
    names = set(ResNet(3, 18).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.1.bias"} <= names
    assert {"layer4.1.conv2.weight"} <= names
    assert not any(name.startswith("layer1.0.downsample") for name in names)
    assert "layer1.0.downsample.0.weight" in ResNet(3, 50).state_dict()


def _file(path, n_classes=10):
    """A state dict as torchvision writes it."""
    torch.manual_seed(1)
    source = ResNet(3, 18)
    fc = nn.Linear(512, n_classes)
    state = source.state_dict() | {f"fc.{k}": v for k, v in fc.state_dict().items()}
    torch.save(state, path)
    return state


def test_a_file_loads_into_a_classifier_its_encoder_and_a_projected_encoder(tmp_path):
    path = tmp_path / "resnet18.pth"
    state = _file(path)
    net = build("resnet18", channels=3, size=64, n_classes=10)
    assert load_torchvision(net, path)
    assert torch.equal(net.head.weight, state["fc.weight"])
    assert torch.equal(net.encoder.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])

    encoder = ResNet(3, 18)
    assert not load_torchvision(encoder, path)
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])

    target = build("resnet18-64", channels=3, size=32, n_classes=10)
    head = target.head.weight.clone()
    assert not load_torchvision(target, path)
    assert torch.equal(target.encoder.encoder.conv1.weight, state["conv1.weight"])
    assert torch.equal(target.head.weight, head)


def test_other_classes_leave_the_head(tmp_path):
    _file(tmp_path / "a.pth", n_classes=7)
    net = build("resnet18", channels=3, size=64, n_classes=10)
    assert not load_torchvision(net, tmp_path / "a.pth")


def test_files_that_do_not_fit_are_explained(tmp_path):
    _file(tmp_path / "a.pth")
    with pytest.raises(DataError, match=r"a\.pth does not fit the network: 'conv1\.weight' is"):
        load_torchvision(ResNet(1, 18), tmp_path / "a.pth")
    with pytest.raises(DataError, match="is for a ResNet; the network is an MLP"):
        load_torchvision(build("mlp-3", channels=3, size=8, n_classes=2), tmp_path / "a.pth")
    with pytest.raises(DataError, match="there is no weights file"):
        load_torchvision(ResNet(3, 18), tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"c\.pth cannot be read"):
        load_torchvision(ResNet(3, 18), tmp_path / "c.pth")
    torch.save({"model": {"conv1.weight": 1}}, tmp_path / "d.pth")
    with pytest.raises(DataError, match="must hold a dictionary of tensors"):
        load_torchvision(ResNet(3, 18), tmp_path / "d.pth")


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"conv1.weight": Trap()}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="cannot be read as"):
        load_torchvision(ResNet(3, 18), tmp_path / "a.pth")
    assert not (tmp_path / "sprung").exists()


def _by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, depth: int) -> torch.Tensor:
    """The last maps, by table 1 of He et al. and torchvision's place of the stride."""

    def unit(x, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{conv}.weight"]
        y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gain, offset = (
            state[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * gain + offset

    x = unit(x, "conv1", "bn1", 2).relu()
    x = F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    for stage, blocks in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], 1):
        for block in range(blocks):
            home = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            if depth == 18:
                y = unit(x, f"{home}.conv1", f"{home}.bn1", stride).relu()
                y = unit(y, f"{home}.conv2", f"{home}.bn2")
            else:
                y = unit(x, f"{home}.conv1", f"{home}.bn1").relu()
                y = unit(y, f"{home}.conv2", f"{home}.bn2", stride).relu()
                y = unit(y, f"{home}.conv3", f"{home}.bn3")
            short = f"{home}.downsample"
            if f"{short}.0.weight" in state:
                x = unit(x, f"{short}.0", f"{short}.1", stride)
            x = (x + y).relu()
    return x


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_maps_are_those_of_the_published_network(depth):
    torch.manual_seed(0)
    net = ResNet(3, depth)
    x = torch.randn(2, 3, 70, 45)
    net(x)  # statistics that are not those of a new network
    expected = _by_hand(net.state_dict(), x, depth)
    found = net.eval().maps(x)
    assert found.shape == expected.shape == (2, net.n_features, 3, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 50])
def test_initial_weights_are_torchvisions(depth):
    torch.manual_seed(0)
    net = ResNet(3, depth)
    for conv in (net.conv1, net.layer3[0].conv2, net.layer4[1].conv1):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    for norm in (net.bn1, net.layer4[1].bn1):
        assert bool((norm.weight == 1).all())
        assert bool((norm.bias == 0).all())
