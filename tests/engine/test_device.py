from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from engine_parts import Toy, assert_same, cpu, images, seeded, stage
from torch import nn

from truecue.engine import loop
from truecue.engine.device import Device
from truecue.engine.evaluate import BATCH, apply, count, predictions
from truecue.engine.plan import Plan
from truecue.errors import ConfigError, SupervisionError


def test_one_process_needs_no_wrapper() -> None:
    device, toy = cpu(), Toy()
    assert (device.rank, device.world, device.first) == (0, 1, True)
    assert device.wrap(toy, turns=True) is toy
    assert device.gather({"a": 1}) == [{"a": 1}]
    assert device.agree(True)
    assert not device.agree(False)
    assert device.describe().startswith("cpu, 1 threads (")


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="is auto, cpu, cuda or mps; got 'abacus'"):
        Device("abacus")
    here = {"CUDA": torch.cuda.is_available(), "MPS": torch.backends.mps.is_available()}
    for name in (name for name, there in here.items() if not there):
        with pytest.raises(ConfigError, match=f"no {name} device that torch can use"):
            Device(name.lower())


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_full() -> None:
    device = Device("cpu", precision="bf16-mixed")
    seen = []

    class Spy(Toy):
        def forward(self, batch):
            seen.append(self.net(batch.x).dtype)
            return super().forward(batch)

    learner = seeded(Spy)
    loop.train(learner, stage(Plan(epochs=2, batch_size=16), device=device))
    assert set(seen) == {torch.bfloat16}
    assert learner.net.linear.weight.dtype == torch.float32
    assert apply(learner.net, images(), device).dtype == torch.float32
    full = seeded(Toy)
    loop.train(full, stage(Plan(epochs=2, batch_size=16)))
    with pytest.raises(AssertionError):
        assert_same(learner, full)


def test_outputs_are_those_of_the_network_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    data = images(BATCH + 7)

    def pixels(x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        assert len(x) <= BATCH
        return net(x.float())

    class Net(nn.Module):
        def forward(self, x):
            return pixels(x)

    module = Net()
    module.net = net
    module.train()
    out = apply(module, data, cpu())
    assert torch.equal(out, data.images.flatten(1).float())
    assert module.training
    assert net.training


def test_predictions_and_counts_by_hand() -> None:
    data = images(6)
    red = data.images[:, 0, 0, 0].float()
    pred = predictions(lambda x: torch.stack([x[:, 0, 0, 0] / 100, torch.ones(6)], 1), data, cpu())
    assert pred.tolist() == [int(value < 100) for value in red.tolist()]
    counts = count(torch.tensor([0, 1, 1, 1, 0, 0]), data, None)  # labels 0 1 0 1 0 1
    assert counts.hits.tolist() == [[2], [2]]
    assert counts.total.tolist() == [[3], [3]]
    by_place = count(data.y, data, "place")
    assert by_place.hits.sum() == 6
    assert by_place.hits.shape == (2, 2)
    with pytest.raises(SupervisionError, match=r"no attribute 'colour' \(attributes: place\)"):
        count(data.y, data, "colour")
    with pytest.raises(SupervisionError, match="attributes: none"):
        count(data.y, data.blind(), "place")


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    """In a process of its own: the setting cannot be taken back."""
    code = (
        "import platform, sys; from truecue.engine.device import keep_freed_memory;"
        "sys.exit(0 if keep_freed_memory() == (platform.libc_ver()[0] == 'glibc') else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
