"""Steps of traversals, and images that break on the way."""

from __future__ import annotations

import pytest
import torch
from direction_parts import broken_far_out

from truecue.directions.find import find_directions
from truecue.directions.traverse import effects, render, symmetric, traverse
from truecue.errors import ConfigError, DataError


@pytest.mark.parametrize("reach", [0.1, 3.0, 6.572670690061994])
@pytest.mark.parametrize("n", [3, 7, 11])
def test_steps_go_as_far_back_as_forward_through_the_start(reach: float, n: int) -> None:
    steps = symmetric(reach, n)
    assert len(steps) == n
    assert steps[n // 2] == 0.0
    assert steps[-1] == reach
    assert steps == [-s for s in reversed(steps)]
    assert steps == sorted(steps)


@pytest.mark.parametrize(("reach", "n"), [(0.0, 7), (1.0, 4), (1.0, 1)])
def test_steps_without_a_middle_are_refused(reach: float, n: int) -> None:
    with pytest.raises(ConfigError, match="odd number"):
        symmetric(reach, n)


def test_a_step_is_blamed_only_where_it_is_to_blame() -> None:
    generator, axes, near = broken_far_out(), torch.eye(2), torch.zeros(3, 2)
    far = torch.tensor([[0.0, 0], [9, 0]])
    assert render(generator, near, 0 * near).isfinite().all()
    moved = "drawn with seed 5 that are moved; make the steps smaller .* length 3\\)"
    with pytest.raises(DataError, match=moved):
        effects(generator, axes, near, 3.0, 5)
    with pytest.raises(DataError, match=moved):
        traverse(generator, axes, near, [-1.0, 0.0, 3.0], 5)
    with pytest.raises(DataError, match="for codes drawn with seed 5; mend the generator"):
        effects(generator, axes, far, 0.1, 5)
    with pytest.raises(DataError, match="images are not finite; mend the generator"):
        render(generator, far, 0 * far)


def test_jacobians_of_images_that_are_not_finite_are_refused() -> None:
    # a hole in the pictures leaves no trace in their slopes
    with pytest.raises(DataError, match="for codes drawn with seed 1; mend"):
        find_directions("jacobian", broken_far_out(1.0), 1, seed=1)
