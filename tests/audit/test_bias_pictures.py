"""Pictures and numbers of a learned bias, on networks whose latents are known by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hand_made import BlueBlind, Halves, Painter, grey, painted, painted_splits

from truecue.audit import show
from truecue.audit.bias import bias_pictures
from truecue.audit.halves import as_bytes, both_right, look
from truecue.audit.shown import BiasPictures
from truecue.data.sets import Attribute, ImageSet
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError

CPU = Device("cpu")


@pytest.fixture(scope="module")
def shown() -> BiasPictures:
    return bias_pictures(Painter(), painted_splits(), device=CPU)


# How well the latents are separated.


def test_a_separated_pair_flips_one_half_and_leaves_the_other(shown: BiasPictures) -> None:
    assert shown.pushed is not None
    assert shown.swapped is not None
    n = len(shown.pushed.ids)
    assert n > 70
    assert shown.pushed.moved.reached.all()
    for found in (shown.pushed.separation, shown.pushed.far, shown.swapped):
        assert found.n == n
        shares = (found.flips, found.to_target, found.stays, found.separated)
        assert [s.value for s in shares] == [1, 1, 1, 1]
        assert all(s.low < 1 for s in shares)


def test_a_mixed_pair_is_told_apart_from_a_separated_one() -> None:
    found = bias_pictures(Painter(mixed=1.0), painted_splits(), device=CPU).pushed
    assert found is not None
    # the band follows the colour, so that a new colour is a new class for the signal half as well
    assert found.separation.flips.value == 1
    assert found.separation.stays.value == 0
    assert found.separation.separated.value == 0


def test_the_mean_change_is_that_of_the_pixels() -> None:
    vae, data = Halves(), grey()
    found = bias_pictures(vae, data, device=CPU, factor=1.5).pushed
    assert found is not None
    # from 0.82 (or 0.16) just across 0.5, in the upper half of the picture
    bright, dark = 210 / 255, 40 / 255
    y = data.y[found.ids]
    length = torch.where(y == 0, bright - 0.5, 0.5 - dark) * 1.02
    assert found.separation.change == pytest.approx(float(length.mean() / 2), abs=1e-5)
    torch.testing.assert_close(found.shift, length * 2**0.5, atol=1e-5, rtol=0)
    assert found.far.change == pytest.approx(1.5 * found.separation.change, abs=1e-5)


# Which images.


def test_only_images_that_both_halves_get_right_are_pushed(shown: BiasPictures) -> None:
    val = painted_splits().val
    assert val is not None
    assert shown.pushed is not None
    assert shown.split == "val"
    right = (val.attributes["colour"].values == val.y).nonzero().squeeze(1)
    assert sorted(shown.pushed.ids.tolist()) == right.tolist()
    assert (shown.pushed.target != shown.pushed.y).all()
    # classes take turns
    assert {len(set(turn.tolist())) for turn in shown.pushed.y[:60].split(3)} == {3}


def test_bias_labels_are_not_looked_at() -> None:
    data, vae = painted_splits(), Painter()
    other = torch.zeros(90, dtype=torch.int64)
    names = ("red", "green", "blue")
    blind = replace(data, val=replace(data.val, attributes={"colour": Attribute(other, names)}))
    first, second = (bias_pictures(vae, d, device=CPU) for d in (data, blind))
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def test_another_seed_chooses_others() -> None:
    data = painted_splits()
    sets = [bias_pictures(Painter(), data, seed=s, device=CPU).pushed for s in (0, 0, 1)]
    assert torch.equal(sets[0].ids, sets[1].ids)
    assert torch.equal(sets[0].target, sets[1].target)
    assert not torch.equal(sets[0].ids, sets[2].ids)
    assert not torch.equal(sets[0].target, sets[2].target)


def test_without_validation_images_training_images_are_pushed() -> None:
    shown = bias_pictures(Painter(), replace(painted_splits(), val=None), device=CPU)
    assert shown.split == "train"
    assert shown.pushed is not None


def test_a_target_of_ones_own() -> None:
    shown = bias_pictures(Painter(), painted_splits(), target="low", device=CPU)
    assert shown.pushed is not None
    assert set(shown.pushed.target.tolist()) == {2}
    assert 2 not in shown.pushed.y
    assert shown.class_maps is not None
    assert shown.class_maps.titles == ("low",)


def test_targets_are_other_classes_and_all_of_them() -> None:
    y = torch.arange(3000) % 10
    target = show.targets_for(y, 10, 0)
    assert int((target == y).sum()) == 0
    counts = torch.bincount((target - y) % 10, minlength=10)
    assert counts[0] == 0
    assert (counts[1:] > 250).all()


def test_no_image_that_both_halves_get_right_is_a_message() -> None:
    part = painted(30, 1.0, 0)  # every colour is that of another class
    shown = bias_pictures(Painter(), part, device=CPU)
    assert set(shown.grids) == {"pairs"}
    assert shown.pushed is None
    assert "None of the 30 images is one that both halves get right, so" in shown.notes[0]
    json.dumps(shown.to_dict(), allow_nan=False)


def test_no_image_is_left_for_a_target() -> None:
    part = painted(30, 0.0, 0)
    only = part.select(part.y == 1)
    shown = bias_pictures(Painter(), only, target="middle", device=CPU)
    assert "and that is not labelled middle" in shown.notes[0]
    assert shown.grids == {}  # nor are there two classes to make a pair of


# The grids.


def test_pushing_changes_the_colour_and_nothing_else(shown: BiasPictures) -> None:
    grid, found = shown.grids["push"], shown.pushed
    assert found is not None
    assert grid.images.shape == (4, 5, 3, 12, 12)
    assert grid.rows == ("original", "reconstruction", "smallest change", "twice that change")
    names = shown.classes
    for k in range(5):
        y, t = int(found.y[k]), int(found.target[k])
        assert grid.columns[k] == f"{names[y]} → bias of {names[t]}"
        assert grid.captions[1][k] == f"biased {names[y]} · signal {names[y]}"
        assert grid.captions[2][k] == f"biased {names[t]} · signal {names[y]}"
        strengths = grid.images[:, k].amax((2, 3)).float()
        assert (strengths[1] - strengths[0]).abs().max() <= 1
        assert strengths[2].argmax() == strengths[3].argmax() == t
        # twice the move: each strength changes by twice as much, within rounding
        one, two = strengths[2] - strengths[1], strengths[3] - strengths[1]
        assert (two - 2 * one).abs().max() <= 2
        lit = grid.images[1:, k].amax(1) > 100
        assert torch.equal(lit[0], lit[2])
    assert not grid.failed.any()


def test_the_difference_map_is_the_mean_over_channels(shown: BiasPictures) -> None:
    assert shown.heat is not None
    pixels = shown.grids["push"].images.float() / 255
    expected = (pixels[2] - pixels[1]).abs().mean(1)
    torch.testing.assert_close(shown.heat.values, expected, atol=4e-3, rtol=0)
    assert shown.heat.values.max() > 0.1


def test_what_did_not_get_there_is_marked_and_left_out() -> None:
    shown = bias_pictures(Painter(unreachable=2), painted_splits(), device=CPU)
    found = shown.pushed
    assert found is not None
    aimed = found.target == 2
    assert torch.equal(found.moved.reached, ~aimed)
    assert not shown.grids["push"].failed.any(), "those that got there come first"
    assert not any(title.endswith("low") for title in shown.grids["push"].columns)
    fifth = int(found.moved.reached.nonzero()[4])
    assert found.passed_over == int(aimed[:fifth].sum()) > 0
    assert shown.class_maps is not None
    assert shown.class_maps.titles == ("top", "middle")
    assert sum(shown.class_maps.counts) == found.separation.n == int((~aimed).sum())
    for measured in (found.separation, found.far):
        assert measured.n == int((~aimed).sum())
        shares = (measured.flips, measured.to_target, measured.stays, measured.separated)
        assert [s.value for s in shares] == [1, 1, 1, 1]
    numbers = shown.to_dict()["push"]
    assert numbers["tried"] == len(aimed)
    assert numbers["reached"] == int((~aimed).sum())
    assert numbers["passed_over"] == found.passed_over
    strip = shown.grids["strip"]
    assert strip.failed[:, 4].all()
    assert not strip.failed[:, :2].any()
    # nor is there an image that could give its bias
    assert len(shown.grids["swap"].columns) == 5
    assert not any(title.endswith("low") for title in shown.grids["swap"].columns)
    assert shown.swapped is not None
    assert shown.swapped.n == int((~aimed).sum())


def test_where_none_got_there_the_first_ones_are_shown_and_marked() -> None:
    shown = bias_pictures(Painter(unreachable=2), painted_splits(), target="low", device=CPU)
    # nor does the biased half say that class of any image: there is no swap, and it is said why
    assert shown.swapped is None
    assert any("none whose bias latent could be swapped in" in note for note in shown.notes)
    assert shown.pushed is not None
    assert shown.pushed.passed_over == 0
    assert shown.grids["push"].failed.tolist() == [[False] * 5] * 2 + [[True] * 5] * 2


def test_a_change_that_did_not_get_into_the_picture_has_a_mark_of_its_own() -> None:
    shown = bias_pictures(BlueBlind(), painted_splits(), device=CPU)
    found, push = shown.pushed, shown.grids["push"]
    assert found is not None
    assert found.moved.reached.all()
    aimed = (found.target == 2)[:5]
    assert 0 < int(aimed.sum()) < 5
    swap, strip = shown.grids["swap"], shown.grids["strip"]
    for grid in (push, swap, strip):
        assert not grid.failed.any(), "every latent is where the biased half says the target"
    for row in (push.another[2], push.another[3], swap.another[2], swap.another[4]):
        assert torch.equal(row, aimed)
    assert not push.another[:2].any()
    assert not swap.another[[0, 1, 3]].any()
    assert strip.another.tolist() == [[False] * 4 + [True]] * 3
    for grid, rows in ((push, (2, 3)), (swap, (2, 4))):
        for row in rows:
            for k, said in enumerate(grid.captions[row]):
                wanted = grid.columns[k].split(" → bias of ")[1]
                assert said.startswith(f"biased {wanted} ") == (not grid.another[row, k])
    assert shown.to_dict()["grids"]["push"]["another"] == push.another.tolist()


def test_class_maps_are_means(shown: BiasPictures) -> None:
    heat = torch.tensor([[[1.0, 0]], [[0, 1]], [[4, 4]], [[3, 0]]])
    maps = show.class_maps(
        heat, torch.tensor([0, 2, 0, 0]), torch.tensor([True, True, False, True]), ("a", "b", "c")
    )
    assert maps.titles == ("a", "c")
    assert maps.counts == (2, 1)
    assert maps.values.tolist() == [[[2, 0]], [[0, 1]]]


def test_a_strip_has_every_class_and_leaves_the_own_one(shown: BiasPictures) -> None:
    strip = shown.grids["strip"]
    assert strip.images.shape == (3, 5, 3, 12, 12)
    assert strip.columns == (
        "original", "reconstruction", "bias of top", "bias of middle", "bias of low",
    )  # fmt: skip
    assert sorted(strip.rows) == ["low", "middle", "top"]
    for row, name in enumerate(strip.rows):
        own = shown.classes.index(name)
        assert torch.equal(strip.images[row, 2 + own], strip.images[row, 1])
        colours = strip.images[row, 2:].amax((2, 3)).argmax(1)
        assert colours.tolist() == [0, 1, 2]


def test_a_strip_begins_with_the_class_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "MOST_CLASSES", 2)
    made = bias_pictures(Painter(), painted_splits(), target="low", device=CPU).grids["strip"]
    assert made.columns[2:] == ("bias of low", "bias of top")
    for row in range(len(made.rows)):
        assert made.images[row, 2:].amax((2, 3)).argmax(1).tolist() == [2, 0]


def test_a_swap_takes_the_whole_bias_latent(shown: BiasPictures) -> None:
    grid, found, vae = shown.grids["swap"], shown.pushed, Painter()
    assert found is not None
    assert grid.rows[3:] == ("an image with that bias", "with its whole bias latent")
    for k in range(5):
        own, given = (vae.encode(grid.images[row, k][None]) for row in (0, 3))
        assert vae.logits_b(given.z_b_mean).argmax() == found.target[k]
        expected = as_bytes(vae.image(own.z_s_mean, given.z_b_mean))[0]
        assert torch.equal(grid.images[4, k], expected)


def test_pairs_exchange_their_bias(shown: BiasPictures) -> None:
    grid, vae = shown.grids["pairs"], Painter()
    assert grid.images.shape == (4, 3, 3, 12, 12)
    assert [row[:2] for row in grid.rows] == ["A1", "B1", "A2", "B2"]
    for a, b in ((0, 1), (1, 0), (2, 3), (3, 2)):
        assert grid.rows[a][4:] != grid.rows[b][4:]
        own, other = (vae.encode(grid.images[row, 0][None]) for row in (a, b))
        expected = as_bytes(vae.image(own.z_s_mean, other.z_b_mean))[0]
        assert torch.equal(grid.images[a, 2], expected)


def test_two_classes_and_grey_images() -> None:
    data = grey()
    shown = bias_pictures(Halves(), data, device=CPU)
    assert shown.grids["push"].images.shape == (4, 5, 1, 8, 8)
    assert shown.grids["strip"].images.shape[:2] == (2 + 1, 4)
    upper, lower = shown.grids["push"].images.float().unflatten(3, (2, 4)).mean((2, 4, 5)).unbind(2)
    assert (lower[1] == lower[2]).all()
    assert ((upper[1] > 128) != (upper[2] > 128)).all()
    assert shown.heat is not None
    assert shown.heat.values[:, 4:].abs().max() == 0
    assert shown.auc is None
    assert shown.gallery[0].marks == (None,) * 20


# Training images.


def test_the_gallery_begins_with_the_least_likely_label(shown: BiasPictures) -> None:
    train, vae = painted_splits().train, Painter()
    logits = vae.logits_b(vae.encode(train.images).z_b_mean).detach()
    p = logits.softmax(1)[torch.arange(90), train.y]
    lowest, highest = shown.gallery
    assert lowest.p.tolist() == sorted(lowest.p.tolist())
    torch.testing.assert_close(lowest.p, p.sort().values[:24])
    torch.testing.assert_close(lowest.p, p[lowest.ids])
    assert torch.equal(lowest.images, train.images[lowest.ids])
    conflicting = train.attributes["colour"].values != train.y
    assert [m == "conflicting" for m in lowest.marks] == conflicting[lowest.ids].tolist()
    assert lowest.marks[0] == "conflicting"
    first = int(lowest.ids[0])
    names = train.classes
    said = f"labelled {names[train.y[first]]}, biased half: {names[int(logits[first].argmax())]}"
    assert lowest.captions[0] == said
    # the other end: as many of each class, the surest of each
    assert torch.bincount(train.y[highest.ids]).tolist() == [8, 8, 8]
    for y in range(3):
        best = p[train.y == y].sort(descending=True).values[:8]
        torch.testing.assert_close(highest.p[train.y[highest.ids] == y], best)


def test_the_auc_is_the_share_of_ordered_pairs(shown: BiasPictures) -> None:
    train, vae = painted_splits().train, Painter()
    p = vae.logits_b(vae.encode(train.images).z_b_mean).softmax(1)[torch.arange(90), train.y]
    aligned = train.attributes["colour"].values == train.y
    wins = p[aligned][:, None] > p[~aligned][None]
    assert shown.auc == pytest.approx(float(wins.float().mean()))


def test_the_histogram_counts_every_training_image(shown: BiasPictures) -> None:
    counts, classes = shown.histogram
    assert classes == ("top", "middle", "low")
    train, vae = painted_splits().train, Painter()
    p = vae.logits_b(vae.encode(train.images).z_b_mean).softmax(1)[torch.arange(90), train.y]
    for y in range(3):
        own = p[train.y == y].detach()
        expected = torch.histc(own, show.BINS, 0, 1).long()
        assert counts[y].tolist() == expected.tolist()


# Numbers, and what can go wrong.


def test_the_numbers_are_plain_and_complete(shown: BiasPictures) -> None:
    numbers = json.loads(json.dumps(shown.to_dict(), allow_nan=False))
    push = numbers["push"]
    assert push["tried"] == push["reached"] == push["n"] == len(push["images"])
    assert push["rescued"] == 0
    assert push["factor"] == 2
    assert {"image", "label", "target", "reached", "rescued", "steps", "shift"} == {
        *push["images"][0]
    }
    assert numbers["swap"]["separated"]["value"] == 1
    assert numbers["grids"]["push"]["columns"] == list(shown.grids["push"].columns)
    assert sum(map(sum, numbers["histogram"]["counts"].values())) == 90
    summary = shown.summary()
    assert "images" not in summary["push"]
    assert summary["push"]["far"] == push["far"]


def test_the_network_is_left_as_it_was() -> None:
    vae = Painter().train()
    bias_pictures(vae, painted_splits(), device=CPU)
    assert all(p.grad is None for p in vae.parameters())


def test_both_right_wants_both() -> None:
    part = painted(30, 0.3, 1)
    seen = look(Painter(), part, CPU)
    wrong = seen._replace(judge=(part.y + 1) % 3)
    assert len(both_right(part, seen, 0)) == int((seen.bias == part.y).sum())
    assert len(both_right(part, wrong, 0)) == 0


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (6, "work on 6 x 6 pixels: the images' 12 x 12 are resized for them, and so are the"
            " pictures afterwards, which show nothing finer"),
        (16, "work on 16 x 16 pixels: the images' 12 x 12 are resized for them, and so are the"
            " pictures afterwards"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("conflicting", [0.1, 1.0])
def test_images_of_another_size_than_the_networks_work_on_are_a_note(
    side: int, said: str, conflicting: float
) -> None:
    vae = Painter()
    vae.side = side
    shown = bias_pictures(vae, painted(30, conflicting, 0), device=CPU)
    assert shown.notes[0] == f"The networks {said}"
    assert (shown.pushed is None) == (conflicting == 1) == (len(shown.notes) == 2)
    vae.side = 12
    assert "pixels" not in str(bias_pictures(vae, painted(30, 0.1, 0), device=CPU).notes)


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0, -2.0, float("inf"), float("nan")])
def test_a_longer_move_is_longer(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"a number above 1; got"):
        bias_pictures(Painter(), painted_splits(), factor=factor, device=CPU)


def test_errors_say_what_to_do() -> None:
    data = painted_splits()
    with pytest.raises(ConfigError, match="no class 'blue'; the classes are top, middle, low"):
        bias_pictures(Painter(), data, target="blue", device=CPU)
    small = ImageSet(data.train.images[:, :, :8, :8], data.train.y, data.train.classes)
    with pytest.raises(DataError, match=r"3 classes and images of shape \[3, 12, 12\]"):
        bias_pictures(Painter(), small, device=CPU)
