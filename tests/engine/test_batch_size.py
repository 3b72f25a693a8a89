"""Images in one forward pass: fewer of large ones on a CPU, and the same outputs."""

from __future__ import annotations

import pytest
import torch
from engine_parts import cpu
from torch import nn

from truecue.data.sets import ImageSet
from truecue.engine.evaluate import BATCH, apply, batch_size


class Elsewhere:
    """A device that is not the CPU, as far as sizes go."""

    device = torch.device("cuda")


def images(side: int, n: int = 20) -> ImageSet:
    rng = torch.Generator().manual_seed(side)
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=rng)
    return ImageSet(pixels, torch.zeros(n, dtype=torch.int64), ("a", "b"))


@pytest.mark.parametrize(
    ("side", "most", "wanted"),
    [(1, BATCH, BATCH), (20, BATCH, BATCH), (28, BATCH, 512), (64, 64, 64), (224, 64, 8)],
)
def test_large_images_come_in_small_batches_on_a_cpu(side: int, most: int, wanted: int) -> None:
    data = images(side, n=1)
    assert batch_size(data, cpu(), most) == wanted
    assert batch_size(data, Elsewhere(), most) == most


def test_an_image_beyond_all_measure_comes_alone() -> None:
    assert batch_size(images(700, n=1), cpu()) == 1


def test_outputs_do_not_depend_on_the_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data, sizes = images(224), []

    def features(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return net(x / 255)

    out = apply(features, data, cpu())
    assert sizes == [8, 8, 4]
    torch.testing.assert_close(out, net(data.images / 255).detach(), rtol=1e-5, atol=1e-6)
