"""`truecue.show_bias`: what is written, continued, refused and noted."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import truecue
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError, RunMismatch
from truecue.methods.bias_half import BiasHalf
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.nets.vae import load_vae
from truecue.testing import small_gratings

CPU = Device("cpu")
SHORT = BiasHalf().override({"plan.epochs": 2, "plan.batch_size": 32})


def model(arch: str = "mlp-3", channels: int = 3, size: int = 16, classes: int = 2) -> Classifier:
    """Goes by nothing, but is right about some."""
    torch.manual_seed(1)
    net = build(arch, channels=channels, size=size, n_classes=classes)
    with torch.no_grad():
        net.head.weight.mul_(20)
    return net


class CutOff(Exception):
    """Stands for a kill."""


class Cut(Device):
    """A device that fails after some steps, and counts them."""

    def __init__(self, steps: int | None = None):
        super().__init__("cpu")
        self.done, self.steps = 0, steps

    def backward(self, loss: Tensor) -> None:
        if self.done == self.steps:
            raise CutOff
        self.done += 1
        super().backward(loss)


def bits(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_everything_is_written_and_the_model_left_alone(tmp_path: Path) -> None:
    net, data = model(), small_gratings()
    before, random = copy.deepcopy(net), torch.random.get_rng_state()
    shown = truecue.show_bias(net, data, out=tmp_path, settings=SHORT, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert same(net, before)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert shown.page == tmp_path / "index.html"
    names = {path.name for path in tmp_path.iterdir()}
    assert {"index.html", "bias.json", "vae.safetensors", "vae.json", "run.toml"} <= names
    twin = json.loads((tmp_path / "bias.json").read_text())
    assert twin["judge"] == "model"
    assert twin["push"] == json.loads(json.dumps(shown.pictures.to_dict()["push"]))
    kept = load_vae(tmp_path)
    assert same(kept, shown.vae)
    assert kept.spec["extra"]["signal_classifier"] == "untrained"


@pytest.mark.slow
def test_cut_off_it_goes_on_and_finished_it_is_read_back(tmp_path: Path) -> None:
    net, data = model(), small_gratings()
    whole = Cut()
    wanted = truecue.show_bias(net, data, out=tmp_path / "whole", settings=SHORT, device=whole)
    cut = Cut(whole.done // 2)
    arguments = {"out": tmp_path / "cut", "settings": SHORT, "checkpoint_seconds": 0.0}
    with pytest.raises(CutOff):
        truecue.show_bias(net, data, device=cut, **arguments)
    rest = Cut()
    found = truecue.show_bias(net, data, device=rest, **arguments)
    assert 0 < rest.done <= whole.done - cut.done + 1
    assert same(found.vae, wanted.vae)
    again = Cut(0)
    target = data.train.classes[0]
    shown = truecue.show_bias(net, data, device=again, target=target, **arguments)
    assert same(shown.vae, wanted.vae), "other pictures of the same training"


@pytest.mark.slow
def test_another_model_or_seed_is_another_training(tmp_path: Path) -> None:
    net, data = model(), small_gratings()
    truecue.show_bias(net, data, out=tmp_path, settings=SHORT, device=CPU)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.head.bias[0] += 0.1
    with pytest.raises(RunMismatch, match="was made with other settings: model"):
        truecue.show_bias(other, data, out=tmp_path, settings=SHORT, device=CPU)
    with pytest.raises(RunMismatch, match="seed 0"):
        truecue.show_bias(net, data, out=tmp_path, settings=SHORT, device=CPU, seed=1)
    fresh = truecue.show_bias(
        other, data, out=tmp_path, settings=SHORT, device=CPU, seed=1, fresh=True
    )
    assert same(load_vae(tmp_path), fresh.vae)


def grey(n: int = 64) -> Splits:
    """Two classes, one channel: bright and dark."""
    y = torch.arange(n) % 2
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 60, (n, 1, 12, 12), generator=rng)
    part = ImageSet((noise + 150 * y[:, None, None, None]).to(torch.uint8), y, ("dark", "bright"))
    return Splits(part, part, part)


def bright() -> Classifier:
    """Goes by brightness."""
    net = model("mlp-3", 1, 12)
    with torch.no_grad():
        for layer in (m for m in net.encoder.modules() if isinstance(m, nn.Linear)):
            layer.weight.abs_().div_(layer.weight.sum(1, keepdim=True))
            layer.bias.zero_()
        net.head.weight[0], net.head.weight[1] = -0.2, 0.2
        net.head.bias[0], net.head.bias[1] = 7.0, -7.0
    return net


def test_grey_images_of_two_classes(tmp_path: Path) -> None:
    data, net = grey(), bright()
    right = net(data.train.images).argmax(1) == data.train.y
    assert bool(right.all())
    shown = truecue.show_bias(net, data, out=tmp_path, settings=SHORT, device=CPU).pictures
    assert shown.grids["pairs"].images.shape[2] == 1
    assert shown.judge == "model"
    assert shown.gallery[0].images.shape[1] == 1
    assert (tmp_path / "index.html").is_file()


@pytest.mark.slow
def test_a_resize_is_said() -> None:
    shown = truecue.show_bias(model(), small_gratings(), settings=SHORT.override(
        {"plan.epochs": 1}), arch="vae-conv64", device=CPU)  # fmt: skip
    assert any("work on 64 x 64 pixels: the images' 16 x 16 are resized" in n
               for n in shown.pictures.notes)  # fmt: skip


def wrong_always(data: Splits) -> Splits:
    """Labels that are never what the model says."""
    net = model().eval()

    def flipped(part: ImageSet) -> ImageSet:
        return replace(part, y=1 - net(part.images[:]).argmax(1)).blind()

    return Splits(*(flipped(part) for part in (data.train, data.val, data.test)))  # type: ignore[arg-type]


def stretched(data: Splits) -> Splits:
    parts = (replace(p, images=p.images[:, :, :12]) for p in (data.train, data.val, data.test))  # type: ignore[union-attr]
    return Splits(*parts)


@pytest.mark.parametrize(
    ("net", "change", "more", "error", "said"),
    [
        ({"size": 32}, None, {}, DataError, r"trained on images of 32 pixels; these have 16"),
        ({"classes": 3}, None, {}, DataError, "tells 3 classes apart; the data has 3"),
        ({"channels": 1}, None, {}, DataError, "takes 1 channels"),
        ({}, lambda d: replace(d, val=None), {}, ConfigError, "and this data has none"),
        ({}, wrong_always, {}, DataError, "right about none of the 64 validation images"),
        ({}, stretched, {}, DataError, "these images have 12 x 16 pixels"),
        ({}, None, {"target": "cow"}, ConfigError, "there is no class 'cow'"),
        ({}, None, {"factor": 1.0}, ConfigError, "a number above 1; got 1"),
        ({}, None, {"arch": "resnet18"}, ConfigError, "encoders that a decoder belongs to"),
    ],
)  # fmt: skip
def test_mistakes_write_nothing(
    tmp_path: Path, net: dict[str, int], change, more: dict[str, str], error, said: str
) -> None:
    data = small_gratings() if change is None else change(small_gratings())
    with pytest.raises(error, match=said):
        truecue.show_bias(
            model(**net), data, out=tmp_path / "out", settings=SHORT, device=CPU, **more
        )
    assert not (tmp_path / "out").exists()


def test_other_classes_of_the_same_number_are_refused() -> None:
    net = model()
    net.spec["extra"] = {"classes": ["cat", "dog"]}
    with pytest.raises(DataError, match="the model knows the classes cat, dog"):
        truecue.show_bias(net, small_gratings(), settings=SHORT, device=CPU)
