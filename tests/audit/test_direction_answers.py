"""Answers about directions: one for each person, by what a direction is, beside other answers."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from truecue.audit.direction_answers import (
    COLUMNS,
    DirectionAnswers,
    ProbedDirection,
    verdict_of,
)
from truecue.audit.verdicts import Judgement, Verdicts
from truecue.errors import DataError

HUE = ProbedDirection("hue", "a1", (0.6, 0.8), "c1", '{"seed": 0}')


@pytest.fixture
def answers(tmp_path: Path) -> DirectionAnswers:
    return DirectionAnswers(Verdicts(tmp_path / "verdicts.sqlite"))


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [("c", "core"), ("s", "spurious"), ("u", "undecided"), ("cs", "undecided"),
     ("ccs", "core"), ("ssu", "spurious"), ("csu", "undecided"), ("su", "undecided")],
)  # fmt: skip
def test_the_strict_majority_of_all_answers_decides(votes: str, verdict: str) -> None:
    words = {"c": "core", "s": "spurious", "u": "unclear"}
    assert verdict_of([words[v] for v in votes]) == verdict  # type: ignore[misc]


def test_a_direction_is_its_name_generator_and_vector() -> None:
    assert replace(HUE, classifier="c2", shown="").key == HUE.key
    others = [replace(HUE, name="hu"), replace(HUE, generator="a2"),
              replace(HUE, vector=(0.8, 0.6)), replace(HUE, vector=(0.6, 0.8, 0.0)),
              replace(HUE, name="", generator="huea1")]  # fmt: skip
    assert len({HUE.key, *(d.key for d in others)}) == 6
    # what JSON files hold are float32 numbers, written in full
    assert replace(HUE, vector=(0.6000000238418579, 0.800000011920929)).key == HUE.key


def test_answers_come_back_and_replace_earlier_ones(answers: DirectionAnswers) -> None:
    answers.add(HUE, "Ada", "core", "the tint")
    answers.add(HUE, "Grace", "unclear")
    answers.add(HUE, "Ada", "spurious", "the colour")
    found = [(j.direction, j.annotator, j.answer, j.note) for j in answers.all()]
    assert found == [(HUE, "Grace", "unclear", ""), (HUE, "Ada", "spurious", "the colour")]
    with pytest.raises(DataError, match="no answer 'spuriou'; did you mean 'spurious'"):
        answers.add(HUE, "Ada", "spuriou")
    with pytest.raises(DataError, match="needs the name"):
        answers.add(HUE, " ", "core")
    assert len(answers.all()) == 2


def test_undo_takes_back_the_last_answer_of_a_person(answers: DirectionAnswers) -> None:
    size, tilt = replace(HUE, name="size"), replace(HUE, name="tilt")
    answers.add(HUE, "Ada", "core")
    answers.add(size, "Ada", "spurious")
    answers.add(tilt, "Ada", "core")
    answers.add(size, "Grace", "core")
    assert answers.undo("Ada", [HUE.key, size.key]) == size.key  # tilt is not on the page
    assert answers.undo("Alan", [HUE.key, size.key]) is None
    left = [(j.direction.name, j.annotator) for j in answers.all()]
    assert left == [("hue", "Ada"), ("tilt", "Ada"), ("size", "Grace")]


def test_answers_about_features_and_directions_share_a_file(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "verdicts.sqlite")
    verdicts.add(Judgement(0, 1, "Ada", "background"))
    answers = DirectionAnswers(verdicts)
    answers.add(HUE, "Ada", "core")
    assert answers.undo("Ada", [HUE.key]) == HUE.key
    assert [j.answer for j in verdicts.all()] == ["background"]
    assert verdicts.aggregate().pairs.keys() == {(0, 1)}


def test_csv_holds_everything_and_no_formulas(answers: DirectionAnswers) -> None:
    assert answers.csv().strip() == ",".join(COLUMNS)
    answers.add(replace(HUE, name="=1+1"), "@Ada", "core", "-2")
    (row,) = csv.DictReader(io.StringIO(answers.csv()))
    assert tuple(row) == COLUMNS
    assert [row[c] for c in ("name", "annotator", "note")] == ["'=1+1", "'@Ada", "'-2"]
    assert json.loads(row["vector"]) == [0.6, 0.8]
    assert (row["generator"], row["classifier"], row["shown"]) == ("a1", "c1", '{"seed": 0}')
