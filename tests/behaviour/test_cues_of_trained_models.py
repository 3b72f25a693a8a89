"""Networks trained with and without sight of a planted cue: one goes by it, the other cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from truecue import ERM, CueTable, Device, ImageSet, Plan, Planted, Splits, find_cues, train
from truecue.engine.evaluate import apply

COLOURS = {"hue", "colour cast"}


def grey(x: Tensor) -> Tensor:
    """Images without colour, uint8 [n, 3, h, w]."""
    return x.float().mean(1, keepdim=True).round().to(torch.uint8).expand(-1, 3, -1, -1)


def uncoloured(part: ImageSet) -> ImageSet:
    return replace(part, images=grey(part.images[:]).contiguous())


def table(data: Splits, *, blind: bool) -> CueTable:
    seen = data
    if blind:
        val = None if data.val is None else uncoloured(data.val)
        seen = replace(data, train=uncoloured(data.train), val=val, test=uncoloured(data.test))
    device = Device("cpu")
    method = ERM(plan=Plan(epochs=8, batch_size=64))
    net = train(method, seen, arch="mlp-3x100", device=device).net

    def model(x: Tensor) -> Tensor:
        out: Tensor = net(grey(x) if blind else x)
        return out

    logits = apply(model, data.test, device)
    return find_cues(data.train, data.test, logits, model=model, images=500, device=device)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_colour_alarms_where_the_network_saw_it_only(seed: int) -> None:
    size = {"train_size": 2000, "test_size": 500}
    data = Planted(cues=("foreground",), base_settings=size).load(seed=seed)
    sighted, blind = (table(data, blind=b) for b in (False, True))
    assert {f.name for f in sighted.alarms} >= COLOURS
    assert blind.alarms == ()
    for finding in blind.findings:
        if finding.name in COLOURS:  # it is there, and nobody goes by it
            assert finding.available is not None
            assert finding.available.effect.value > 0.8
            assert finding.verdict == "no evidence"
