"""The classifier that an audit trains where none is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truecue.data.sets import ImageSet
from truecue.data.suites.digits import Digits
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.small_model import train_small, usual_arch, usual_plan

CPU = Device("cpu")


def test_more_images_get_fewer_epochs() -> None:
    data = Digits(train_size=500, test_size=100).load(seed=0)
    few = usual_plan(data).plan
    assert (few.epochs, few.select) == (60, "val_loss")
    assert few.stop is not None
    assert few.stop.epochs == 10
    rows = torch.arange(400).repeat(15)
    many = usual_plan(replace(data, train=data.train.select(rows))).plan
    assert many.epochs == 10
    without = usual_plan(replace(data, val=None)).plan
    assert (without.stop, without.select) == (None, "last")
    assert [usual_arch(size, size) for size in (28, 31, 32, 64, 224)] == [
        "mlp-5", "mlp-5", "conv3", "conv3", "conv3",
    ]  # fmt: skip
    assert usual_arch(28, 20) == "conv3"  # linear layers are made for squares


def test_images_that_are_not_square(tmp_path: Path) -> None:
    def cut(part: ImageSet) -> ImageSet:
        return replace(part, images=part.images[:][..., :20].contiguous())

    data = Digits(train_size=500, test_size=100).load(seed=0)
    assert data.val is not None
    data = replace(data, train=cut(data.train), val=cut(data.val), test=cut(data.test))
    with pytest.raises(DataError, match="'mlp-3' takes square images; these have 28 x 20"):
        train_small(data, tmp_path / "a", arch="mlp-3", device=CPU)
    net, told = train_small(data, tmp_path / "a", plan={"plan.epochs": 1}, device=CPU)
    assert told["arch"] == net.spec["arch"] == "conv3"


def test_training_ends_where_the_loss_is_flat(tmp_path: Path) -> None:
    data = Digits(train_size=500, test_size=100).load(seed=0)
    said: list[str] = []
    where = {"device": CPU, "arch": "mlp-3", "tell": said.append}
    net, told = train_small(data, tmp_path / "a", plan={"plan.optimizer.lr": 1e-9}, **where)
    assert net.spec["arch"] == "mlp-3"
    assert told["epochs"] < 60  # nothing moves
    assert told["epochs"] == told["kept"] + 10
    assert len(said) == 1
    assert said[0].startswith("No model is given: training one (mlp-3) on ")
    # a second time it is there already
    again, _ = train_small(data, tmp_path / "a", plan={"plan.optimizer.lr": 1e-9}, **where)
    assert len(said) == 1
    assert torch.equal(again.head.weight, net.head.weight)


def test_settings_of_its_own(tmp_path: Path) -> None:
    data = Digits(train_size=500, test_size=100).load(seed=0)
    plan = {"plan.epochs": 2, "plan.batch_size": 100}
    _, told = train_small(data, tmp_path / "a", plan=plan, arch="mlp-3", device=CPU)
    assert told["epochs"] == 2
    assert told["arch"] == "mlp-3"


@pytest.mark.parametrize("seconds", [0.2, 75, 300, 7200])
def test_times_are_readable(seconds: float) -> None:
    from truecue.small_model import _duration

    assert (
        _duration(seconds) == {0.2: "1 s", 75: "75 s", 300: "5 minutes", 7200: "2.0 hours"}[seconds]
    )
