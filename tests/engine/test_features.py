from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_parts import cpu

from truecue.data.sets import ArrayFile, ImageSet, Splits
from truecue.engine.features import encoded
from truecue.nets.build import build
from truecue.nets.classifier import Classifier


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoder() -> Classifier:
    torch.manual_seed(0)
    return build("conv3", channels=3, size=8, n_classes=2).eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    return tmp_path / "images.npy"


def splits(file: Path, order: torch.Tensor) -> Splits:
    def part(ids: torch.Tensor) -> ImageSet:
        return ImageSet(ArrayFile(file, ids), ids % 2, ("a", "b"))

    return Splits(part(order[:100]), None, part(order[100:]))


def counted(encoder: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the encoder is given from now on."""
    sizes: list[int] = []
    plain = Classifier.features

    def features(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(Classifier, "features", features)
    return sizes


def test_features_are_the_encoders_image_by_image(encoder: Classifier, file: Path) -> None:
    data = splits(file, torch.randperm(150, generator=torch.Generator().manual_seed(1)))
    seen = encoded(data, encoder, cpu())
    assert seen.val is None
    for part, own in ((seen.train, data.train), (seen.test, data.test)):
        assert part.encoded
        assert part.shape == (64, 1, 1)
        with torch.no_grad():
            direct = encoder.features(own.images[:])
        torch.testing.assert_close(part.images[:, :, 0, 0], direct)
        assert torch.equal(part.y, own.y)


def test_each_image_of_a_file_is_encoded_once_whatever_the_split(
    encoder: Classifier, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = counted(encoder, monkeypatch)
    encoded(splits(file, torch.arange(150)), encoder, cpu())
    assert sum(sizes) == 150
    encoded(splits(file, torch.arange(150).flip(0)), encoder, cpu())
    assert sum(sizes) == 150


def test_other_weights_or_pixels_are_encoded_anew(encoder: Classifier, file: Path) -> None:
    data = splits(file, torch.arange(150))
    first = encoded(data, encoder, cpu()).train.images[:]
    with torch.no_grad():
        encoder.encoder.conv1.weight.mul_(2)
    assert not torch.equal(encoded(data, encoder, cpu()).train.images[:], first)
    memory = replace(data, train=replace(data.train, images=data.train.images[:]))
    other = replace(memory.train, images=255 - memory.train.images[:])
    ours = encoded(memory, encoder, cpu()).train.images[:]
    theirs = encoded(replace(memory, train=other), encoder, cpu()).train.images[:]
    assert not torch.equal(ours, theirs)
