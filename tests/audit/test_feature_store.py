"""The feature store: what it keeps, that it goes on after a kill, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from truecue.audit import features as store_module
from truecue.audit.features import encode, key_of, open_store, predict
from truecue.data.sets import ArrayFile, ImageSet
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier

N = 100


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "SHARD", 16)


@pytest.fixture
def device() -> Device:
    return Device("cpu")


@pytest.fixture
def encoder() -> Classifier:
    torch.manual_seed(0)
    return build("resnet20", channels=3, size=8, n_classes=2).train()


@pytest.fixture
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    return ImageSet(torch.from_numpy(pixels), torch.arange(N) % 2, ("a", "b"))


def seen(encoder: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the encoder is given from now on."""
    sizes: list[int] = []
    plain = Classifier.features
    monkeypatch.setattr(
        Classifier, "features", lambda self, x: (sizes.append(len(x)), plain(self, x))[1]
    )
    return sizes


def test_features_are_the_encoders_in_the_order_of_the_images(encoder, images, device):
    found = encode(images, encoder, device)
    with torch.no_grad():
        direct = encoder.eval().features(images.images)
    assert found.features.dtype == np.float16
    assert found.features.shape == (N, 64)
    assert isinstance(found.features, np.memmap)
    torch.testing.assert_close(torch.from_numpy(found.features[:].astype(np.float32)), direct,
                               rtol=1e-3, atol=1e-4)  # fmt: skip
    # with the remainder they are those of single precision, for any batch size
    torch.testing.assert_close(found.rows(torch.arange(N)), direct, rtol=2e-6, atol=2e-6)
    table = torch.tensor([[3, 5], [7, -1]])
    columns = found.own_columns(images.y, table)
    torch.testing.assert_close(columns[::2], direct[::2][:, [3, 5]], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(columns[1::2, 0], direct[1::2, 7], rtol=2e-6, atol=2e-6)
    assert columns[1::2, 1].isnan().all()
    head = encoder.head
    said = predict(found, head)
    assert torch.equal(said, encoder(images.images).argmax(1))


class Line(nn.Module):
    """One feature: the first pixel's value, as a number that half precision cannot tell apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 + x[:, :1, 0, 0] * 255 * 1e-5


def test_half_precision_makes_no_ties(device):
    pixels = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    net = Classifier(Line(), nn.Linear(1, 2), mean=(0.0,) * 3, std=(1.0,) * 3, spec={})
    images = ImageSet(pixels.contiguous(), torch.zeros(N).long(), ("a", "b"))
    found = encode(images, net, device)
    assert len(np.unique(found.features)) < 5
    columns = found.own_columns(images.y, torch.tensor([[0], [0]]))[:, 0]
    assert (columns.diff() > 0).all()
    torch.testing.assert_close(columns, 1 + torch.arange(N) * 1e-5, rtol=0, atol=3e-7)


def test_what_is_there_is_not_encoded_again(encoder, images, device, monkeypatch):
    sizes = seen(encoder, monkeypatch)
    first = encode(images, encoder, device)
    assert sum(sizes) == N
    assert encode(images, encoder, device).folder == first.folder
    assert sum(sizes) == N


def test_other_weights_pixels_order_or_normalisation_are_encoded_anew(encoder, images, device):
    folders = {encode(images, encoder, device).folder}
    pixels = images.images.clone()
    pixels[3, 0, 0, 0] ^= 1
    folders.add(encode(replace(images, images=pixels), encoder, device).folder)
    folders.add(encode(images.select(torch.arange(N).flip(0)), encoder, device).folder)
    with torch.no_grad():
        next(encoder.encoder.parameters()).mul_(1.01)
    folders.add(encode(images, encoder, device).folder)
    encoder.spec["mean"] = [0.0, 0, 0]
    folders.add(encode(images, encoder, device).folder)
    assert len(folders) == 5


def test_rows_of_a_decoded_file(encoder, images, device, tmp_path):
    np.save(tmp_path / "images.npy", images.images.numpy())
    rows = torch.arange(N)[1::2]
    part = ImageSet(ArrayFile(tmp_path / "images.npy", rows), images.y[rows], ("a", "b"))
    found = encode(part, encoder, device).rows(torch.arange(len(rows)))
    torch.testing.assert_close(found, encode(images, encoder, device).rows(rows))


def test_a_killed_process_loses_the_shard_under_way_only(encoder, images, device, monkeypatch):
    whole = encode(images, encoder, device)
    expected = whole.rows(torch.arange(N))
    folder = whole.folder
    for file in folder.iterdir():
        file.unlink()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        pid = os.fork()
    if pid == 0:  # dies in the middle of the fourth shard, after part of it was written
        sizes: list[int] = []
        plain = Classifier.features

        def dying(self: Classifier, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            if sum(sizes) > 48:
                with (folder / "features.npy").open("ab") as file:
                    file.write(b"\x00" * 777)
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, x)

        Classifier.features = dying  # type: ignore[method-assign]
        encode(images, encoder, device)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    with pytest.raises(DataError, match="are not complete"):
        open_store(folder)

    sizes = seen(encoder, monkeypatch)
    again = encode(images, encoder, device)
    assert again.folder == folder
    assert sum(sizes) == N - 48
    assert torch.equal(again.rows(torch.arange(N)), expected)
    assert np.array_equal(np.load(folder / "features.npy"), whole.features)


def test_a_stale_sidecar_is_named(encoder, images, device):
    folder = encode(images, encoder, device).folder
    known = json.loads((folder / "store.json").read_text())
    assert known["shape"] == [N, 64]
    assert known["dtype"] == "float16"
    (folder / "store.json").write_text(json.dumps(known | {"encoder": "old"}))
    with pytest.raises(DataError, match=r"encoder 'old' and not '.*; remove the folder"):
        encode(images, encoder, device)
    (folder / "store.json").write_text(json.dumps(known | {"version": 99}))
    with pytest.raises(DataError, match="version 99 and not"):
        open_store(folder, key_of(images, encoder, device))
    (folder / "store.json").write_text("{")
    with pytest.raises(DataError, match=r"damaged: store\.json cannot be read"):
        open_store(folder)


def test_a_damaged_file_is_named(encoder, images, device):
    folder = encode(images, encoder, device).folder
    with (folder / "remainder.npy").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(DataError, match=r"damaged: remainder\.npy cannot be read"):
        encode(images, encoder, device)
    (folder / "remainder.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"damaged: remainder\.npy cannot be read"):
        encode(images, encoder, device)
    np.save(folder / "remainder.npy", np.zeros((3, 3), np.float16))
    with pytest.raises(DataError, match=r"remainder\.npy is float16 \[3, 3\]"):
        encode(images, encoder, device)
    with pytest.raises(DataError, match="there are no features in"):
        open_store(folder / "elsewhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_features_that_do_not_fit_are_named(images, device, value):
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = x[:, :2, 0, 0].clone()
            z[(x[:, 0, 0, 0] * 255).round() == images.images[20, 0, 0, 0]] = value
            return z

    net = Classifier(Bad(), nn.Linear(2, 2), mean=(0.0,) * 3, std=(1.0,) * 3, spec={})
    first = int((images.images[:, 0, 0, 0] == images.images[20, 0, 0, 0]).nonzero()[0])
    with pytest.raises(DataError, match=f"image {first} has a feature of"):
        encode(images, net, device)
