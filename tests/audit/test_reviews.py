"""Answers about labels."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from truecue.audit.reviews import Reviews
from truecue.errors import DataError, StorageError

IMAGES = {"val": "aa", "test": "bb"}


def test_a_person_has_one_answer_about_an_image(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "labels.sqlite", IMAGES)
    assert reviews.all() == []
    assert not reviews.path.exists()
    reviews.add("test", 7, "Ada", "fine")
    reviews.add("test", 7, "Ada", "label_wrong")
    reviews.add("test", 7, "Grace", "fine")
    reviews.add("val", 7, "Ada", "several_objects")
    found = [(r.split, r.image, r.annotator, r.finding) for r in reviews.all()]
    assert found == [("test", 7, "Ada", "label_wrong"), ("test", 7, "Grace", "fine"),
                     ("val", 7, "Ada", "several_objects")]  # fmt: skip
    assert reviews.csv().splitlines()[0] == "split,image,annotator,finding,submitted"
    assert len(reviews.csv().splitlines()) == 4


def test_answers_about_other_images_are_kept_and_not_shown(tmp_path: Path) -> None:
    path, others = tmp_path / "labels.sqlite", {"val": "aa", "test": "cc"}
    Reviews(path, IMAGES).add("val", 1, "Ada", "fine")
    Reviews(path, IMAGES).add("test", 7, "Ada", "label_wrong")
    Reviews(path, others).add("test", 7, "Ada", "fine")
    found = [(r.split, r.image, r.finding) for r in Reviews(path, others).all()]
    assert found == [("test", 7, "fine"), ("val", 1, "fine")]
    found = [(r.split, r.image, r.finding) for r in Reviews(path, IMAGES).all()]
    assert found == [("test", 7, "label_wrong"), ("val", 1, "fine")]


def test_answers_of_an_earlier_version_are_about_the_images_of_then(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE reviews (split TEXT NOT NULL, image INTEGER NOT NULL, annotator TEXT NOT"
            " NULL, finding TEXT NOT NULL, submitted REAL NOT NULL,"
            " UNIQUE (split, image, annotator))"
        )
        db.execute("INSERT INTO reviews VALUES ('test', 7, 'Ada', 'fine', 5.0)")
    db.close()
    assert Reviews(path, IMAGES).all() == [("test", 7, "Ada", "fine", 5.0)]
    assert Reviews(path, {"test": "cc"}).all() == []
    assert Reviews(path, IMAGES).all() == [("test", 7, "Ada", "fine", 5.0)]


def test_the_csv_holds_no_formulas(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "labels.sqlite", IMAGES)
    reviews.add("test", 7, "=cmd()", "fine")
    assert ",7,'=cmd(),fine," in reviews.csv()


def test_answers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "labels.sqlite", IMAGES)
    with pytest.raises(DataError, match="did you mean 'label_wrong'"):
        reviews.add("test", 7, "Ada", "label_wron")
    with pytest.raises(DataError, match="needs the name"):
        reviews.add("test", 7, " ", "fine")
    assert reviews.all() == []


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.sqlite").write_text("no database at all, but long enough to be read as one")
    with pytest.raises(DataError, match="is not a file of answers"):
        Reviews(tmp_path / "labels.sqlite", IMAGES).all()
    with pytest.raises(StorageError, match="could not be read or written"):
        Reviews(tmp_path / "absent" / "labels.sqlite", IMAGES).add("test", 1, "Ada", "fine")


def test_many_write_at_once(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "labels.sqlite", IMAGES)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: reviews.add("test", i % 50, f"p{i // 50}", "fine"), range(400)))
    assert len(reviews.all()) == 400
