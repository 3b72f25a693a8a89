"""SRE turns random directions towards what really varies, on a generator that knows its factors."""

from __future__ import annotations

import pytest

from truecue.directions.directions import Directions
from truecue.directions.find import random_directions
from truecue.directions.sre import SRE, refine
from truecue.engine.device import Device
from truecue.nets.procedural import ShapesGenerator


def nearness(directions: Directions, generator: ShapesGenerator) -> float:
    """The largest |cosine| with the axis of a factor, averaged over directions."""
    return float((directions.matrix @ generator.axes.T).abs().amax(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_directions_turn_towards_the_factors(seed: int) -> None:
    generator = ShapesGenerator()
    start = random_directions(generator, 7, seed=seed)
    settings = SRE(scorer="small", steps=1200, lr_directions=1e-3, lr_scorer=1e-3)
    found = refine(generator, start, settings, device=Device("cpu"), seed=seed)
    assert nearness(found.directions, generator) > nearness(start, generator) + 0.05
    assert float(found.measured.accuracy.mean()) > 0.7
