"""What people say about directions of a generator, in the same file as answers about features.

An annotator has one answer about each direction; a new one takes the place of the old one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from truecue.audit.verdicts import (
    Verdict,
    Verdicts,
    check_annotator,
    check_answer,
    safe_cell,
)

DirectionAnswer = Literal["core", "spurious", "unclear"]
"""What changes along it is part of the class; it is not; the pictures do not say."""
ANSWERS: tuple[DirectionAnswer, ...] = get_args(DirectionAnswer)
COLUMNS = (
    "direction", "name", "annotator", "answer", "note", "generator", "classifier", "shown",
    "vector", "submitted",
)  # fmt: skip


@dataclass(frozen=True)
class ProbedDirection:
    """A direction that was shown, and with what."""

    name: str
    generator: str
    """The generator's digest."""
    vector: tuple[float, ...]
    """Of length 1."""
    classifier: str = ""
    """Digest of the classifier whose answers were shown."""
    shown: str = ""
    """Space, seed, codes and steps of the pictures, as JSON."""

    @property
    def key(self) -> str:
        """Names the direction, in 16 hexadecimal digits: by name, generator and vector.

        The classifier does not count: whether a cue is part of the class is the same for all.
        """
        told = hashlib.blake2b(json.dumps([self.name, self.generator]).encode(), digest_size=8)
        told.update(struct.pack(f"<{len(self.vector)}f", *self.vector))
        return told.hexdigest()


class DirectionJudgement(NamedTuple):
    """One person's answer about one direction."""

    direction: ProbedDirection
    annotator: str
    answer: DirectionAnswer
    note: str
    submitted: float
    """Seconds since 1970."""


class DirectionAnswers:
    """Answers about directions.

    Args:
        verdicts: the file that they are kept in.
    """

    def __init__(self, verdicts: Verdicts):
        self._verdicts = verdicts

    def add(self, direction: ProbedDirection, annotator: str, answer: str, note: str = "") -> None:
        """Store an answer; an earlier one by the same person about the direction is replaced.

        Raises:
            DataError: there is no such answer, or nobody gave it.
            StorageError: the file could not be written.
        """
        check_answer(answer, ANSWERS)
        check_annotator(annotator)
        d = direction
        row = (d.key, annotator, answer, note, d.name, d.generator, json.dumps(d.vector),
               d.classifier, d.shown, time.time())  # fmt: skip
        with self._verdicts.connect() as db, db:
            db.execute(
                "INSERT OR REPLACE INTO directions (direction, annotator, answer, note, name,"
                " generator, vector, classifier, shown, submitted)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def all(self) -> list[DirectionJudgement]:
        """All answers, the first ones first."""
        if not self._verdicts.path.exists():
            return []
        with self._verdicts.connect() as db:
            rows: list[tuple[Any, ...]] = db.execute(
                "SELECT name, generator, vector, classifier, shown, annotator, answer, note,"
                " submitted FROM directions ORDER BY submitted"
            ).fetchall()
        return [
            DirectionJudgement(
                ProbedDirection(name, generator, tuple(json.loads(vector)), classifier, shown),
                *rest,
            )
            for name, generator, vector, classifier, shown, *rest in rows
        ]

    def undo(self, annotator: str, among: Sequence[str]) -> str | None:
        """Take back the last answer of a person about directions with these keys; which it was."""
        mine = [j.direction.key for j in self.all() if j.annotator == annotator]
        last = next((key for key in reversed(mine) if key in among), None)
        if last is None:
            return None
        with self._verdicts.connect() as db, db:
            db.execute(
                "DELETE FROM directions WHERE direction = ? AND annotator = ?",
                (last, annotator),
            )
        return last

    def csv(self) -> str:
        """All answers as the text of a CSV file, safe to open in a spreadsheet."""
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for d, annotator, answer, note, submitted in self.all():
            writer.writerow(
                (d.key, safe_cell(d.name), safe_cell(annotator), answer, safe_cell(note),
                 d.generator, d.classifier, d.shown, json.dumps(d.vector), submitted)
            )  # fmt: skip
        return file.getvalue()


def verdict_of(answers: Sequence[DirectionAnswer]) -> Verdict:
    """Core or spurious where the strict majority of all answers says so, otherwise undecided."""
    if 2 * answers.count("core") > len(answers):
        return "core"
    return "spurious" if 2 * answers.count("spurious") > len(answers) else "undecided"
