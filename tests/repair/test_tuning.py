"""Tuning a last layer: steps worked out by hand, guards, and the reference simulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from world import World, world

from truecue.audit.head import fit_head
from truecue.errors import ConfigError, DataError, Diverged
from truecue.metrics.ranking import end_sizes, rank, spurious_gap
from truecue.repair.images import drawn, halves, lowest
from truecue.repair.tune import Epoch, Judged, TuneSettings, choose, train_epochs, tune_head

FREE = {"lr": 0.01, "tol": 1.0, "ends": 50}  # the accuracy guard switched off


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], len(weight))
    head.load_state_dict({"weight": weight, "bias": bias})
    return head


def judged(part: World) -> Judged:
    return Judged(part.phi, part.y, part.ranking)


# --- by hand


def test_two_steps_by_hand():
    head = linear(torch.eye(2), torch.zeros(2))
    x, y = torch.tensor([[1.0, 2], [3, 1]]), torch.tensor([0, 1])
    steps = train_epochs(head, x, y, TuneSettings(lr=0.1, momentum=0.9, epochs=2), 0)
    assert next(steps) == pytest.approx(1.720095, abs=1e-6)
    expected = torch.tensor([[0.904433, 0.029066], [0.095567, 0.970934]])
    torch.testing.assert_close(head.weight.detach(), expected, atol=1e-6, rtol=0)
    bias = torch.tensor([-0.007487, 0.007487])
    torch.testing.assert_close(head.bias.detach(), bias, atol=1e-6, rtol=0)
    assert next(steps) == pytest.approx(1.528241, abs=1e-6)
    expected = torch.tensor([[0.733888, 0.089410], [0.266112, 0.910590]])
    torch.testing.assert_close(head.weight.detach(), expected, atol=1e-6, rtol=0)
    bias = torch.tensor([-0.017459, 0.017459])
    torch.testing.assert_close(head.bias.detach(), bias, atol=1e-6, rtol=0)
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize(
    ("rows", "tol", "expected"),
    [
        # the smallest gap of either sign, not the last and not the lowest
        ([(0.9, 0.3), (0.9, 0.2), (0.89, -0.1), (0.89, -0.25)], 0.03, 2),
        # the smallest gap costs too much accuracy
        ([(0.9, 0.3), (0.88, 0.2), (0.86, 0.02), (0.875, 0.15)], 0.03, 3),
        ([(0.9, 0.3), (0.88, 0.2), (0.86, 0.02), (0.875, 0.15)], 0.05, 2),
        # exactly the tolerance is allowed, however it is rounded
        ([(0.9, 0.3), (0.87, 0.1)], 0.03, 1),
        # nothing is better than before: before
        ([(0.9, 0.1), (0.9, 0.2), (0.9, -0.3)], 0.03, 0),
        ([(0.9, 0.3), (0.8, 0.0)], 0.0, 0),
        # of equal ones the first
        ([(0.9, 0.3), (0.9, 0.2), (0.9, -0.2)], 0.03, 1),
    ],
)
def test_which_epoch_is_kept(rows, tol: float, expected: int):
    log = [Epoch(i, None, accuracy, 0.0, gap, gap) for i, (accuracy, gap) in enumerate(rows)]
    assert choose(log, TuneSettings(tol=tol)) == expected


def test_a_broken_epoch_is_not_kept():
    log = [Epoch(0, None, 0.9, 0, 0.3, 0.3), Epoch(1, 1.0, 0.9, 0, 0.29, 0.29)]
    assert choose(log, TuneSettings()) == 1


# --- which images


def test_images_of_the_low_end_stop_at_half_of_a_class():
    y = torch.tensor([0] * 7 + [1] * 50 + [2])
    scores = torch.arange(58).double().flip(0)
    ranking = rank(scores, y, 3)
    sizes = end_sizes(ranking.starts.diff(), 100)
    assert sizes.tolist() == [3, 25, 0]
    ids = lowest(ranking, sizes)
    assert ids[:3].tolist() == [6, 5, 4]
    assert sorted(ids[3:].tolist()) == list(range(32, 57))


def test_drawn_images_take_the_given_ones_first():
    y = torch.tensor([0, 1] * 50)
    wrong = torch.zeros(100, dtype=torch.bool)
    wrong[[0, 2, 4]] = True  # three of class 0
    wrong[1::2] = True  # all of class 1
    ids = drawn(y, torch.tensor([5, 5]), 0, wrong)
    assert y[ids].tolist() == [0] * 5 + [1] * 5
    assert len(set(ids.tolist())) == 10
    assert {0, 2, 4} <= set(ids.tolist())
    assert torch.equal(ids, drawn(y, torch.tensor([5, 5]), 0, wrong))
    assert not torch.equal(ids, drawn(y, torch.tensor([5, 5]), 1, wrong))
    assert drawn(y, torch.tensor([0, 1000]), 0).sort().values.tolist() == list(range(1, 100, 2))


def test_halves_are_of_each_class_disjoint_and_alike():
    y = torch.tensor([0] * 9 + [1] * 4 + [2])
    scores = torch.arange(14).double().where(y != 1, torch.nan)
    select, test = halves(y, scores, 3, 5)
    assert sorted([*select.tolist(), *test.tolist()]) == list(range(14))
    assert torch.bincount(y[select]).tolist() == [5, 2, 1]
    assert torch.bincount(y[test]).tolist() == [4, 2]
    assert torch.equal(halves(y, scores, 3, 5)[0], select)
    assert not torch.equal(halves(y, scores, 3, 6)[0], select)

    # of any two neighbours one is on either side, and it is chance which
    many, scores = torch.zeros(1000, dtype=torch.int64), torch.randn(1000).double()
    order = scores.argsort()
    select, _ = halves(many, scores, 1, 0)
    side = torch.zeros(1000, dtype=torch.int64)
    side[select] = 1
    pairs = side[order].view(-1, 2)
    assert bool((pairs.sum(1) == 1).all())
    assert 200 < int(pairs[:, 0].sum()) < 300


# --- the reference simulation


@pytest.fixture(scope="module")
def parts() -> dict[str, World]:
    return {"train": world(2000, 0), "val": world(500, 1), "test": world(500, 2)}


@pytest.fixture(scope="module")
def head(parts: dict[str, World]) -> nn.Linear:
    train = parts["train"]
    return linear(*fit_head(train.phi, train.y, 2, seed=0))


def test_low_ends_lack_the_cue(parts: dict[str, World]):
    train = parts["train"]
    low = lowest(train.ranking, torch.tensor([100, 100]))
    assert float((train.cue[low] != train.y[low]).double().mean()) > 0.9


def test_low_spuriosity_tuning_closes_the_gap(parts: dict[str, World], head: nn.Linear):
    train, test = parts["train"], parts["test"]
    ids = lowest(train.ranking, torch.tensor([100, 100]))
    select = judged(parts["val"])
    tuned = tune_head(head, train.phi[ids], train.y[ids], select, TuneSettings(**FREE), seed=0)
    assert tuned.log[0].gap > 0.2
    assert abs(tuned.log[tuned.chosen].gap) < 0.15
    assert 1 <= tuned.chosen < 20
    assert [e.epoch for e in tuned.log] == list(range(len(tuned.log)))
    assert tuned.log[0].loss is None
    # on images that nothing was chosen by
    gaps = [spurious_gap((h(test.phi).argmax(1) == test.y), test.ranking, 50).macro.value
            for h in (head, tuned.head)]  # fmt: skip
    assert gaps[0] > 0.2
    assert abs(gaps[1]) < 0.15
    assert test.worst_group(tuned.head) > test.worst_group(head) + 0.2

    # random images do not do it, however long: the mean of three draws, as in the paper
    settings, left = TuneSettings(**FREE, epochs=100), 0.0
    for seed in range(3):
        random = drawn(train.y, torch.tensor([100, 100]), seed)
        other = tune_head(head, train.phi[random], train.y[random], select, settings, seed=seed)
        assert len(other.log) == 101
        assert not other.reached
        left += other.log[-1].gap / 3
    assert left > 0.25


def test_the_accuracy_guard_holds(parts: dict[str, World], head: nn.Linear):
    train = parts["train"]
    ids = lowest(train.ranking, torch.tensor([100, 100]))
    settings = TuneSettings(lr=0.01, ends=50)
    tuned = tune_head(head, train.phi[ids], train.y[ids], judged(parts["val"]), settings, seed=0)
    before, after = tuned.log[0], tuned.log[tuned.chosen]
    assert after.accuracy >= before.accuracy - 0.03 - 1e-9
    assert 0.1 < after.gap < before.gap
    assert not tuned.reached
    assert len(tuned.log) == 21  # it went on looking


def test_an_unbiased_model_comes_back_untouched(parts: dict[str, World]):
    train = parts["train"]
    fair = linear(torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0]]), torch.zeros(2))
    ids = lowest(train.ranking, torch.tensor([100, 100]))
    tuned = tune_head(
        fair, train.phi[ids], train.y[ids], judged(parts["val"]),
        TuneSettings(lr=0.01, ends=200, target=0.08), seed=0,
    )  # fmt: skip
    assert (tuned.chosen, tuned.reached, len(tuned.log)) == (0, True, 1)
    assert torch.equal(tuned.head.weight, fair.weight)
    assert torch.equal(tuned.head.bias, fair.bias)


def test_the_given_layer_is_left_alone_and_the_seed_decides(
    parts: dict[str, World], head: nn.Linear
):
    train, weight = parts["train"], head.weight.detach().clone()
    ids = lowest(train.ranking, torch.tensor([100, 100]))
    settings = TuneSettings(lr=0.01, epochs=3, tol=1, target=0)
    a, b, c = (
        tune_head(head, train.phi[ids], train.y[ids], judged(parts["val"]), settings, seed=s)
        for s in (0, 0, 1)
    )
    assert torch.equal(head.weight, weight)
    assert a.log == b.log
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


def test_all_outputs_stay_and_replay_keeps_other_classes_up(parts: dict[str, World]):
    train = parts["train"]
    rng = torch.Generator().manual_seed(3)
    # a third class, the last one, that nothing is tuned on, told by a feature of its own
    third = torch.cat([0.5 * torch.randn(400, 4, generator=rng).relu(),
                       2 + torch.rand(400, 1, generator=rng)], 1)  # fmt: skip
    phi = torch.cat([nn.functional.pad(train.phi, (0, 1)), third])
    y = torch.cat([train.y, torch.full((400,), 2)])
    head = linear(*fit_head(phi, y, 3, seed=0))
    low = lowest(train.ranking, torch.tensor([100, 100]))
    others = drawn(y, torch.tensor([0, 0, 100]), 0)
    starts = torch.cat([train.ranking.starts, train.ranking.starts[-1:]])
    select = Judged(phi, y, train.ranking._replace(starts=starts))
    settings = TuneSettings(lr=0.05, tol=1, target=0)
    logits = {}
    for name, ids in (("alone", low), ("replay", torch.cat([low, others]))):
        tuned = tune_head(head, phi[ids], y[ids], select, settings, seed=0)
        assert tuned.head.weight.shape == (3, 5)
        assert tuned.chosen > 0
        steps = tune_head(head, phi[ids], y[ids], select, settings, seed=0)
        assert steps.log == tuned.log
        # after all epochs, whichever was chosen
        last = linear(head.weight.detach(), head.bias.detach())
        list(train_epochs(last, phi[ids], y[ids], settings, 0))
        z = last(phi[-400:]).detach()
        logits[name] = float((z[:, 2] - z[:, :2].amax(1)).mean())
    assert logits["replay"] > logits["alone"] + 0.5


def test_tuning_refuses(parts: dict[str, World], head: nn.Linear):
    train, select = parts["train"], judged(parts["val"])
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(DataError, match="no images to tune"):
        tune_head(head, train.phi[nothing], train.y[nothing], select, TuneSettings(), seed=0)
    unranked = select._replace(ranking=rank(torch.full((1000,), torch.nan), select.y, 2))
    with pytest.raises(DataError, match="no class has two validation images"):
        tune_head(head, train.phi, train.y, unranked, TuneSettings(), seed=0)
    with pytest.raises(Diverged, match="learning rate of 1e\\+38 is too large"):
        tune_head(head, train.phi, train.y, select, TuneSettings(lr=1e38), seed=0)
    with pytest.raises(ConfigError, match="TuneSettings"):
        TuneSettings(k=0)
