"""Plain training goes by a planted cue, and by nothing where none is to be seen.

Measured on one core, seed 0, 2,000 grey digits, 8 epochs, accuracy on aligned and conflicting test
images: mlp-3 with a patch 0.91 and 0.40, with a background 0.99 and 0.07; conv3 with a patch 0.98
and 0.18.
"""

from __future__ import annotations

from typing import Any

import pytest

from truecue import api
from truecue.data.cues import CUES
from truecue.data.suites.planted import Planted
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.methods.erm import ERM


def plain(arch: str = "mlp-3", seed: int = 0, **settings: Any) -> dict[str, Any]:
    data = Planted(base_settings={"val_share": 0}, **settings).load(seed=seed)
    method = ERM(plan=Plan(epochs=8, batch_size=64))
    report = api.train(method, data, seed=seed, arch=arch, device=Device("cpu")).report
    test = report["models"]["erm"]["test"]
    return {k: test[k] and test[k]["value"] for k in ("aligned", "conflicting", "average")}


@pytest.mark.parametrize("cue", ["patch", "background"])
def test_plain_training_goes_by_the_cue(cue: str) -> None:
    found = plain(cues=(cue,))
    assert found["aligned"] > 0.85
    assert found["conflicting"] < found["aligned"] - 0.3


def test_there_is_no_gap_where_the_cue_cannot_be_seen() -> None:
    hidden = plain(cues=("patch",), visibility=0)
    assert abs(hidden["aligned"] - hidden["conflicting"]) < 0.08
    nothing = plain(cues=())
    assert nothing["aligned"] is None
    assert nothing["average"] > 0.7


def test_a_weaker_correlation_misleads_less() -> None:
    strong, weak = (plain(cues=("patch",), conflicting=c)["conflicting"] for c in (0.01, 0.5))
    assert weak > strong + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("cue", CUES)
def test_every_cue_misleads_a_convolutional_network(cue: str) -> None:
    found = plain(arch="conv3", cues=(cue,))
    assert found["conflicting"] < found["aligned"] - 0.3
