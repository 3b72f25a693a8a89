"""Classifiers along directions: slopes in closed form, random directions, and planted cues."""

from __future__ import annotations

import pytest
import torch
from direction_parts import Tensors, conv, made_by, wrapped

from truecue.directions.directions import Directions
from truecue.directions.find import random_directions
from truecue.directions.probe import (
    chance,
    follow,
    margins,
    probe_classifier,
    reached,
    table,
)
from truecue.directions.view import ClassifierView
from truecue.errors import ConfigError, DataError
from truecue.nets.build import build
from truecue.nets.procedural import FACTORS, ShapesGenerator


def test_slopes_and_flips_of_a_known_classifier() -> None:
    """Images (0.5 e, 0.1); rows of the classifier (1, -1) and (0, 2)."""
    steps = [-2.0, -1, 0, 1, 2]
    seen = torch.tensor([[0.5 * e, 0.1] for e in steps], dtype=torch.float64)
    logits = seen @ torch.tensor([[1.0, -1], [0, 2]], dtype=torch.float64).T
    assert logits[:, 0].tolist() == pytest.approx([-1.1, -0.6, -0.1, 0.4, 0.9])
    assert logits.argmax(1).tolist() == [1, 1, 1, 0, 0]
    slope, se, margin, _, monotone, flips = follow(logits.expand(3, -1, -1), steps)
    assert slope.tolist() == pytest.approx([0.5, 0])
    assert margin.tolist() == pytest.approx([0.5, -0.5])
    assert se.tolist() == pytest.approx([0, 0])
    assert monotone.tolist() == pytest.approx([1, 0])
    assert float(flips) == 1


def test_standard_errors_and_ranks_against_a_slow_loop() -> None:
    from scipy.stats import spearmanr

    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, 3, generator=rng, dtype=torch.float64).mul(2).round()  # with ties
    steps = [-2.0, -1, 0, 1, 2]
    slope, se, _, margin_se, monotone, flips = follow(logits, steps)
    each = torch.tensor(
        [[sum(e * float(v) for e, v in zip(steps, row[:, c], strict=True)) / 10 for c in range(3)]
         for row in logits]
    )  # fmt: skip
    assert slope.tolist() == pytest.approx(each.mean(0).tolist(), abs=1e-6)
    assert se.tolist() == pytest.approx((each.std(0) / 6**0.5).tolist(), abs=1e-6)
    assert (margin_se > 0).all()
    known = [[spearmanr(row[:, c], steps).statistic for row in logits] for c in range(3)]
    wanted = torch.tensor(known, dtype=torch.float64).nan_to_num().mean(1)
    assert monotone.tolist() == pytest.approx(wanted.tolist())
    assert float(flips) == sum(int(r[0].argmax() != r[-1].argmax()) for r in logits) / 6


def test_margin_is_to_the_best_other_class() -> None:
    found = margins(torch.tensor([[3.0, 1, 2], [0, 0, -1]]))
    assert found.tolist() == [[1, -2, -1], [0, 0, -1]]


def test_slope_of_linear_generator_and_classifier() -> None:
    """For G(z) = A z and logits V x, the slope of class c is v_c A d."""
    a = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    v = torch.tensor([[0.5, -1, 2], [1, 1, 1], [0, -3, 1]])
    generator = made_by(lambda z: (z @ a.T).view(-1, 3, 1, 1), 2, (-40, 40))
    directions = Directions(torch.tensor([[1.0, 0], [0, 3.0], [-1, 2.0]]), "by hand")

    def see(images):  # bytes back to numbers: a grey level is 80 / 255
        return (images.float() / 255 * 80 - 40).flatten(1) @ v.T

    found = probe_classifier(generator, directions, see, reach=4, n=200, null=100)
    units = torch.nn.functional.normalize(directions.matrix, dim=1)
    wanted = units @ a.T @ v.T
    assert wanted[0].tolist() == [2.5, 2, 1]
    assert found.moves.slope.flatten().tolist() == pytest.approx(wanted.flatten().tolist(),
                                                                 abs=0.05)  # fmt: skip
    # change of the image: root mean square of A d over three pixels, over 8 steps, in [0, 1]
    change = 8 * (units @ a.T).square().mean(1).sqrt() / 80
    assert found.moves.change.tolist() == pytest.approx(change.tolist(), rel=1e-4)
    ratio = 8 * found.moves.margin / found.moves.change[:, None]
    assert torch.allclose(found.per_change, ratio)
    # logits go straight, so that their way is the distance of both ends, less the mean of classes
    apart = 8 * (wanted - wanted.mean(1, keepdim=True)).norm(dim=1)
    assert found.moves.travel.tolist() == pytest.approx((apart / change).tolist(), rel=0.02)


def test_a_cue_that_turns_around_is_flagged() -> None:
    """One number for each pixel; the classifier asks how grey the first is, neither dark nor light.

    From the middle, logits fall both ways alike: there is no slope.
    """
    generator = made_by(lambda z: z.view(-1, 1, 1, 8), 8, (-12, 12))

    def see(images):
        first = (images.float() / 255 * 24 - 12)[:, 0, 0, 0]
        return torch.stack([first.square(), torch.zeros_like(first)], 1)

    axes = Directions(torch.eye(8)[:2], "axes")
    found = probe_classifier(generator, axes, see, n=64, columns=9, null=200)
    assert found.flagged.tolist() == [True, False]
    assert found.moves.travel[0] > 5
    assert found.moves.travel[1] == 0
    assert found.moves.slope[0, 0].abs() < 2 * found.moves.slope_se[0, 0]


def test_share_of_random_values_that_are_reached_by_hand() -> None:
    p = reached(torch.tensor([0.0, 2, 2.5, 9, torch.nan]), torch.tensor([4.0, 2, 1, 3]))
    assert p[:4].tolist() == pytest.approx([1, 4 / 5, 3 / 5, 1 / 5])
    assert p[4].isnan()


def test_p_values_of_random_directions_are_uniform() -> None:
    generator, rng = conv(), torch.Generator().manual_seed(1)
    v = torch.randn(3, 192, generator=rng)

    def see(images):
        return (images.float() / 127.5 - 1).flatten(1) @ v.T

    drawn = torch.randn(150, 6, generator=rng)
    found = probe_classifier(generator, Directions(drawn, "chance"), see, n=8, columns=3, null=300)
    assert not found.p.isnan().any()
    for level in (0.05, 0.1, 0.3, 0.5, 0.8):
        for p in (found.p, found.class_p):  # of 450, those of a direction depend on one another
            share = float((p <= level).double().mean())
            assert share == pytest.approx(level, abs=0.09)
    assert float(found.p.min()) >= 1 / 301
    assert found.flagged.sum() <= 1
    assert float(found.one_way.double().mean()) < 0.02


def test_p_values_by_hand() -> None:
    null = torch.tensor([[1.0, 10], [-2, 20], [3, -30], [-4, 40]])
    found = torch.tensor([[2.5, 0], [-5, 40], [torch.nan, torch.nan]])
    # both classes have the same four sizes once scaled: 2.5 is reached by 4 of 8, 40 by 2
    p = chance(found, null)
    assert p[0].tolist() == pytest.approx([5 / 9, 1])
    assert p[1].tolist() == pytest.approx([1 / 9, 3 / 9])
    assert p[2].isnan().all()
    still = chance(torch.zeros(1, 2), torch.zeros(4, 2))
    assert still.tolist() == [[1, 1]]


def _vivid(images):
    """How coloured each pixel is, in [0, 1]; the background is grey."""
    x = images.float() / 255
    return x.amax(1) - x.amin(1)


def by_hue(images):
    """By how green the shape is, which rises with hue in the middle of its range."""
    x, weight = images.float() / 255, _vivid(images)
    green = x[:, 1] - (x[:, 0] + x[:, 2]) / 2
    score = (green * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    return torch.stack([score, -score], 1)


def by_form(images):
    """By how much of the image the shape covers, whatever its colour."""
    score = 20 * ((_vivid(images) - 0.3) * 20).sigmoid().flatten(1).mean(1)
    return torch.stack([score, 4 - score], 1)


@pytest.mark.slow
def test_a_cue_is_flagged_where_the_classifier_goes_by_it() -> None:
    generator = ShapesGenerator()
    directions = Directions(generator.axes, "known", FACTORS)
    flagged = {}
    for see in (by_hue, by_form):
        found = probe_classifier(generator, directions, see, reach=1, n=24, columns=5, null=150)
        rows = found.flagged.tolist()
        flagged[see.__name__] = {n for n, f in zip(FACTORS, rows, strict=True) if f}
        if see is by_hue:
            hue = table(found, FACTORS, ["a", "b"])[FACTORS.index("hue")]
            assert hue["flips"] > 0.3
            assert hue["classes"][0]["one_way"]
    assert "hue" in flagged["by_hue"]
    assert not flagged["by_hue"] & {"x", "y", "rotation", "scale"}
    assert "scale" in flagged["by_form"]
    assert "hue" not in flagged["by_form"]


def test_invisible_directions_have_no_p_value() -> None:
    generator = made_by(lambda z: z[:, :2, None, None].sigmoid().expand(-1, -1, 4, 4).mean(
        1, keepdim=True), 3)  # fmt: skip
    found = probe_classifier(generator, Directions(torch.eye(3), "axes"),
                  lambda x: x.float().flatten(1)[:, :2] * torch.tensor([1.0, -1]), n=4, columns=3,
                  null=100)  # fmt: skip
    assert found.moves.visible.tolist() == [True, True, False]
    assert found.p.isnan().tolist() == [False, False, True]
    assert found.class_p[2].isnan().all()
    assert not found.flagged[2]


def test_a_generator_that_never_changes_is_refused() -> None:
    still = made_by(lambda z: torch.full((len(z), 1, 4, 4), 0.5), 2)
    with pytest.raises(DataError, match="only 0 of 100 random directions"):
        probe_classifier(
            still, Directions(torch.eye(2), "axes"), by_first, n=2, columns=3, null=100
        )


def by_first(images):
    x = images.float().flatten(1).mean(1)
    return torch.stack([x, -x], 1)


def test_bad_input() -> None:
    generator, axes = made_by(lambda z: z[:, :1, None, None].sigmoid(), 2), torch.eye(2)
    directions = Directions(axes, "axes")
    with pytest.raises(ConfigError, match="100 random directions; got 4 and 99"):
        probe_classifier(generator, directions, by_first, n=4, null=99)
    with pytest.raises(ConfigError, match="at least 2 codes"):
        probe_classifier(generator, directions, by_first, n=1)
    with pytest.raises(ConfigError, match="odd number"):
        probe_classifier(generator, directions, by_first, columns=4)
    with pytest.raises(DataError, match="3 numbers in z"):
        probe_classifier(generator, Directions(torch.eye(3), "axes"), by_first)
    with pytest.raises(DataError, match="at least two classes"):
        probe_classifier(generator, directions, lambda x: by_first(x)[:, :1], n=2, columns=3)
    with pytest.raises(DataError, match="logits that are not finite"):
        probe_classifier(generator, directions, lambda x: by_first(x) * torch.nan, n=2, columns=3)


def test_the_same_seed_gives_the_same_numbers() -> None:
    generator, directions = conv(), random_directions(conv(), 2, seed=3)
    first, again, other = (
        probe_classifier(generator, directions, by_first, n=4, columns=3, null=100, seed=s)
        for s in (0, 0, 1)
    )
    assert torch.equal(first.p, again.p)
    assert torch.equal(first.class_p, again.class_p)
    assert torch.equal(first.null.travel, again.null.travel)
    assert not torch.equal(first.null.travel, other.null.travel)


def test_images_are_brought_to_the_classifier() -> None:
    torch.manual_seed(0)
    net = small(3)
    grey = torch.randint(0, 256, (2, 1, 16, 16)).to(torch.uint8)
    view = ClassifierView(net, (1, 16, 16))
    seen = view.adapt(grey)
    assert seen.shape == (2, 3, 28, 28)
    assert seen.dtype == torch.uint8
    assert torch.equal(seen[:, 0], seen[:, 2])
    assert view(grey).shape == (2, 4)
    assert len(view.said) == 3
    assert "resized to the classifier's 28" in view.said[2]
    colour = torch.tensor([10, 20, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 28, 28)
    averaged = ClassifierView(small(1), (3, 28, 28))
    assert averaged.adapt(colour).unique().tolist() == [30]
    same = ClassifierView(net, (3, 28, 28))
    assert same.adapt(colour) is colour
    assert len(same.said) == 1
    with pytest.raises(DataError, match="4 channels and the classifier takes 3"):
        ClassifierView(net, (4, 28, 28))
    with pytest.raises(DataError, match="16 x 20 pixels"):
        ClassifierView(net, (3, 16, 20))


def small(channels: int):
    return build("mlp-2", channels=channels, size=28, n_classes=4).eval()


def test_directions_of_any_length_count_as_unit_ones() -> None:
    generator = wrapped(Tensors(lambda z: z[:, :, None, None].sigmoid().mean(1, keepdim=True)), 2)
    directions = Directions(torch.tensor([[1.0, 0], [9, 0]]), "axes")
    found = probe_classifier(generator, directions, by_first, n=3, columns=3, null=100)
    assert torch.allclose(found.moves.slope[0], found.moves.slope[1])
