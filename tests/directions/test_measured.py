"""Directions by what a function measures: a value by hand, what it needs, what is refused."""

from __future__ import annotations

import pytest
import torch
from direction_parts import broken_far_out, made_by

from truecue.directions.directions import Directions
from truecue.directions.find import random_directions
from truecue.directions.measured import measured_directions, values_of
from truecue.errors import ConfigError, DataError
from truecue.nets.procedural import FACTORS, ShapesGenerator

A = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]])  # 6 pixels


def generator():
    """A first pixel that is the first number; four that are the sum of two; one of the third."""
    return made_by(lambda z: (z @ A.T).view(-1, 1, 1, 6), 3, (-10, 10))


def test_directions_of_a_given_generator() -> None:
    """Values 3 z0 + 4 z1, z2, and its square, which no line explains."""

    def values(images):
        x = images[:, 0, 0].float()
        return {"both": 4 * x[:, 1] - x[:, 0], "last": x[:, 5], "curved": (x[:, 5] - 127.5) ** 2}

    found = measured_directions(generator(), values)
    assert found.names == ("both", "last", "curved")
    wanted = torch.tensor([[0.6, 0.8, 0], [0, 0, 1]])
    assert torch.allclose(found.matrix[:2], wanted, atol=0.01)
    assert found.strengths[:2] == pytest.approx([1, 1], abs=1e-3)
    assert found.strengths[2] < 0.02
    again = measured_directions(generator(), lambda x: {"both": -values(x)["both"]}, n=500)
    assert torch.allclose(again.matrix, -wanted[:1], atol=0.01)


def test_it_finds_the_axis_of_a_factor() -> None:
    """How bright the background is, which is one factor of seven, mixed into ten numbers."""
    shapes = ShapesGenerator(size=16)

    def corner(images):
        return {"background": images[:, :, 0, 0].float().mean(1)}

    axis = Directions(shapes.axes, "known", FACTORS).matrix[FACTORS.index("background")]
    found = measured_directions(shapes, corner, n=500).matrix[0]
    assert torch.dot(found, axis).abs() > 0.95
    other = random_directions(shapes, 1).matrix[0]
    assert torch.dot(other, axis).abs() < 0.8


def test_what_is_refused() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    for wrong, said in (
        (lambda x: x.float(), "values by name"),
        (lambda x: {}, "values by name"),
        (lambda x: {"a": x.float()}, r"'a' must be one number for each of 4 images; got \[4, 1, 2"),
        (lambda x: {"a": 3}, "got int"),
        (lambda x: {"a": x.float().mean((1, 2, 3)) / 0}, "'a' is not finite"),
    ):
        with pytest.raises(DataError, match=said):
            values_of(wrong, images)
    with pytest.raises(ConfigError, match="from 3 numbers needs more images than 4"):
        measured_directions(generator(), lambda x: {"still": torch.ones(len(x))}, n=4)
    with pytest.raises(DataError, match="'still' is the same for all"):
        measured_directions(generator(), lambda x: {"still": torch.ones(len(x))}, n=50)


def test_images_that_are_not_finite_are_not_measured() -> None:
    with pytest.raises(DataError, match="not finite for codes drawn with seed 3; mend"):
        measured_directions(
            broken_far_out(), lambda x: {"ink": x.float().mean((1, 2, 3))}, n=500, seed=3
        )
