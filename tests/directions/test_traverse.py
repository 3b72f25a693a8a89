"""Steps of traversals."""

from __future__ import annotations

import pytest

from truecue.directions.traverse import symmetric
from truecue.errors import ConfigError


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
