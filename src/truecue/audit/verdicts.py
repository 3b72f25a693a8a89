"""What people say about features: the answers in SQLite, CSV in and out, and the verdicts.

Several processes may write at once. An annotator has one answer for each pair of a class and a
feature of one encoder; a new one takes the place of the old one. Answers about another encoder's
features stay beside it, and count again where an audit is of that one again.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from truecue.atomic import atomic
from truecue.config import suggest
from truecue.errors import DataError, StorageError
from truecue.metrics.raters import cohen_kappa, fleiss_kappa

Answer = Literal["main_object", "separate_object", "background"]
"""What the highlighted region mainly is; the last two are votes for spurious."""
Verdict = Literal["core", "spurious", "undecided"]

MASKS, TEXT = "masks", "text"
AUTOMATIC = frozenset((MASKS, TEXT))
"""Annotators that are no people; their answers count where no person has given one."""

SCHEMA = 3
"""Version of the tables; older files get what they lack, and a newer one is refused."""
TIMEOUT = 10.0
"""Seconds to wait for another process that is writing."""
COLUMNS = (
    "WorkerId", "Input.wordnet_id", "Input.class_index", "Input.feature_index",
    "Input.feature_rank", "Answer.main", "Answer.confidence", "Answer.reasons",
)  # fmt: skip
"""Columns of the published file of answers, in its order."""
AUTOMATICALLY = "Answer.automatic"
"""A further column: 1 where an annotator that is no person gave the answer."""

_ANSWERS: tuple[Answer, ...] = get_args(Answer)
_RANKS = range(1, 2**31)
_ANY = 2**62  # more than the number of any feature
_SHORT: dict[str, Answer] = {"main": "main_object", "separate": "separate_object"}
_ANSWER = """
    class INTEGER NOT NULL, feature INTEGER NOT NULL, annotator TEXT NOT NULL,
    answer TEXT CHECK (answer IN ('main_object', 'separate_object', 'background')),
    confidence INTEGER CHECK (confidence BETWEEN 1 AND 5),
    reason TEXT NOT NULL, class_name TEXT NOT NULL, rank INTEGER, encoder TEXT NOT NULL,
    group_rule TEXT NOT NULL, images TEXT NOT NULL, started REAL, submitted REAL NOT NULL
"""
_FEATURES = f"""
CREATE TABLE answers ({_ANSWER}, UNIQUE (class, feature, annotator));
CREATE TABLE gold (
    class INTEGER NOT NULL, feature INTEGER NOT NULL, answer TEXT NOT NULL,
    UNIQUE (class, feature)
);
"""
_DIRECTIONS = """
CREATE TABLE directions (
    direction TEXT NOT NULL, annotator TEXT NOT NULL,
    answer TEXT NOT NULL CHECK (answer IN ('core', 'spurious', 'unclear')),
    note TEXT NOT NULL, name TEXT NOT NULL, generator TEXT NOT NULL, vector TEXT NOT NULL,
    classifier TEXT NOT NULL, shown TEXT NOT NULL, submitted REAL NOT NULL,
    UNIQUE (direction, annotator)
);
"""
_BY_SUBJECT = f"""
ALTER TABLE answers RENAME TO old_answers;
CREATE TABLE answers ({_ANSWER}, UNIQUE (class, feature, annotator, encoder));
INSERT INTO answers SELECT * FROM old_answers;
DROP TABLE old_answers;
ALTER TABLE gold RENAME TO old_gold;
CREATE TABLE gold (
    class INTEGER NOT NULL, feature INTEGER NOT NULL, encoder TEXT NOT NULL, answer TEXT NOT NULL,
    UNIQUE (class, feature, encoder)
);
INSERT INTO gold SELECT class, feature, '', answer FROM old_gold;
DROP TABLE old_gold;
"""
_VERSIONS = (_FEATURES, _DIRECTIONS, _BY_SUBJECT)
"""What each version of the tables changed."""
MINE = "encoder = CASE WHEN feature < ? THEN ? ELSE ? END"
"""Of a row, that it is about a `Subject`, whose three values it takes."""


def check_answer(answer: str, known: Sequence[str]) -> None:
    """Refuse what is not one of the answers there are.

    Raises:
        DataError: it is not.
    """
    if answer not in known:
        raise DataError(
            f"there is no answer '{answer}'{suggest(answer, list(known))} ({', '.join(known)})"
        )


def check_person(name: str) -> None:
    """Refuse a person's name that stands for answers that nobody gave.

    Raises:
        DataError: it does.
    """
    if name in AUTOMATIC:
        raise DataError(f"'{name}' stands for answers that no person gave; take another name")


def check_annotator(annotator: str) -> None:
    """Refuse an answer that nobody gave.

    Raises:
        DataError: the name is empty.
    """
    if not annotator.strip():
        raise DataError("an answer needs the name of the person who gave it")


class Subject(NamedTuple):
    """What answers are about, as texts: with the same text, "feature 3 of class 0" is the same."""

    first: int
    """Number of the first component; what has a smaller one is a feature or another cue."""
    features: str
    components: str

    def of(self, feature: int) -> str:
        """The text for one feature."""
        return self.features if feature < self.first else self.components


@dataclass(frozen=True)
class Judgement:
    """One person's answer about one feature of one class.

    Raises:
        DataError: the answer is of no known kind, the confidence is not 1 to 5, or the annotator
            has no name.
    """

    class_index: int
    feature: int
    annotator: str
    answer: Answer | None
    """None: skipped."""
    confidence: int | None = None
    """1 (not at all) to 5 (completely); stored, not used for verdicts."""
    reason: str = ""
    class_name: str = ""
    rank: int | None = None
    """Of the feature among the class's, 1 the most important."""
    encoder: str = ""
    """What the feature is of, see `Audit.subject`; empty: what the file is opened for."""
    group_rule: str = ""
    images: tuple[int, ...] = ()
    """Positions of the training images that were shown."""
    started: float | None = None
    """Seconds since 1970."""
    submitted: float | None = None
    """Seconds since 1970; None: when it is stored."""

    def __post_init__(self) -> None:
        check_annotator(self.annotator)
        if self.answer is not None:
            check_answer(self.answer, _ANSWERS)
        if self.confidence is not None and self.confidence not in range(1, 6):
            raise DataError(f"confidence is 1 to 5; got {self.confidence}")

    @property
    def pair(self) -> tuple[int, int]:
        """Class and feature."""
        return self.class_index, self.feature


class PairVerdict(NamedTuple):
    """What the answers about one pair say together."""

    verdict: Verdict
    kind: str
    """Of what is spurious: `background`, `separate`, or `ambiguous`; empty otherwise."""
    answers: int
    """Skipped ones not counted."""
    spurious_votes: int
    agreement: float
    """Share of the answers that are on the larger side."""
    automatic: bool = False
    """Whether no person has answered: see `truecue.audit.automatic`."""

    @property
    def said(self) -> str:
        """The verdict in words, marked where no person has given it."""
        return f"{self.verdict} (automatic)" if self.automatic else self.verdict


class Aggregate(NamedTuple):
    """All verdicts, and how far annotators agree."""

    pairs: dict[tuple[int, int], PairVerdict]
    fleiss: float
    """Kappa of core against spurious, over pairs with two answers; nan without."""
    cohen: dict[tuple[str, str], float]
    """The same for every two annotators who share a pair."""
    gold: dict[str, tuple[int, int]]
    """For each annotator right answers and all answers to items whose answer is known."""

    def spurious(self) -> dict[int, set[int]]:
        """The spurious features of each class that has one."""
        found: dict[int, set[int]] = {}
        for (c, feature), pair in self.pairs.items():
            if pair.verdict == "spurious":
                found.setdefault(c, set()).add(feature)
        return found


class Verdicts:
    """The file of answers.

    Args:
        path: made at the first answer.
        exists: says of a (class, feature) why there can be no answer about it, in words; empty:
            there can.
        subject: what features are of, one text where there are no components; answers that name
            none get it, and those about others are kept and do not count.
        rank: the rank of a (class, feature) that there is, None for other cues; None: ranks are not
            compared.

    Raises:
        DataError: the file is no database of answers, or was written by a later version.
    """

    def __init__(
        self,
        path: Path,
        exists: Callable[[int, int], str] | None = None,
        subject: Subject | str = "",
        rank: Callable[[int, int], int | None] | None = None,
    ):
        self.path, self._exists, self._rank = path, exists, rank
        self.subject = Subject(0, subject, subject) if isinstance(subject, str) else subject
        if path.exists():
            with self.connect() as db, db:
                db.execute("SELECT 1 FROM answers LIMIT 1")
                self._adopt(db)

    def _adopt(self, db: sqlite3.Connection) -> None:
        """Say what rows are about that were written before schema 3.

        Answers about features had the text of the components where there were some. Gold items had
        none: they are taken to be about what the file is opened for.
        """
        first, features, components = self.subject
        old = "encoder = ? AND feature < ?"
        for table, text, below in (("answers", components, first), ("gold", "", _ANY)):
            if text == features:  # which is what the rows have that are wanted
                continue
            if db.execute(f"SELECT 1 FROM {table} WHERE {old} LIMIT 1", (text, below)).fetchone():
                db.execute(
                    f"UPDATE OR IGNORE {table} SET {MINE} WHERE {old}",
                    (*self.subject, text, below),
                )

    def add(self, *judgements: Judgement) -> None:
        """Store answers, all or none. An annotator's earlier answer about the same is replaced.

        Raises:
            DataError: one is about a feature that there is not; nothing is stored.
            StorageError: the file could not be written, or another process kept it for 10 s.
        """
        for judgement in judgements:
            self._check(judgement)
        self._store(judgements)

    def all(self) -> list[Judgement]:
        """All answers, skipped ones and those about other encoders too.

        They are in the order of class, feature and annotator.
        """
        if not self.path.exists():
            return []
        with self.connect() as db:
            return [
                Judgement(**row | {"images": tuple(json.loads(row["images"]))})
                for row in _rows(
                    db,
                    "SELECT class AS class_index, feature, annotator, answer, confidence, reason,"
                    " class_name, rank, encoder, group_rule, images, started, submitted"
                    " FROM answers ORDER BY class, feature, annotator, submitted",
                )
            ]

    def remove(self, class_index: int, feature: int, annotator: str) -> bool:
        """Take an answer back; whether there was one."""
        if not self.path.exists():
            return False
        with self.connect() as db, db:
            done = db.execute(
                f"DELETE FROM answers WHERE class = ? AND feature = ? AND annotator = ? AND {MINE}",
                (class_index, feature, annotator, *self.subject),
            )
            return done.rowcount > 0

    def set_gold(self, class_index: int, feature: int, answer: Answer) -> None:
        """Say the right answer about a pair, to check annotators by."""
        self._check(Judgement(class_index, feature, "gold", answer))
        with self.connect() as db, db:
            db.execute(
                "INSERT INTO gold (class, feature, encoder, answer) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (class, feature, encoder) DO UPDATE SET answer = excluded.answer",
                (class_index, feature, self.subject.of(feature), answer),
            )

    def remove_gold(self, class_index: int, feature: int) -> bool:
        """No longer say the right answer about a pair; whether it was said."""
        if not self.path.exists():
            return False
        with self.connect() as db, db:
            done = db.execute(
                f"DELETE FROM gold WHERE class = ? AND feature = ? AND {MINE}",
                (class_index, feature, *self.subject),
            )
            return done.rowcount > 0

    def gold(self) -> dict[tuple[int, int], str]:
        """Pairs whose right answer is known, with it."""
        if not self.path.exists():
            return {}
        with self.connect() as db:
            rows = db.execute(
                f"SELECT class, feature, answer FROM gold WHERE {MINE} ORDER BY class, feature",
                self.subject,
            )
            return {(c, f): answer for c, f, answer in rows}

    def counted(self) -> list[Judgement]:
        """The answers that count: about this encoder, and about features that there are."""
        mine = [j for j in self.all() if j.encoder == self.subject.of(j.feature)]
        # an audit that was made again with fewer features keeps the answers about the others
        there = {
            pair for pair in {j.pair for j in mine} if not self._exists or not self._exists(*pair)
        }
        return [j for j in mine if j.pair in there]

    def aggregate(self) -> Aggregate:
        """Verdicts of all pairs that have been answered and that there are, of this encoder."""
        return aggregate(self.counted(), self.gold())

    def read_csv(self, path: Path) -> int:
        """Add the answers of a CSV file with the columns of the published one, all or none.

        Columns that it has besides are left alone; `Input.wordnet_id` and `Input.feature_rank` may
        be absent. Where the rank is given, it must be that of the audit: answers name no encoder.
        An answer that is there already keeps what is known of it besides, such as its time. Answers
        of annotators that are no people are read where `write_csv` wrote them, which says so.

        Returns:
            Answers read.

        Raises:
            DataError: a column is absent, or a row cannot be used; the message has its number.
        """
        judgements = self.parse_csv(path)
        self._store(judgements, keep_equal=True)
        return len(judgements)

    def parse_csv(self, path: Path) -> list[Judgement]:
        """The answers of a CSV file as `read_csv` reads them; nothing is stored.

        Raises:
            DataError: see `read_csv`.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                found = reader.fieldnames or []
                needed = [c for c in COLUMNS if c not in (COLUMNS[1], COLUMNS[4])]
                absent = [c for c in needed if c not in found]
                if absent:
                    raise DataError(
                        f"{path} has no column {', '.join(absent)}; the columns of a file of"
                        f" answers are {', '.join(COLUMNS)}"
                    )
                judgements = [
                    self._from_row(row, f"{path}, line {reader.line_num}") for row in reader
                ]
        except FileNotFoundError:
            raise DataError(f"there is no file {path}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read as CSV: {error}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        seen: dict[tuple[int, int, str], int] = {}
        for number, judgement in enumerate(judgements, 1):
            known = (*judgement.pair, judgement.annotator)
            if known in seen:
                raise DataError(
                    f"{path}: answers {seen[known]} and {number} are both by"
                    f" {judgement.annotator} about class {known[0]}, feature {known[1]}; keep one"
                )
            seen[known] = number
        return judgements

    def write_csv(self, path: Path) -> int:
        """Write the answers that count, skipped ones left out; how many.

        The columns are the published ones and `Answer.automatic`.
        Text that a spreadsheet would take for a formula is written as `safe_cell` does.
        """
        rows = [j for j in self.counted() if j.answer is not None]
        with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*COLUMNS, AUTOMATICALLY))
            for j in rows:
                rank = self._rank(*j.pair) if self._rank else j.rank  # importance may have changed
                numbers = ("" if v is None else v for v in (rank, j.answer, j.confidence))
                who, name, why = map(safe_cell, (j.annotator, j.class_name, j.reason))
                automatic = 1 if j.annotator in AUTOMATIC else ""
                writer.writerow((who, name, *j.pair, *numbers, why, automatic))
        return len(rows)

    def _from_row(self, row: dict[str, str | None], where: str) -> Judgement:
        try:
            answer = (row["Answer.main"] or "").strip()
            confidence, rank = row["Answer.confidence"], row.get("Input.feature_rank")
            judgement = Judgement(
                class_index=int(row["Input.class_index"] or ""),
                feature=int(row["Input.feature_index"] or ""),
                annotator=_as_written(row["WorkerId"] or "").strip(),
                answer=_SHORT.get(answer, answer),  # type: ignore[arg-type]
                confidence=int(confidence) if confidence else None,
                reason=_as_written(row["Answer.reasons"] or ""),
                class_name=_as_written(row.get("Input.wordnet_id") or ""),
                rank=int(rank) if rank else None,
            )
            if judgement.rank is not None and judgement.rank not in _RANKS:
                raise ValueError
            if (row.get(AUTOMATICALLY) or "").strip() != "1":
                check_person(judgement.annotator)
            self._check(judgement)
            self._compare_rank(judgement)
        except DataError as error:
            raise DataError(f"{where}: {error}; nothing was read") from None
        except ValueError:
            raise DataError(
                f"{where}: class, feature, rank and confidence must be whole numbers; nothing was"
                " read"
            ) from None
        return judgement

    def _check(self, judgement: Judgement) -> None:
        reason = self._exists(*judgement.pair) if self._exists else ""
        if reason:
            raise DataError(reason)

    def _compare_rank(self, judgement: Judgement) -> None:
        """Refuse an answer whose feature is another one here, or may be."""
        if self._rank is None or judgement.rank is None:
            return
        here = self._rank(*judgement.pair)
        if here != judgement.rank:
            c, feature = judgement.pair
            number = "one without a rank" if here is None else f"number {here}"
            raise DataError(
                f"feature {feature} of class {c} is number {judgement.rank} in the file and"
                f" {number} in this audit, so that the file may be about another encoder; if it is"
                f" not, leave out {COLUMNS[4]}"
            )

    def _store(self, judgements: Sequence[Judgement], *, keep_equal: bool = False) -> None:
        now = time.time()
        values = []
        for judgement in judgements:
            row = asdict(judgement)
            row["images"] = json.dumps(judgement.images)
            row["encoder"] = judgement.encoder or self.subject.of(judgement.feature)
            row["submitted"] = now if judgement.submitted is None else judgement.submitted
            values.append(row)
        names = [field.name for field in fields(Judgement)]
        columns = ["class" if name == "class_index" else name for name in names]
        updates = ", ".join(f"{c} = excluded.{c}" for c in columns[3:])
        if keep_equal:
            said = ("answer", "confidence", "reason")
            updates += f" WHERE {' OR '.join(f'{c} IS NOT excluded.{c}' for c in said)}"
        with self.connect() as db, db:
            db.executemany(
                f"INSERT INTO answers ({', '.join(columns)})"
                f" VALUES ({', '.join(':' + name for name in names)})"
                f" ON CONFLICT (class, feature, annotator, encoder)"
                f" DO UPDATE SET {updates}",
                values,
            )

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file, which is made where it is absent.

        Raises:
            DataError: it is no file of answers, or of a later version.
            StorageError: it cannot be read or written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version < SCHEMA:
                    self._bring_up_to_date(db)
                elif version > SCHEMA:
                    raise DataError(
                        f"{self.path} was written by a later version of truecue (schema {version};"
                        f" this one reads {SCHEMA}): use that version"
                    )
                db.execute("PRAGMA synchronous = NORMAL")
                yield db
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error) or "no such table" in str(error):
                raise DataError(f"{self.path} is not a file of answers: {error}") from None
            raise StorageError(
                f"{self.path} could not be read or written: {error}; answers stored before are"
                " intact"
            ) from error
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"{self.path} could not be made: {error.strerror}") from error

    def _bring_up_to_date(self, db: sqlite3.Connection) -> None:
        """Make the tables that the file lacks, unless another process has just done so."""
        db.execute("PRAGMA journal_mode = WAL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise DataError(f"{self.path} is a database of something else than answers")
            for tables in _VERSIONS[version:]:
                for statement in tables.split(";")[:-1]:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA}")


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def safe_cell(text: str) -> str:
    """Text for a CSV file, with an apostrophe before what a spreadsheet would calculate.

    Anybody may answer, and `=` at the beginning of an answer would be code on the machine of
    whoever opens the file. `read_csv` takes the apostrophe off again.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _as_written(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _rows(db: sqlite3.Connection, query: str) -> Iterator[dict[str, Any]]:
    cursor = db.execute(query)
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def aggregate(
    judgements: Sequence[Judgement], gold: dict[tuple[int, int], str] | None = None
) -> Aggregate:
    """Verdicts from answers: spurious where the strict majority says so, whatever the confidence.

    With five answers that is three of five. A tie is undecided: ask again. Automatic answers count
    only for pairs that no person has answered.

    Args:
        judgements: answers; skipped ones count for nothing.
        gold: right answers by pair, where they are known.

    Source: Singla & Feizi 2022 (arXiv 2110.04301); Moayeri et al. 2023 (arXiv 2212.02648).
    """
    by_pair: dict[tuple[int, int], list[Judgement]] = {}
    by_person: dict[str, dict[Any, str]] = {}
    gold, right = gold or {}, dict[str, tuple[int, int]]()
    for j in judgements:
        if j.answer is None:
            continue
        by_pair.setdefault(j.pair, []).append(j)
        side = "core" if j.answer == "main_object" else "spurious"
        by_person.setdefault(j.annotator, {})[j.pair] = side
        if j.pair in gold:
            hits, n = right.get(j.annotator, (0, 0))
            right[j.annotator] = (hits + (j.answer == gold[j.pair]), n + 1)
    pairs = {pair: _verdict(found) for pair, found in sorted(by_pair.items())}
    counts = torch.tensor([[v.spurious_votes, v.answers - v.spurious_votes]
                           for v in pairs.values()]).reshape(-1, 2)  # fmt: skip
    people = sorted(by_person)
    cohen = {
        (a, b): cohen_kappa(by_person[a], by_person[b])
        for i, a in enumerate(people)
        for b in people[i + 1 :]
        if by_person[a].keys() & by_person[b].keys()
    }
    return Aggregate(pairs, fleiss_kappa(counts), cohen, right)


def _verdict(found: list[Judgement]) -> PairVerdict:
    people = [j for j in found if j.annotator not in AUTOMATIC]
    automatic, found = not people, people or found
    n = len(found)
    background = sum(j.answer == "background" for j in found)
    separate = sum(j.answer == "separate_object" for j in found)
    votes = background + separate
    agreement = max(votes, n - votes) / n
    if 2 * votes == n:
        return PairVerdict("undecided", "", n, votes, agreement, automatic)
    if 2 * votes < n:
        return PairVerdict("core", "", n, votes, agreement, automatic)
    kind = "ambiguous"
    if 2 * background > n:
        kind = "background"
    elif 2 * separate > n:
        kind = "separate"
    return PairVerdict("spurious", kind, n, votes, agreement, automatic)
