"""Properties of images with known values, and images with another value of one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from truecue.audit.properties import PROPERTIES, changed, luma, measured
from truecue.data.augment import blurred


def flat(*colour: int, side: int = 24) -> Tensor:
    """One image of one colour."""
    return torch.tensor(colour, dtype=torch.uint8).view(1, -1, 1, 1).repeat(1, 1, side, side)


def photos(n: int = 6, side: int = 24, sigma: float = 1.5) -> Tensor:
    """Soft coloured blobs in the middle of the range, so that they can be changed both ways."""
    noise = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    soft = blurred(noise, torch.full((n,), sigma), 5)
    base = torch.tensor([150.0, 120, 100]).view(1, 3, 1, 1)
    return (base + 60 * soft).clamp(0, 255).to(torch.uint8)


def value(name: str, images: Tensor) -> list[float]:
    return measured(name, images)[0].tolist()


def test_brightness_of_one_colour() -> None:
    assert value("brightness", flat(100)) == [100]
    assert value("brightness", flat(255, 0, 0)) == pytest.approx([0.299 * 255])


def test_contrast_of_two_halves() -> None:
    image = flat(50)
    image[..., 12:] = 150
    assert value("contrast", image) == pytest.approx([50])
    assert value("contrast", flat(50)) == [0]


def test_colour_cast_is_0_for_grey_and_signed_for_colours() -> None:
    assert value("colour cast", flat(90, 90, 90)) == pytest.approx([0, 0, 0], abs=1e-4)
    red, green, blue = value("colour cast", flat(200, 50, 50))
    assert red > 0 > green
    assert green == pytest.approx(blue)


@pytest.mark.parametrize(
    ("colour", "degrees"), [((200, 0, 0), 0), ((0, 200, 0), 120), ((0, 0, 200), 240)]
)
def test_hue_is_an_angle(colour: tuple[int, int, int], degrees: float) -> None:
    a, b = value("hue", flat(*colour))
    assert math.degrees(math.atan2(b, a)) % 360 == pytest.approx(degrees, abs=0.01)
    assert math.hypot(a, b) == pytest.approx(1)
    assert value("hue", flat(80, 80, 80)) == [0, 0]


def test_hue_goes_by_the_coloured_part_not_by_its_size() -> None:
    image = flat(0, 0, 0)
    image[:, 1, :4, :4] = 200
    assert value("hue", image) == pytest.approx(value("hue", flat(0, 200, 0)), abs=1e-5)


def test_saturation_grows_with_colour() -> None:
    grey, pale, strong = (value("saturation", flat(*c))[0]
                          for c in ((99, 99, 99), (120, 99, 99), (199, 99, 99)))  # fmt: skip
    assert grey == 0
    assert strong == pytest.approx(100)
    assert pale == pytest.approx(21)


def test_sharpness_falls_with_blur_and_not_with_the_number_of_edges() -> None:
    edge = torch.zeros(1, 1, 32, 32)
    edge[..., 16:] = 200
    edges = torch.zeros(1, 1, 32, 32)
    edges[..., 8:16] = edges[..., 24:] = 200
    soft = [blurred(edge, torch.tensor([s]), 9).to(torch.uint8) for s in (0.8, 2.0)]
    levels = [value("sharpness", e.to(torch.uint8))[0] for e in (edge, *soft)]
    assert levels[0] > levels[1] + 0.5 > levels[2] + 1
    # three edges instead of one: three times the energy, the same sharpness
    assert value("sharpness", edges.to(torch.uint8))[0] == pytest.approx(levels[0], abs=0.05)


@pytest.mark.parametrize("sigma", [5, 20])
def test_noise_is_estimated(sigma: float) -> None:
    grain = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    ramp = torch.arange(64).float() + 90
    noisy = (ramp + sigma * grain).round().clamp(0, 255).to(torch.uint8)
    assert value("noise", noisy)[0] == pytest.approx(sigma, rel=0.15)
    assert value("noise", ramp.expand(1, 1, 64, 64).to(torch.uint8))[0] < 0.5


def test_extent_of_a_box() -> None:
    image = flat(10, side=40)
    image[..., 10:30, 15:25] = 200
    assert value("extent", image) == pytest.approx([0.5])
    assert value("extent", flat(10)) == [0]


@pytest.mark.parametrize("name", PROPERTIES)
def test_given_its_own_value_an_image_hardly_changes(name: str) -> None:
    images = photos()
    again = changed(name, images, measured(name, images))
    assert float((again.float() - images.float()).abs().max()) <= 2


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("brightness", [[60.0], [200.0]]),
        ("contrast", [[8.0], [25.0]]),
        ("colour cast", [[-20.0, 5, 10], [30.0, -10, -15]]),
        ("hue", [[0.5, 0.8], [-0.9, 0.1]]),
        ("saturation", [[10.0], [70.0]]),
        ("sharpness", [[1.0], [0.0]]),
        ("noise", [[6.0], [12.0]]),
    ],
)
def test_another_value_is_reached(name: str, wanted: list[list[float]]) -> None:
    images = photos(sigma=0.5 if name == "sharpness" else 1.5)
    for target in wanted:
        goal = torch.tensor(target).expand(len(images), -1)
        found = measured(name, changed(name, images, goal))
        if name == "hue":  # the angle is given, the length follows from the image
            found, goal = (torch.atan2(v[:, 1], v[:, 0]).unsqueeze(1) for v in (found, goal))
        before = (measured(name, images)[:, : goal.shape[1]] - goal).abs().mean()
        after = (found - goal).abs().mean()
        assert float(after) < 0.2 * max(1.0, float(goal.abs().max())), (name, float(before))


def test_extent_is_reached_by_zooming() -> None:
    image = flat(10, side=40)
    image[..., 10:30, 10:30] = 200
    small = changed("extent", image, torch.tensor([[0.25]]))
    assert value("extent", small) == pytest.approx([0.25], abs=0.06)
    assert int(small[0, 0, 0, 0]) == 10


def test_a_change_of_colour_leaves_the_brightness() -> None:
    images = photos()
    for name, goal in (("hue", [0.0, 1.0]), ("saturation", [20.0])):
        again = changed(name, images, torch.tensor([goal]).expand(len(images), -1))
        assert float((luma(again.float()) - luma(images.float())).abs().mean()) < 1


def test_images_are_not_sharpened() -> None:
    images = photos(sigma=0.5)
    assert torch.equal(changed("sharpness", images, torch.full((len(images), 1), 9.0)), images)


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    images, goal = photos(), torch.full((6, 1), 70.0)
    whole = measured("contrast", images), changed("brightness", images, goal)
    monkeypatch.setattr("truecue.audit.properties._BLOCK", 2 * images[0].numel())
    assert torch.equal(measured("contrast", images), whole[0])
    assert torch.equal(changed("brightness", images, goal), whole[1])
