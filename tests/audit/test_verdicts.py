"""Answers in SQLite: nothing lost, nothing doubled, nothing half read; and what they add up to."""

from __future__ import annotations

import csv
import json
import math
import os
import sqlite3
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from truecue.audit.direction_answers import DirectionAnswers, ProbedDirection
from truecue.audit.verdicts import COLUMNS, SCHEMA, Judgement, Subject, Verdicts, aggregate
from truecue.errors import DataError, StorageError

ANSWER = {"m": "main_object", "s": "separate_object", "b": "background"}


def said(votes: str, pair: tuple[int, int] = (0, 1)) -> list[Judgement]:
    """Answers about one pair by as many people as there are letters."""
    return [Judgement(*pair, f"w{i}", ANSWER[v]) for i, v in enumerate(votes)]  # type: ignore[arg-type]


def known(c: int, f: int) -> str:
    return "" if c < 3 and f < 10 else f"class {c} has no feature {f}"


@pytest.fixture
def verdicts(tmp_path: Path) -> Verdicts:
    return Verdicts(tmp_path / "verdicts.sqlite", known, "e1")


# --- what answers add up to


@pytest.mark.parametrize(
    ("votes", "verdict", "kind"),
    [
        ("mmmbs", "core", ""),
        ("mmbbs", "spurious", "ambiguous"),
        ("mbbbs", "spurious", "background"),
        ("mmsss", "spurious", "separate"),
        ("bbbbb", "spurious", "background"),
        ("b", "spurious", "background"),
        ("m", "core", ""),
        ("mb", "undecided", ""),
        ("mmbs", "undecided", ""),
        ("mbs", "spurious", "ambiguous"),
        ("mbb", "spurious", "background"),
    ],
)
def test_the_strict_majority_decides(votes, verdict, kind):
    found = aggregate(said(votes)).pairs[0, 1]
    assert (found.verdict, found.kind) == (verdict, kind)
    assert found.answers == len(votes)
    spurious = len(votes) - votes.count("m")
    assert found.spurious_votes == spurious
    assert found.agreement == max(spurious, len(votes) - spurious) / len(votes)


def test_skipped_answers_count_for_nothing():
    skipped = Judgement(0, 1, "w9", None)
    assert aggregate([*said("mbb"), skipped]).pairs[0, 1].answers == 3
    assert aggregate([skipped]).pairs == {}
    assert aggregate([skipped]).spurious() == {}


def test_agreement_of_annotators():
    full = aggregate([*said("mmm", (0, 1)), *said("bbb", (0, 2)), *said("sss", (1, 1))])
    assert full.fleiss == pytest.approx(1)
    assert full.cohen == {("w0", "w1"): 1.0, ("w0", "w2"): 1.0, ("w1", "w2"): 1.0}
    assert full.spurious() == {0: {2}, 1: {1}}
    # two kinds of spurious are one side
    assert aggregate([*said("bs", (0, 1)), *said("mm", (0, 2))]).fleiss == pytest.approx(1)
    assert math.isnan(aggregate(said("m")).fleiss)


def test_gold_items_count_right_answers(verdicts: Verdicts):
    verdicts.set_gold(0, 1, "background")
    verdicts.set_gold(0, 1, "separate_object")  # put right
    verdicts.set_gold(2, 2, "main_object")
    verdicts.add(*said("sb", (0, 1)), *said("mm", (2, 2)), *said("m", (1, 1)))
    assert verdicts.aggregate().gold == {"w0": (2, 2), "w1": (1, 2)}
    with pytest.raises(DataError, match="no feature 99"):
        verdicts.set_gold(0, 99, "main_object")
    assert verdicts.remove_gold(2, 2)
    assert not verdicts.remove_gold(2, 2)
    assert verdicts.aggregate().gold == {"w0": (1, 1), "w1": (0, 1)}


def test_gold_items_are_of_one_encoder(verdicts: Verdicts):
    verdicts.set_gold(0, 1, "background")
    other = Verdicts(verdicts.path, known, "e2")
    other.add(*said("m"))
    assert other.gold() == {}
    assert other.aggregate().gold == {}
    other.set_gold(0, 1, "main_object")
    assert other.aggregate().gold == {"w0": (1, 1)}
    assert not other.remove_gold(2, 2)
    assert other.remove_gold(0, 1)
    assert verdicts.gold() == {(0, 1): "background"}


# --- the file


def test_answers_come_back_as_they_were(verdicts: Verdicts):
    full = Judgement(1, 2, "ann", "background", 4, "grass, 'everywhere'", "cow", 3, "e1", "correct",
                     (5, 1, 9), 10.5, 12.25)  # fmt: skip
    verdicts.add(full, Judgement(0, 2, "ann", None, submitted=1.0))
    assert verdicts.all()[1] == full
    assert verdicts.all()[0].answer is None


def test_a_second_answer_takes_the_place_of_the_first(verdicts: Verdicts):
    verdicts.add(*said("mb"))
    verdicts.add(Judgement(0, 1, "w0", "separate_object", 2))
    assert [(j.annotator, j.answer) for j in verdicts.all()] == [
        ("w0", "separate_object"), ("w1", "background")
    ]  # fmt: skip
    assert verdicts.remove(0, 1, "w0")
    assert not verdicts.remove(0, 1, "w0")
    assert len(verdicts.all()) == 1


def test_answers_about_another_encoder_do_not_count(verdicts: Verdicts):
    verdicts.add(*said("bbb"), replace(said("b")[0], feature=2, encoder="e0"))
    assert len(verdicts.all()) == 4
    assert verdicts.aggregate().spurious() == {0: {1}}


def test_answers_about_another_encoder_are_kept_beside_new_ones(verdicts: Verdicts):
    verdicts.add(*said("bbb"))
    other = Verdicts(verdicts.path, known, "e2")
    assert other.aggregate().pairs == {}
    other.add(*said("mmm"))
    assert other.aggregate().spurious() == {}
    again = Verdicts(verdicts.path, known, "e1")
    assert again.aggregate().spurious() == {0: {1}}
    assert again.remove(0, 1, "w0")
    assert [j.encoder for j in again.all() if j.annotator == "w0"] == ["e2"]


def test_features_and_components_are_different_subjects(verdicts: Verdicts):
    verdicts.add(*said("b", (0, 1)), *said("b", (0, 2)))
    path = verdicts.path

    def opened(key: str) -> Verdicts:
        return Verdicts(path, known, Subject(8, "e1", f"e1 with {key}"))

    opened("k").add(*said("b", (0, 8)))
    assert opened("k").aggregate().spurious() == {0: {1, 2, 8}}
    assert opened("l").aggregate().spurious() == {0: {1, 2}}
    assert not opened("l").remove(0, 8, "w0")
    opened("l").set_gold(0, 8, "background")
    opened("l").set_gold(0, 1, "background")
    assert opened("k").gold() == {(0, 1): "background"}
    assert opened("k").remove(0, 8, "w0")


def test_answers_about_features_that_are_gone_do_not_count(tmp_path: Path):
    path = tmp_path / "verdicts.sqlite"
    Verdicts(path, None, "e1").add(*said("bbb", (0, 1)), *said("bbb", (7, 1)))
    found = Verdicts(path, known, "e1").aggregate()
    assert found.spurious() == {0: {1}}
    assert set(found.pairs) == {(0, 1)}


def test_an_answer_about_a_feature_that_is_not_there_stores_nothing(verdicts: Verdicts):
    with pytest.raises(DataError, match="class 7 has no feature 1"):
        verdicts.add(said("m")[0], Judgement(7, 1, "a", "background"))
    assert verdicts.all() == []


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"answer": "main"}, "there is no answer 'main'; did you mean 'main_object'"),
        ({"confidence": 6}, "confidence is 1 to 5; got 6"),
        ({"annotator": " "}, "needs the name"),
    ],
)
def test_answers_that_cannot_be(values, match):
    with pytest.raises(DataError, match=match):
        replace(said("m")[0], **values)


def test_a_newer_file_is_refused(verdicts: Verdicts):
    verdicts.add(*said("m"))
    with sqlite3.connect(verdicts.path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    for use in (lambda: Verdicts(verdicts.path), lambda: verdicts.add(*said("b"))):
        with pytest.raises(DataError, match=r"later version of truecue \(schema 9; this one reads"):
            use()
    with sqlite3.connect(verdicts.path) as db:
        assert db.execute("SELECT answer FROM answers").fetchall() == [("main_object",)]
    db.close()


_FIRST = """
CREATE TABLE answers (
    class INTEGER NOT NULL, feature INTEGER NOT NULL, annotator TEXT NOT NULL,
    answer TEXT CHECK (answer IN ('main_object', 'separate_object', 'background')),
    confidence INTEGER CHECK (confidence BETWEEN 1 AND 5),
    reason TEXT NOT NULL, class_name TEXT NOT NULL, rank INTEGER, encoder TEXT NOT NULL,
    group_rule TEXT NOT NULL, images TEXT NOT NULL, started REAL, submitted REAL NOT NULL,
    UNIQUE (class, feature, annotator)
);
CREATE TABLE gold (
    class INTEGER NOT NULL, feature INTEGER NOT NULL, answer TEXT NOT NULL,
    UNIQUE (class, feature)
);
"""
_SECOND = """
CREATE TABLE directions (
    direction TEXT NOT NULL, annotator TEXT NOT NULL,
    answer TEXT NOT NULL CHECK (answer IN ('core', 'spurious', 'unclear')),
    note TEXT NOT NULL, name TEXT NOT NULL, generator TEXT NOT NULL, vector TEXT NOT NULL,
    classifier TEXT NOT NULL, shown TEXT NOT NULL, submitted REAL NOT NULL,
    UNIQUE (direction, annotator)
);
"""
_KNOWN_DIRECTION = ProbedDirection("0", "g", (1.0,))


def _old_file(path: Path, version: int, answers: list[Judgement]) -> None:
    """A file as an earlier version made it, with a gold item and, in the second, a direction."""
    with sqlite3.connect(path) as db:
        db.executescript(_FIRST + _SECOND * (version == 2))
        for j in answers:
            db.execute(
                f"INSERT INTO answers VALUES ({', '.join('?' * 13)})",
                (*j.pair, j.annotator, j.answer, j.confidence, j.reason, j.class_name, j.rank,
                 j.encoder, j.group_rule, json.dumps(j.images), j.started, j.submitted),
            )  # fmt: skip
        db.execute("INSERT INTO gold VALUES (0, 1, 'background')")
        if version == 2:
            d = _KNOWN_DIRECTION
            row = (d.key, "Ada", "core", "", d.name, d.generator, json.dumps(d.vector), "", "", 3.0)
            db.execute(f"INSERT INTO directions VALUES ({', '.join('?' * 10)})", row)
        db.execute(f"PRAGMA user_version = {version}")
    db.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, version: int):
    path = tmp_path / "verdicts.sqlite"
    first = Judgement(0, 1, "Ada", "main_object", 4, "it's a fin", "fish", 2, "e1", "correct",
                      (5, 1, 9), 10.5, 12.25)  # fmt: skip
    before = [first, replace(first, annotator="Bea", answer="background"),
              replace(first, feature=2, answer=None, confidence=None, encoder="e0")]  # fmt: skip
    _old_file(path, version, before)
    Verdicts(path)  # whoever does not know what they are about changes nothing else
    verdicts = Verdicts(path, known, "e1")
    assert verdicts.all() == before
    assert verdicts.aggregate().gold == {"Ada": (0, 1), "Bea": (1, 1)}
    assert Verdicts(path, known, "e2").gold() == {}
    answers = DirectionAnswers(verdicts)
    assert [j.answer for j in answers.all()] == (["core"] if version == 2 else [])
    answers.add(_KNOWN_DIRECTION, "Ada", "spurious")
    assert [j.answer for j in answers.all()] == ["spurious"]
    other = Verdicts(path, known, "e2")
    other.add(replace(first, answer="background", encoder=""))
    assert verdicts.aggregate().pairs[0, 1].spurious_votes == 1
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE sql > ''")}
    db.close()
    assert tables == {"answers", "gold", "directions"}


def test_old_answers_about_features_count_though_there_were_components(tmp_path: Path):
    path = tmp_path / "verdicts.sqlite"
    old = [Judgement(0, f, "Ada", "background", encoder="e1 with k", submitted=1.0)
           for f in (1, 8)]  # fmt: skip
    _old_file(path, 2, old)
    assert Verdicts(path, known, "e1").aggregate().pairs == {}  # not known yet what they are about
    found = Verdicts(path, known, Subject(8, "e1", "e1 with k"))
    assert found.aggregate().spurious() == {0: {1, 8}}
    assert Verdicts(path, known, "e1").aggregate().spurious() == {0: {1}}
    assert Verdicts(path, known, Subject(8, "e1", "e1 with l")).aggregate().spurious() == {0: {1}}


def test_files_of_something_else_are_refused(tmp_path: Path):
    (tmp_path / "text").write_text("not a database at all, but long enough to be one" * 30)
    with pytest.raises(DataError, match="is not a file of answers"):
        Verdicts(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE pets (name TEXT)")
    db.close()
    with pytest.raises(DataError, match="a database of something else"):
        Verdicts(tmp_path / "other")
    with pytest.raises(StorageError, match="could not be"):
        Verdicts(tmp_path / "text" / "below").add(*said("m"))


def _write(path: Path, worker: int, count: int) -> None:
    verdicts = Verdicts(path)
    for i in range(count):
        verdicts.add(Judgement(i % 50, i // 50, f"w{worker}", "background", submitted=float(i)))


def test_four_processes_write_at_once(tmp_path: Path):
    path, count = tmp_path / "v.sqlite", 500
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        pids = []
        for worker in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    _write(path, worker, count)
                    os._exit(0)
                finally:
                    os._exit(1)
            pids.append(pid)
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found = Verdicts(path).all()
    assert len(found) == 4 * count
    assert len({(*j.pair, j.annotator) for j in found}) == 4 * count
    assert all(int(j.submitted or 0) == j.class_index + 50 * j.feature for j in found)


# --- CSV

HEAD = ",".join(COLUMNS)


def test_csv_there_and_back(verdicts: Verdicts, tmp_path: Path):
    verdicts.add(
        Judgement(1, 2, "ann", "background", 4, 'it says "grass",\nand sky', "n01", 3),
        Judgement(1, 2, "ben", None),
        Judgement(0, 1, "ben", "main_object"),
    )
    assert verdicts.write_csv(tmp_path / "out.csv") == 2
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == f"{HEAD},Answer.automatic"
    other = Verdicts(tmp_path / "other.sqlite", known, "e1")
    assert other.read_csv(tmp_path / "out.csv") == 2
    mine = [replace(j, submitted=0) for j in verdicts.all() if j.answer]
    assert [replace(j, submitted=0) for j in other.all()] == mine


def test_reading_a_csv_file_again_changes_nothing(verdicts: Verdicts, tmp_path: Path):
    full = Judgement(1, 2, "ann", "background", 4, "grass", "cow", 3, "e1", "correct", (5, 1), 10.5,
                     12.25)  # fmt: skip
    others = [replace(full, annotator="ben", confidence=None), replace(full, annotator="cid")]
    verdicts.add(full, *others)
    verdicts.write_csv(tmp_path / "out.csv")
    assert verdicts.read_csv(tmp_path / "out.csv") == 3
    assert verdicts.all() == [full, *others]
    (tmp_path / "out.csv").write_text(
        f"{HEAD}\nann,,1,2,,main,4,grass\nben,,1,2,,background,2,grass\n"
        "cid,,1,2,,background,4,hay\n"
    )
    verdicts.read_csv(tmp_path / "out.csv")
    found = [(j.answer, j.confidence, j.reason, j.images, j.started) for j in verdicts.all()]
    assert found == [("main_object", 4, "grass", (), None), ("background", 2, "grass", (), None),
                     ("background", 4, "hay", (), None)]  # fmt: skip


def test_automatic_answers_leave_and_come_back_as_such(verdicts: Verdicts, tmp_path: Path):
    verdicts.add(Judgement(0, 1, "masks", "background"), Judgement(0, 2, "ann", "main_object"))
    verdicts.write_csv(tmp_path / "out.csv")
    other = Verdicts(tmp_path / "other.sqlite", known, "e1")
    other.read_csv(tmp_path / "out.csv")
    assert {p: v.automatic for p, v in other.aggregate().pairs.items()} == {
        (0, 1): True, (0, 2): False
    }  # fmt: skip


def test_names_in_a_csv_file_are_those_of_people_though_they_have_blanks(
    verdicts: Verdicts, tmp_path: Path
):
    verdicts.add(Judgement(0, 1, "bob", "background"))
    (tmp_path / "in.csv").write_text(f"{HEAD}\n bob ,,0,1,1,main,3,x\n")
    verdicts.read_csv(tmp_path / "in.csv")
    assert [(j.annotator, j.answer) for j in verdicts.all()] == [("bob", "main_object")]


def test_csv_holds_the_answers_that_count(tmp_path: Path):
    path = tmp_path / "verdicts.sqlite"
    Verdicts(path, None, "e1").add(*said("b", (0, 1)), *said("b", (7, 1)))
    Verdicts(path, None, "e2").add(*said("mm", (0, 2)))
    verdicts = Verdicts(path, known, "e1")
    assert verdicts.write_csv(tmp_path / "out.csv") == 1
    other = Verdicts(tmp_path / "other.sqlite", known, "e2")
    other.read_csv(tmp_path / "out.csv")
    assert [j.pair for j in other.all()] == [(0, 1)]


def test_ranks_in_a_csv_file_must_be_those_of_the_audit(tmp_path: Path):
    ranks = {(0, 1): 1, (0, 2): 2, (0, 3): None}

    def rank(c: int, feature: int) -> int | None:
        return ranks[c, feature]

    verdicts = Verdicts(tmp_path / "verdicts.sqlite", known, "e1", rank)
    file = tmp_path / "in.csv"
    for feature, number, match in (
        (2, "3", "number 3 in the file and number 2 in this audit"),
        (3, "1", "number 1 in the file and one without a rank"),
    ):
        file.write_text(
            f"{HEAD}\nA,,0,1,1,background,3,x\nA,,0,{feature},{number},background,3,x\n"
        )
        with pytest.raises(DataError, match=f"line 3: feature {feature} of class 0 is {match}"):
            verdicts.read_csv(file)
        assert verdicts.all() == []
    file.write_text(f"{HEAD}\nA,,0,1,1,background,3,x\nA,,0,2,,background,3,x\n")
    assert verdicts.read_csv(file) == 2
    ranks[0, 1], ranks[0, 2] = 2, 1  # with other training images
    verdicts.write_csv(tmp_path / "out.csv")
    assert verdicts.read_csv(tmp_path / "out.csv") == 2


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1", "-2+3", "@SUM(A1)", "\tx", "'=1", "'quoted'"]
)
def test_csv_holds_no_formulas(verdicts: Verdicts, tmp_path: Path, text: str):
    verdicts.add(Judgement(1, 2, f"{text} said", "background", 4, text, text))
    verdicts.write_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        _, row = csv.reader(file)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    other = Verdicts(tmp_path / "other.sqlite", known, "e1")
    other.read_csv(tmp_path / "out.csv")
    (back,) = other.all()
    name = f"{text} said".strip()
    assert (back.annotator, back.reason, back.class_name) == (name, text, text)


def test_csv_in_the_published_short_words(verdicts: Verdicts, tmp_path: Path):
    (tmp_path / "in.csv").write_text(
        "WorkerId,Input.class_index,Input.feature_index,Answer.main,Answer.confidence,"
        "Answer.reasons,more\nA1,0,1,main,5,x,1\nA2,0,1,separate,,x,1\n"
    )
    assert verdicts.read_csv(tmp_path / "in.csv") == 2
    assert [j.answer for j in verdicts.all()] == ["main_object", "separate_object"]
    assert [j.confidence for j in verdicts.all()] == [5, None]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("A2,,0,77,1,background,3,x", "line 3: class 0 has no feature 77"),
        ("A2,,0,2,1,backgrnd,3,x", "line 3: there is no answer 'backgrnd'"),
        ("A2,,0,2,1,,3,x", "line 3: there is no answer ''"),
        ("A2,,zero,2,1,background,3,x", "line 3: class, feature, rank and confidence must be"),
        ("A2,,0,2,99999999999999999999,background,3,x", "line 3: class, feature, rank and"),
        ("A2,,0,2,1,background,9,x", "line 3: confidence is 1 to 5; got 9"),
        (",,0,2,1,background,3,x", "line 3: an answer needs the name"),
        ("masks,,0,2,1,background,3,x", "line 3: 'masks' stands for answers that no person gave"),
        (" text ,,0,2,1,background,3,x", "line 3: 'text' stands for answers that no person gave"),
        (" A1 ,,0,1,1,background,3,x", "answers 1 and 2 are both by A1 about class 0, feature 1"),
        ("A1,,0,1,1,background,3,x", "answers 1 and 2 are both by A1 about class 0, feature 1"),
        ("A2,,0,2,1", "line 3: there is no answer ''"),
    ],
)
def test_one_bad_row_reads_nothing(verdicts: Verdicts, tmp_path: Path, row: str, match: str):
    file = tmp_path / "in.csv"
    file.write_text(f"{HEAD}\nA1,,0,1,1,background,3,x\n{row}\n")
    with pytest.raises(DataError, match=match):
        verdicts.read_csv(file)
    assert verdicts.all() == []


def test_csv_files_that_cannot_be_read(verdicts: Verdicts, tmp_path: Path):
    with pytest.raises(DataError, match="there is no file"):
        verdicts.read_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        verdicts.read_csv(tmp_path)
    (tmp_path / "short.csv").write_text("WorkerId,Answer.main\nA,main\n")
    with pytest.raises(DataError, match=r"no column Input\.class_index, Input\.feature_index"):
        verdicts.read_csv(tmp_path / "short.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        verdicts.read_csv(tmp_path / "bytes.csv")
