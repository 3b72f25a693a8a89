"""What people say about suspicious labels: one answer for each image and person, in SQLite."""

from __future__ import annotations

import csv
import io
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from truecue.audit.verdicts import check_annotator, check_answer, safe_cell
from truecue.errors import DataError, StorageError

Finding = Literal["label_wrong", "several_objects", "fine"]
"""The label names something else than what is seen; the label is one of several things; neither."""
FINDINGS: tuple[Finding, ...] = get_args(Finding)
COLUMNS = ("split", "image", "annotator", "finding", "submitted")
TIMEOUT = 10.0
"""Seconds to wait for another process that is writing."""
_TABLE = """
CREATE TABLE reviews (
    split TEXT NOT NULL, images TEXT NOT NULL, image INTEGER NOT NULL, annotator TEXT NOT NULL,
    finding TEXT NOT NULL, submitted REAL NOT NULL, UNIQUE (split, images, image, annotator)
)
"""


class Review(NamedTuple):
    """One person's answer about one image."""

    split: str
    image: int
    """Position in the split."""
    annotator: str
    finding: Finding
    submitted: float
    """Seconds since 1970."""


class Reviews:
    """The file of answers about labels; made at the first one.

    An answer is about a position in a split, and so about these images and no others: those about
    earlier images of the split stay in the file, and count again when the images come back.

    Args:
        path: of the file.
        images: by split, a text that changes when its images do (`digest_of_set`).
    """

    def __init__(self, path: Path, images: Mapping[str, str]):
        self.path, self.images = path, dict(images)

    def add(self, split: str, image: int, annotator: str, finding: str) -> None:
        """Store an answer; an earlier one by the same person about the same image is replaced.

        Raises:
            DataError: there is no such answer, or nobody gave it.
            StorageError: the file could not be written.
        """
        check_answer(finding, FINDINGS)
        check_annotator(annotator)
        with self._open() as db, db:
            db.execute(
                "INSERT INTO reviews VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (split, images, image, annotator)"
                " DO UPDATE SET finding = excluded.finding, submitted = excluded.submitted",
                (split, self.images[split], image, annotator, finding, time.time()),
            )

    def all(self) -> list[Review]:
        """All answers about these images, by split, image and annotator."""
        if not self.path.exists():
            return []
        with self._open() as db:
            rows = db.execute(
                f"SELECT images, {', '.join(COLUMNS)} FROM reviews ORDER BY split, image, annotator"
            )
            return [Review(*row) for images, *row in rows if images == self.images.get(row[0])]

    def csv(self) -> str:
        """All answers as the text of a CSV file, safe to open in a spreadsheet."""
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(r._replace(annotator=safe_cell(r.annotator)) for r in self.all())
        return file.getvalue()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as db:
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    self._make_table(db)
                yield db
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise DataError(f"{self.path} is not a file of answers: {error}") from None
            raise StorageError(
                f"{self.path} could not be read or written: {error}; answers stored before are"
                " intact"
            ) from error

    def _make_table(self, db: sqlite3.Connection) -> None:
        """Make the table, unless another process has just done so.

        Answers of an earlier version did not say which images they are about: it was about these.
        """
        db.execute("PRAGMA journal_mode = WAL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0]:
                return
            rows = []
            if list(db.execute("PRAGMA table_info(reviews)")):
                rows = list(db.execute(f"SELECT {', '.join(COLUMNS)} FROM reviews"))
                db.execute("DROP TABLE reviews")
            db.execute(_TABLE)
            db.executemany(
                "INSERT INTO reviews VALUES (?, ?, ?, ?, ?, ?)",
                [(split, self.images.get(split, ""), *rest) for split, *rest in rows],
            )
            db.execute("PRAGMA user_version = 1")
