"""Cues held against real images: turned scores, gaps, drift, and how far pictures are."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from direction_parts import cpu, made_by
from test_probe import by_first

from truecue.data.sets import ImageSet
from truecue.directions.confirm import Confirmed, confirm, drift, nearest, to_dict
from truecue.directions.directions import Directions
from truecue.directions.probe import Probe, probe_classifier
from truecue.directions.view import ClassifierView
from truecue.errors import DataError
from truecue.nets.build import build


def found(margin: list[list[float]], q: list[float]) -> Probe:
    """Just enough of what a probe finds."""
    moves = any_probe().moves._replace(margin=torch.tensor(margin, dtype=torch.float64))
    return any_probe()._replace(moves=moves, q=torch.tensor(q, dtype=torch.float64))


@cache
def any_probe() -> Probe:
    generator = made_by(lambda z: z.sum(1).sigmoid()[:, None, None, None])
    return probe_classifier(
        generator, Directions(torch.eye(2), ""), by_first, n=2, columns=3, null=100
    )


def world(biased: bool, n: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, classes and right answers; a biased classifier needs the cue of direction 0.

    Class 0 has the cue where the score is high, class 1 where it is low.
    """
    rng = torch.Generator().manual_seed(0)
    scores, y = torch.randn(n, 2, generator=rng), torch.arange(n) % 2
    cue = torch.where(y == 0, scores[:, 0], -scores[:, 0])
    noise = torch.randn(n, generator=rng)
    right = (cue + 0.3 * noise if biased else noise) > -0.3
    return scores, y, right


def ask(biased: bool, q: tuple[float, float] = (0.01, 0.5)) -> Confirmed:
    return confirm(found([[2.0, -1.0], [1, 1]], list(q)), *world(biased))


def test_a_cue_that_matters_is_confirmed() -> None:
    told = ask(biased=True)
    found = [(g.direction, g.label, g.sign, g.flagged) for g in told.gaps]
    assert found == [(0, 0, 1, True), (0, 1, -1, True), (1, 0, 1, False), (1, 1, 1, False)]
    for gap in told.gaps[:2]:
        assert gap.confirmed
        assert gap.gap.gap.value > 0.8
        assert len(gap.low) == len(gap.high) == gap.gap.low.n == 40
        assert not set(gap.low) & set(gap.high)
    assert not any(gap.differs for gap in told.gaps[2:])
    together, other = told.together[0], told.together[1]
    assert together.null[0] < 0 < together.null[1] < together.gap
    assert other.null[0] < other.gap < other.null[1]
    first = to_dict(told, ["hue", "x"], ["a", "b"])[0]
    assert (first["direction"], first["class"], first["confirmed"]) == ("hue", "a", True)


def test_ends_are_those_of_the_turned_score() -> None:
    scores, _, _ = world(biased=True)
    first, second = ask(biased=True).gaps[:2]
    assert scores[first.high, 0].min() > scores[first.low, 0].max()
    assert scores[second.high, 0].max() < scores[second.low, 0].min()


def test_a_class_that_nothing_moves_is_not_ranked_by_the_order_of_files() -> None:
    scores, y, right = world(biased=True)
    whole = confirm(found([[2.0, -1.0], [0, 0]], [0.01, 0.5]), scores, y, right)
    assert [(g.direction, g.label) for g in whole.gaps] == [(0, 0), (0, 1)]
    assert set(whole.together) == {0}
    half = confirm(found([[2.0, 0], [1, 1]], [0.01, 0.5]), scores, y, right)
    assert [(g.direction, g.label) for g in half.gaps] == [(0, 0), (1, 0), (1, 1)]
    assert half.gaps[0].high == whole.gaps[0].high
    assert half.together[0].gap == half.gaps[0].gap.gap.value


def test_a_cue_that_does_not_matter_is_not() -> None:
    told = ask(biased=False)
    assert len(told.gaps) == 4
    assert not any(gap.confirmed for gap in told.gaps)
    low, high = told.together[0].null
    assert low <= told.together[0].gap <= high


def test_a_gap_the_other_way_is_not_a_confirmation() -> None:
    scores, y, right = world(biased=True)
    told = confirm(found([[-2.0, 1.0], [1, 1]], [0.01, 1]), scores, y, right)
    assert all(gap.gap.gap.value < -0.8 and gap.q < 0.01 for gap in told.gaps[:2])
    assert not any(gap.differs for gap in told.gaps)


def test_what_was_not_flagged_is_not_confirmed() -> None:
    told = ask(biased=True, q=(0.3, math.nan))
    assert not any(g.confirmed for g in told.gaps)
    assert [g.differs for g in told.gaps] == [True, True, False, False]


def test_scores_of_other_images_are_refused() -> None:
    scores, y, right = world(biased=True)
    with pytest.raises(DataError, match=r"must be \[400, 2\], and are \[400, 1\]"):
        confirm(found([[1.0, 1], [1, 1]], [0.01] * 2), scores[:, :1], y, right)


def test_drift_of_scores() -> None:
    rng = torch.Generator().manual_seed(0)
    generated = torch.randn(3000, 3, generator=rng)
    real = torch.randn(2000, 3, generator=rng) * torch.tensor([1, 1, 3.0])
    real[:, 1] += 2
    told = drift(real, generated)
    assert told.drifted.tolist() == [False, True, True]
    assert told.shift.tolist() == pytest.approx([0, 2, 0], abs=0.15)
    assert told.ratio.tolist() == pytest.approx([1, 1, 3], abs=0.15)
    for shares in (told.real, told.generated):
        assert shares.sum(1).tolist() == pytest.approx([1, 1, 1])
    counts = torch.histogram(real[:, 1], told.edges[1]).hist / 2000
    assert (counts - told.real[1]).abs().max() < 0.005
    constant = drift(torch.ones(4, 1), torch.ones(4, 1))
    assert constant.real.sum() == 1


def test_distance_to_the_nearest_training_image() -> None:
    """Grey pictures 127.5 (1 + z): training images are 0 to 60 grey, held-out ones 2 grey off."""
    generator = made_by(lambda z: z[:, :1, None, None].expand(-1, 1, 28, 28), 2, (-1, 1))
    grey = torch.arange(0, 70, 10, dtype=torch.uint8)

    def images(values: torch.Tensor) -> ImageSet:
        return ImageSet(values.view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous(),
                        torch.zeros(len(values), dtype=torch.int64), ("a", "b"))  # fmt: skip

    probed = found([[1.0, 1], [1, 1]], [1.0, 1])
    probed = probed._replace(codes=torch.zeros(2, 2), steps=[-0.5, 0.0, 0.5])
    net = build("mlp-2", channels=1, size=28, n_classes=2).eval()
    told = nearest(probed, generator, torch.eye(2), ClassifierView(net, (1, 28, 28)), images(grey),
                   images(grey + 2), cpu())  # fmt: skip
    # steps give 64, 128 and 191 grey, whose nearest is 60; the other direction changes nothing
    assert told[0].tolist() == pytest.approx([4 / 2, 68 / 2, 131 / 2], rel=0.02)
    assert told[1].tolist() == pytest.approx([34, 34, 34], rel=0.02)
