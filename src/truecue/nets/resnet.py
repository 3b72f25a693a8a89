"""ResNet-18 and ResNet-50 with torchvision's parameter names, without torchvision."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from truecue.errors import DataError
from truecue.nets.classifier import Classifier, fit_weights, read_weights
from truecue.nets.small import CifarResNet, Projected


class ResNet(nn.Module):
    """ResNet for large images (He et al. 2016, table 1) without its last linear layer.

    The 3x3 convolution of a bottleneck has the stride, as in torchvision, whose names of
    parameters and initialisation it has as well.

    Args:
        channels: of the images.
        depth: 18 or 50.
    """

    def __init__(self, channels: int, depth: int):
        super().__init__()
        wide, blocks = {18: (1, (2, 2, 2, 2)), 50: (4, (3, 4, 6, 3))}[depth]
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before, stages = 64, []
        for i, n in enumerate(blocks):
            width = 64 * 2**i
            stages.append(_stage(before, width, wide, n, stride=1 if i == 0 else 2))
            before = width * wide
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.n_features = before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, 512 or 2048] of images [b, c, h, w]."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last maps [b, 512 or 2048, h / 32, w / 32], whose means are the features."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        maps: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return maps


def load_torchvision(net: nn.Module, path: Path) -> bool:
    """Load torchvision's weights for a ResNet-18 or ResNet-50.

    Args:
        net: a `ResNet`, or a `Classifier` around one.
        path: a `.pth` or `.safetensors` file of `torchvision.models.resnet18` or `resnet50`.

    Returns:
        Whether the head was loaded too: `net` is a classifier with as many classes as the file,
        and without a projection before the head. Otherwise its head stays as it is.

    Raises:
        DataError: the file cannot be read, or holds another network.
    """
    return _load_published(net, path, ResNet, "fc")


def load_cifar_resnet(net: nn.Module, path: Path) -> bool:
    """Load weights of github akamaster/pytorch_resnet_cifar10 (ResNet-20, ResNet-56).

    Args:
        net: a `CifarResNet`, or a `Classifier` around one. The published weights expect
            `norm="imagenet"`.
        path: a file of plain tensors; a leading `module.` in its names is taken off.

    Returns:
        Whether the head was loaded too, as for `load_torchvision`.

    Raises:
        DataError: the file cannot be read, or holds another network.
    """
    return _load_published(net, path, CifarResNet, "linear")


def _load_published(net: nn.Module, path: Path, kind: type[nn.Module], head: str) -> bool:
    path = Path(path)
    encoder = net.encoder if isinstance(net, Classifier) else net
    while isinstance(encoder, Projected):
        encoder = encoder.encoder
    if not isinstance(encoder, kind):
        raise DataError(f"{path} is for a {kind.__name__}; the network is {_name(encoder)}")
    state = {name.removeprefix("module."): v for name, v in read_weights(path).items()}
    ends = {k: state.pop(f"{head}.{k}") for k in ("weight", "bias") if f"{head}.{k}" in state}
    fit_weights(encoder, state, str(path))
    if not isinstance(net, Classifier):
        return False
    own = net.head.state_dict()
    if {k: v.shape for k, v in ends.items()} != {k: v.shape for k, v in own.items()}:
        return False
    net.head.load_state_dict(ends)
    return True


def _name(module: nn.Module) -> str:
    kind = type(module).__name__
    return f"an {kind}" if kind[0] in "AEIMO" else f"a {kind}"


class _Block(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the last is four times as wide."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    if before == after and stride == 1:
        return None
    conv = nn.Conv2d(before, after, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


def _stage(before: int, width: int, wide: int, n: int, stride: int) -> nn.Sequential:
    block = _Block if wide == 1 else _Bottleneck
    first = block(before, width, stride)
    return nn.Sequential(first, *(block(width * wide, width, 1) for _ in range(n - 1)))
