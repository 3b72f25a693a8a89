from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from engine_parts import cpu
from torch.nn import functional as F

from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.engine.judge import (
    Judge,
    Monitor,
    aligned_mask,
    goes_with,
    worst_guessed,
)
from truecue.errors import ConfigError, SupervisionError

# five images by hand: the first pixel holds the predicted class
Y = [0, 0, 0, 1, 1]
PRED = [0, 1, 1, 1, 1]
PLACE = [0, 0, 1, 0, 1]
# cells (class, place): (0, land) 1 of 2; (0, water) 0 of 1; (1, land) 1 of 1; (1, water) 1 of 1


def made(y=Y, pred=PRED, place=PLACE) -> ImageSet:
    images = torch.tensor(pred, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    attributes = {"place": Attribute(torch.tensor(place), ("land", "water"))}
    return ImageSet(images.contiguous(), torch.tensor(y), ("cow", "camel"), attributes)


def predict(x: torch.Tensor) -> torch.Tensor:
    return F.one_hot(x[:, 0, 0, 0].long(), 2) * 2.0


@pytest.fixture
def judge() -> Judge:
    val = made(Y * 5, PRED * 5, PLACE * 5)  # groups of five images stand alone
    return Judge(Splits(made(), val, made(pred=[0, 0, 0, 1, 0]), bias="place"), cpu())


def test_rules_against_hand_computation(judge: Judge) -> None:
    right, wrong = -torch.log_softmax(torch.tensor([2.0, 0.0]), 0).numpy()
    assert judge.value("val_loss", predict) == pytest.approx((3 * right + 2 * wrong) / 5, rel=1e-6)
    assert judge.value("val_worst_class", predict) == pytest.approx(-1 / 3)
    assert judge.value("val_worst_group", predict) == pytest.approx(0.0)
    # test images: class 0 right everywhere, class 1 right on land, wrong on water
    assert judge.value("oracle_test", predict) == pytest.approx(-(1 + 1 + 1 + 0) / 4)


def test_worst_group_passes_over_empty_groups() -> None:
    # no cow on water, no camel on land
    val = made([0, 0, 1] * 5, [0, 1, 1] * 5, [0, 0, 1] * 5)
    judge = Judge(Splits(made(), val, made(), bias="place"), cpu())
    assert judge.value("val_worst_group", predict) == pytest.approx(-0.5)


def test_worst_group_passes_over_images_whose_place_is_not_known() -> None:
    val = made([0, 0, 1] * 5, [0, 1, 1] * 5, [0, -1, 1] * 5)
    judge = Judge(Splits(made(), val, made(), bias="place"), cpu())
    assert judge.value("val_worst_group", predict) == pytest.approx(-1.0)


@pytest.mark.parametrize("rule", ["val_worst_group", "oracle_test"])
def test_a_rule_that_finds_nothing_to_judge_by_says_so(rule) -> None:
    nothing = made(place=[-1] * 5)
    judge = Judge(Splits(made(), nothing, nothing, bias="place"), cpu())
    with pytest.raises(SupervisionError, match="'place' is known, and there is none"):
        judge.value(rule, predict)


def test_oracle_without_a_bias_is_the_mean_over_classes() -> None:
    judge = Judge(Splits(made(), None, made()), cpu())
    assert judge.value("oracle_test", predict) == pytest.approx(-(1 / 3 + 1) / 2)


def test_rules_that_the_data_cannot_serve_are_refused() -> None:
    blind = Judge(Splits(made(), made(), made()), cpu())
    with pytest.raises(SupervisionError, match="val_worst_class', 'val_loss' or 'last'"):
        blind.check("val_worst_group")
    blind.check("val_worst_class")
    without = Judge(Splits(made(), None, made(), bias="place"), cpu())
    for rule in ("val_loss", "val_worst_class", "val_worst_group"):
        with pytest.raises(ConfigError, match="needs validation images"):
            without.check(rule)
    without.check("oracle_test")
    without.check("last")


def test_aligned_cells_as_given_or_by_counts() -> None:
    splits = Splits(made(place=[0, 0, 0, 1, 1]), None, made(), bias="place")
    assert aligned_mask(splits).tolist() == [[True, False], [False, True]]
    given = torch.tensor([[False, True], [True, False]])
    assert aligned_mask(replace(splits, aligned=given)) is given
    assert aligned_mask(replace(splits, bias=None)) is None


def test_a_bias_goes_with_its_class_or_not_or_is_not_known() -> None:
    part, mask = made(place=[0, -1, 1, 0, 1]), torch.tensor([[True, False], [False, True]])
    agree = goes_with(part, "place", mask)
    assert agree is not None
    assert agree.tolist() == [1, -1, 0, 0, 1]
    assert goes_with(part, None, mask) is None
    assert goes_with(part, "place", None) is None
    assert goes_with(part.blind(), "place", mask) is None


def test_monitor_counts_by_hand() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    splits = Splits(made(), None, made(), bias="place", aligned=mask)
    (row,) = Monitor(splits, cpu()).rows({"net": predict})
    assert row == {
        "branch": "net",
        "split": "train",
        "average": pytest.approx(3 / 5),
        "aligned": pytest.approx((1 / 2 + 1) / 2),
        "conflicting": pytest.approx((0 + 1) / 2),
    }


def test_monitor_shows_as_many_conflicting_images_as_it_can() -> None:
    n = 1000
    y = torch.arange(n) % 2
    place = torch.where(torch.arange(n) % 10 == 0, 1 - y, y)  # 100 conflicting ones
    train = made(y.tolist(), y.tolist(), place.tolist())
    splits = Splits(train, train, made(), bias="place", aligned=torch.eye(2, dtype=torch.bool))
    shown = Monitor(splits, cpu(), most=160)._sets["train"]
    against = shown.y != shown.attributes["place"].values
    assert (len(shown), int(against.sum())) == (160, 80)
    shown = Monitor(splits, cpu(), most=600)._sets["val"]
    against = shown.y != shown.attributes["place"].values
    assert (len(shown), int(against.sum())) == (400, 100)


def test_monitor_shows_images_of_known_bias_where_there_are_any() -> None:
    n = 1000
    y = torch.arange(n) % 2
    place = torch.full((n,), -1)
    place[10:30], place[30:40] = y[10:30], 1 - y[30:40]  # 20 aligned and 10 conflicting ones
    few = made(y.tolist(), y.tolist(), place.tolist())
    none = made(y.tolist(), (1 - y).tolist(), [-1] * n)
    splits = Splits(few, none, made(), bias="place", aligned=torch.eye(2, dtype=torch.bool))
    monitor = Monitor(splits, cpu(), most=100)
    shown = monitor._sets["train"].attributes["place"].values
    assert (len(shown), int((shown < 0).sum())) == (30, 0)
    train, val = monitor.rows({"net": predict})
    assert (train["average"], train["aligned"], train["conflicting"]) == (1, 1, 1)
    assert len(monitor._sets["val"]) == 100
    assert val["average"] == 0
    assert math.isnan(val["aligned"])


def test_monitor_without_a_bias_shows_the_average_only() -> None:
    rows = Monitor(Splits(made(), made(), made()), cpu(), most=3).rows({"a": predict, "b": predict})
    assert [(row["branch"], row["split"]) for row in rows] == [
        (b, s) for s in ("train", "val") for b in ("a", "b")
    ]
    assert all(set(row) == {"branch", "split", "average"} for row in rows)


def test_worst_guessed_group_against_hand_computation() -> None:
    y = torch.tensor([0] * 12 + [1] * 10)
    disagree = torch.tensor([0] * 6 + [1] * 6 + [0] * 10).bool()
    right = torch.tensor([1] * 6 + [1, 1, 0, 0, 0, 0] + [1] * 9 + [0]).bool()
    assert worst_guessed(right, y, disagree) == pytest.approx(2 / 6)
    assert worst_guessed(right, y, ~disagree) == pytest.approx(2 / 6)
    # two and two images of different classes make a group of four, which is all there is
    few = torch.zeros(22, dtype=torch.bool)
    few[[0, 1, 12, 21]] = True
    assert worst_guessed(right, y, few) == pytest.approx(min(3 / 4, 6 / 10, 8 / 8))


def test_judge_guesses_once_and_only_when_asked() -> None:
    asked = []

    def guess() -> torch.Tensor:
        asked.append(1)
        return torch.tensor([False] * 5 + [True] * 5)

    twice = made(Y * 2, PRED * 2, PLACE * 2)
    judge = Judge(Splits(made(), twice, made(), bias="place"), cpu(), guess)
    judge.check("val_pseudo_group")
    assert not asked
    # both halves hold three cows, one of them right, and two camels, both right: too few of each
    # class, so that each half is a group
    assert judge.value("val_pseudo_group", predict) == pytest.approx(-3 / 5)
    assert judge.value("val_pseudo_group", predict) == pytest.approx(-3 / 5)
    assert len(asked) == 1


def test_guessing_needs_somebody_who_guesses() -> None:
    with pytest.raises(ConfigError, match="needs a biased and a debiased classifier"):
        Judge(Splits(made(), made(), made()), cpu()).check("val_pseudo_group")
