"""Pictures that a classifier judges: what counts as moved, how far a move goes, the control."""

from __future__ import annotations

import json

import pytest
import torch
from hand_made import Painter, painted_splits
from torch import Tensor, nn

from truecue.audit.bias import bias_pictures
from truecue.audit.halves import far_enough, look
from truecue.audit.separation import Effect
from truecue.audit.shown import BiasPictures
from truecue.engine.device import Device

CPU = Device("cpu")


class ByColour(nn.Module):
    """A classifier that goes by the strongest channel.

    Args:
        lead: how much stronger than the others a channel must be for its class to be said; where
            none is, class 0.
    """

    def __init__(self, lead: float = 0.0):
        super().__init__()
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        strength = (x.float() / 255).amax((2, 3))
        top = strength.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1] >= self.lead)[:, None]
        return torch.where(clear, strength, torch.eye(3)[0])


class ByBand(nn.Module):
    """A classifier that goes by which band of rows is bright."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().amax(1).unflatten(1, (3, 4)).mean((2, 3))


def judged(model: nn.Module, **more: object) -> BiasPictures:
    return bias_pictures(Painter(), painted_splits(), model=model, device=CPU, **more)  # type: ignore[arg-type]


def test_a_model_that_goes_by_the_bias_is_moved_by_it_and_by_nothing_else() -> None:
    shown = judged(ByColour())
    assert shown.pushed is not None
    assert shown.judge == "model"
    for found in (shown.pushed.separation, shown.pushed.far, shown.swapped):
        assert isinstance(found, Effect)
        shares = (found.flips, found.to_target, found.half_flips, found.half_to_target)
        assert [s.value for s in shares] == [1, 1, 1, 1]
    assert shown.control is not None
    assert shown.control.flips.value == 0
    assert shown.control.change > 0.02
    assert shown.faithful is not None
    assert shown.faithful.value == 1
    assert shown.pushed.times is not None
    assert (shown.pushed.times == 1).all()


def test_a_model_that_goes_by_something_else_is_not_moved() -> None:
    shown = judged(ByBand())
    assert shown.pushed is not None
    for found in (shown.pushed.separation, shown.pushed.far, shown.swapped):
        assert isinstance(found, Effect)
        assert found.flips.value == found.to_target.value == 0
        assert found.half_to_target.value == 1, "the half goes by the colour all the same"
    assert shown.control is not None
    # those that give their latents have the colour aimed at, and most of them its class
    assert shown.control.to_target.value > 0.85
    assert not shown.pushed.reached.any()
    assert shown.grids["push"].failed[2:].all()
    assert shown.grids["strip"].failed[:, 2:].sum() == 3 * 3 - 3, "its own class it says anyway"
    assert shown.class_maps is not None
    assert len(shown.class_maps.values) == 0


def test_figures_are_of_those_whose_latent_arrived() -> None:
    vae, model = Painter(unreachable=2), ByColour()
    found = bias_pictures(vae, painted_splits(), model=model, device=CPU).pushed
    assert found is not None
    there = int((found.target != 2).sum())
    assert 0 < there < len(found.ids)
    for measured in (found.separation, found.far):
        assert isinstance(measured, Effect)
        assert measured.n == there
        shares = (measured.flips, measured.to_target, measured.half_flips, measured.half_to_target)
        assert [s.value for s in shares] == [1, 1, 1, 1]


class Dim(Painter):
    """A `Painter` that draws everything darker."""

    def image(self, z_s: Tensor, z_b: Tensor) -> Tensor:
        return 0.8 * super().image(z_s, z_b)


class ByBrightColour(ByColour):
    """A classifier that goes by the strongest channel, and says class 0 where all are weak."""

    def forward(self, x: Tensor) -> Tensor:
        bright = (x.amax((1, 2, 3)) >= 0.7 * 255)[:, None]
        return torch.where(bright, super().forward(x), torch.eye(3)[0])


def test_faithful_is_what_the_model_says_of_reconstructions() -> None:
    shown = bias_pictures(Dim(), painted_splits(), model=ByBrightColour(), device=CPU)  # type: ignore[arg-type]
    assert shown.pushed is not None
    assert shown.faithful is not None
    # the half says the same of all of them, the model only where it says class 0 anyway
    wanted = float((shown.pushed.y == 0).double().mean())
    assert 0.2 < wanted < 0.5
    assert shown.faithful.value == pytest.approx(wanted)


def test_a_move_goes_on_until_the_model_follows() -> None:
    vae, model = Painter(), ByColour(lead=0.3)
    val = painted_splits().val
    assert val is not None
    ids = torch.arange(9)
    part, target = val.select(ids), (val.y[ids] + 1) % 3
    own = look(vae, part, CPU)
    move = torch.zeros(9, 3)
    move[torch.arange(9), target] = 0.2
    times = far_enough(vae, own.z_s, own.z_b, move, target, model, CPU, 8.0)
    rungs = [8 ** (k / 8) for k in range(9)]
    for i in range(9):  # one by one
        wanted = float("inf")
        for rung in rungs:
            z = own.z_b[i] + rung * move[i]
            image = (vae.image(own.z_s[i : i + 1], z[None]) * 255).round().to(torch.uint8)
            if int(model(image).argmax(1)) == int(target[i]):
                wanted = rung
                break
        assert float(times[i]) == pytest.approx(wanted, rel=1e-6)
    assert bool(times.isinf().any()) or bool((times > 1).any())


def test_the_longest_move_is_where_those_end_that_never_arrive() -> None:
    near, far = (judged(ByColour(lead=0.5), factor=f).pushed for f in (1.2, 8.0))
    assert near is not None
    assert far is not None
    assert int(near.reached.sum()) < int(far.reached.sum())
    assert near.times is not None
    assert near.times[near.reached].max() <= 1.2 + 1e-6
    assert near.factor == 1.2


def test_those_that_the_model_followed_are_shown_first() -> None:
    shown = judged(ByColour(lead=0.5), factor=1.2)
    found, grid = shown.pushed, shown.grids["push"]
    assert found is not None
    there = found.reached.nonzero().squeeze(1)
    assert 0 < len(there) < len(found.ids), "some that it followed, and some that it did not"
    n = min(5, len(there))
    names = shown.classes
    wanted = [f"{names[found.y[i]]} → bias of {names[found.target[i]]}" for i in there[:n]]
    assert list(grid.columns[:n]) == wanted
    assert grid.failed[3].tolist() == [False] * n + [True] * (5 - n)
    assert not grid.another.any(), "here a frame says it"
    assert found.passed_over == int(there[n - 1]) + 1 - n - (5 - n if n < 5 else 0)
    assert shown.heat is not None
    pixels = grid.images.float() / 255
    expected = (pixels[3] - pixels[1]).abs().mean(1)
    torch.testing.assert_close(shown.heat.values, expected, atol=4e-3, rtol=0)


def test_numbers_have_the_shape_of_a_runs_and_say_who_judged() -> None:
    numbers = judged(ByColour()).to_dict()
    plain = bias_pictures(Painter(), painted_splits(), device=CPU).to_dict()
    assert numbers.keys() == plain.keys()
    assert plain["judge"] == "signal"
    assert plain["control"] is None
    assert numbers["push"].keys() >= plain["push"].keys()
    assert numbers["push"]["stays"] is None
    assert numbers["push"]["images"][0].keys() >= plain["push"]["images"][0].keys()
    assert numbers["push"]["reached"] == sum(r["reached"] for r in numbers["push"]["images"])
    json.dumps(numbers, allow_nan=False)
    never = judged(ByBand()).to_dict()["push"]
    assert never["reached"] == 0
    assert {row["times"] for row in never["images"]} == {None}
    assert all(row["half_reached"] for row in never["images"])


def test_captions_name_the_model() -> None:
    grid = judged(ByBand()).grids["push"]
    assert grid.rows == (
        "original", "reconstruction", "smallest change", "until the model says it",
    )  # fmt: skip
    names = painted_splits().train.classes
    for k, title in enumerate(grid.columns):
        own, other = title.split(" → bias of ")
        assert own in names
        assert grid.captions[2][k] == f"biased {other} · model {own}"


def test_a_model_right_about_nothing_is_a_message() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ByBand()(x).roll(1, 1)

    shown = judged(Never())
    assert shown.pushed is None
    assert "the model and the half that follows it get right" in shown.notes[0]
    assert shown.to_dict()["control"] is None
