from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from truecue.data.check import check
from truecue.data.suites import Folder
from truecue.errors import DataError


def test_all_well(zoo: Path) -> None:
    report = check(str(zoo), at_least=2)
    assert report.problems == ()
    assert report.images == 40
    assert report.counts == {
        "train": {"cat": 14, "dog": 14},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 4, "dog": 4},
    }
    assert report.sizes == {"smallest": (12, 12), "median": (12, 12), "largest": (12, 12)}
    assert (report.faults, report.small, report.copies, report.tables) == ((), (), (), ())
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_unreadable_files_are_all_listed(zoo: Path) -> None:
    for i in range(5):
        (zoo / "cat" / f"{i}.png").write_text("no")
    report = check(zoo)
    assert [fault.where for fault in report.faults] == [f"cat/{i}.png" for i in range(5)]
    assert report.images == 35
    assert report.problems[0].startswith("5 images cannot be used: cat/0.png: it is not an image")
    assert report.problems[0].endswith("; and 2 more")
    assert report.to_dict()["faults"][4] == {
        "where": "cat/4.png",
        "reason": "it is not an image of a known kind",
    }


def test_small_classes(zoo: Path, draw: Callable[..., Path]) -> None:
    draw(zoo / "emu" / "1.png", 999)
    report = check(zoo, at_least=3)
    assert set(report.small) == {
        ("train", "emu", 1),
        ("test", "emu", 0),
        ("val", "emu", 0),
        ("val", "cat", 2),
        ("val", "dog", 2),
    }
    assert report.problems == (
        "classes without images: 'emu' in val; 'emu' in test; every split needs every class",
        "classes with fewer than 3 images: 'emu' in train (1); 'cat' in val (2); 'dog' in val (2)",
    )


def test_copies(tmp_path: Path, draw: Callable[..., Path]) -> None:
    for s, split in enumerate(("train", "test")):
        for k, kind in enumerate("ab"):
            for i in range(3):
                draw(tmp_path / "s" / split / kind / f"{i}.png", 100 * s + 10 * k + i)
    root = tmp_path / "s"
    shutil.copy(root / "train/a/0.png", root / "test/a/same.png")
    shutil.copy(root / "train/a/1.png", root / "train/b/torn.png")
    shutil.copy(root / "test/b/2.png", root / "test/b/again.png")
    report = check(Folder(root=str(root), val_share=0), at_least=1)
    assert [set(copies.files) for copies in report.copies] == [
        {"train/a/0.png", "test/a/same.png"},
        {"train/a/1.png", "train/b/torn.png"},
        {"test/b/again.png", "test/b/2.png"},
    ]
    assert report.problems == (
        "the same image is in more than one split, so the test is too easy (1 image):"
        " train/a/0.png = test/a/same.png",
        "the same image is in more than one class (1 image): train/a/1.png = train/b/torn.png",
        "the same image is in one split more than once (2 images):"
        " train/a/1.png = train/b/torn.png; test/b/2.png = test/b/again.png",
    )
    assert report.to_dict()["copies"][0] == {
        "files": ["train/a/0.png", "test/a/same.png"],
        "splits": ["train", "test"],
        "labels": ["a", "a"],
    }


def test_tables(zoo: Path) -> None:
    rows = ["file,label,place,side"]
    for i in range(20):
        rows += [f"cat/{i}.png,cat,in,{i % 2}", f"dog/{i}.png,dog,{('out', '')[i == 0]},{i % 2}"]
    (zoo / "t.csv").write_text("\n".join(rows))
    report = check(Folder(table=str(zoo / "t.csv"), val_share=0, attributes=("place", "side")))
    tables = {(t.split, t.attribute): t for t in report.tables}
    assert len(tables) == 4
    place = tables["train", "place"]
    assert place.values == ("in", "out")
    assert place.cramers_v == pytest.approx(1)
    assert place.counts[0] == (16, 0)
    side = tables["train", "side"]
    assert side.cramers_v is not None
    assert side.cramers_v < 0.5
    assert sum(map(sum, side.counts)) == 32
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_rows_that_cannot_be_used(zoo: Path) -> None:
    rows = [
        "file,label,split",
        "cat/0.png,,train",
        "cat/1.png,a,x",
        "cat/2.png,a,train",
        "no,a,train",
    ]
    (zoo / "t.csv").write_text("\n".join(rows))
    report = check(zoo / "t.csv")
    assert [str(fault) for fault in report.faults] == [
        "t.csv row 1 (cat/0.png): it has no label (column 'label' is empty)",
        "t.csv row 2 (cat/1.png): column 'split' has 'x', and must have one of train, training,"
        " val, valid, validation, test, testing",
        "t.csv row 4 (no): there is no such file",
    ]
    assert "there is only one class (a); a classifier needs two" in report.problems


def test_nothing_can_be_read(zoo: Path) -> None:
    for path in zoo.rglob("*.png"):
        path.write_text("no")
    report = check(zoo)
    assert (report.images, report.counts, report.sizes) == (0, {}, {})
    assert len(report.problems) == 1


def test_no_row_can_be_used(zoo: Path) -> None:
    (zoo / "t.csv").write_text("file,label\ncat/0.png,\n")
    report = check(zoo / "t.csv")
    assert report.images == 0
    assert len(report.faults) == 1


def test_refused() -> None:
    with pytest.raises(DataError, match="'gratings' is a suite of the package"):
        check("gratings")
    with pytest.raises(DataError, match="no folder or table"):
        check("/no/such/place")
