"""Pictures of what a classifier goes by, on coloured digits; margins leave room for rounding.

Measured on one core: PLACEHOLDER
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

import truecue
from truecue.audit.bias import bias_pictures
from truecue.data.suites.digits import Digits
from truecue.engine.device import Device
from truecue.engine.plan import Adam, Plan

CPU = Device("cpu")
SIZE, EPOCHS = 1000, 40


class Moved(NamedTuple):
    """Shares of pictures in which a classifier changes its answer."""

    swap: float
    control: float
    reached: float


@pytest.mark.slow
def test_pictures_of_a_colour_move_the_model_that_goes_by_it_and_no_other() -> None:
    data = Digits(train_size=SIZE).load(seed=0)
    grey = Digits(train_size=SIZE, coloured=False).load(seed=0)
    plain = truecue.ERM(plan=Plan(epochs=40, batch_size=64, optimizer=Adam(lr=1e-3)))
    by_colour, by_shape = (truecue.train(plain, images, device=CPU).net for images in (data, grey))
    settings = truecue.BiasHalf().override({"plan.epochs": EPOCHS})
    shown = truecue.show_bias(by_colour, data, settings=settings, device=CPU)

    def moved(pictures: truecue.BiasPictures) -> Moved:
        assert pictures.pushed is not None
        assert pictures.swapped is not None
        assert pictures.control is not None
        reached = pictures.pushed.reached.float().mean()
        shares = pictures.swapped.flips.value, pictures.control.flips.value, float(reached)
        return Moved(*shares)

    own = moved(shown.pictures)
    # the same pictures, judged by the model that goes by shape
    other = moved(bias_pictures(shown.vae, data, model=by_shape, device=CPU))
    print(own, other)
    assert own.swap > 0.85
    assert own.control < 0.25
    assert own.reached > 0.6
    assert other.swap < own.swap - 0.4
    assert other.control > other.swap, "its shapes are in the other latent"
