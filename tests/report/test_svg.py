"""Figures come out the same however many are drawn at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from truecue.report.svg import svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@pytest.fixture
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def figure(number: int) -> bytes:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1, 2], [0, number, 1])
        axes.set_title(r"a class named $\frac{a$")  # which is text, and no mathematics
        axes.set(xlabel=f"figure {number}", ylabel="points")

    return svg_file(2.5, 2, draw)


@pytest.mark.usefixtures("_threads_take_turns_often")
def test_figures_drawn_at_once_are_those_drawn_in_turn() -> None:
    numbers = [i % 4 for i in range(16)]
    alone = [figure(number) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(figure, numbers))
    assert all(made == alone[number] for number, made in zip(numbers, together, strict=True))
