from __future__ import annotations

import json
from pathlib import Path

import pytest

from truecue.engine.log import Log, by_epoch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = Log(tmp_path / "log.jsonl")
    for stage in ("one", "two"):
        for step in (1, 2, 3):
            log.add(stage, step, loss=step / 10)
    return tmp_path / "log.jsonl"


def read(path: Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["stage"], row["step"]) for row in rows]


def test_rows_come_back(path: Path) -> None:
    assert Log(path).rows[-1] == {"stage": "two", "step": 3, "loss": 0.3}
    assert len(Log(path).rows) == 6


def test_rewinding_forgets_later_rows_of_that_stage_only(path: Path) -> None:
    log = Log(path)
    log.rewind("two", 1)
    assert read(path) == [("one", 1), ("one", 2), ("one", 3), ("two", 1)]
    log.add("two", 2, loss=0.0)
    assert read(path)[-1] == ("two", 2)
    assert [(r["stage"], r["step"]) for r in log.rows] == read(path)


def test_rewinding_to_the_end_leaves_the_file_alone(path: Path) -> None:
    before = path.stat().st_mtime_ns
    Log(path).rewind("two", 3)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("tail", ['{"stage": "two", "st', '{"stage": "two", "step": 4}'])
def test_a_line_that_a_kill_cut_off_does_not_swallow_the_next(path: Path, tail: str) -> None:
    with path.open("a") as file:
        file.write(tail)  # no line end: the kill came between
    log = Log(path)
    log.rewind("two", 3)
    log.add("two", 4, loss=0.4)
    assert read(path) == [(s, k) for s in ("one", "two") for k in (1, 2, 3)] + [("two", 4)]


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.add("one", 1, a=float("nan"), b=float("-inf"), c=1 / 3, d="text", e=7)
    row = {"stage": "one", "step": 1, "a": None, "b": None, "c": 0.333333, "d": "text", "e": 7}
    assert Log(tmp_path / "log.jsonl").rows == [row]


def test_without_a_file_rows_are_kept_in_memory() -> None:
    log = Log(None)
    log.add("one", 1, loss=1.0)
    log.add("one", 2, loss=1.0)
    log.rewind("one", 1)
    assert [row["step"] for row in log.rows] == [1]


def test_looks_within_an_epoch_are_merged_by_their_steps() -> None:
    log = Log(None)
    for stage in ("one", "two"):
        for step, loss in ((50, 2.0), (52, 10.0), (100, 1.0), (104, 1.0)):
            log.add(stage, step, at=round(step / 52, 3), loss=loss)
        log.add(stage, 104, epoch=2, watched=0.5)
    rows = by_epoch(log.rows, ["loss"])
    assert [(row["stage"], row["epoch"], row["steps"]) for row in rows] == [
        ("one", 1.0, 52), ("one", 2.0, 52), ("two", 1.0, 52), ("two", 2.0, 52),
    ]  # fmt: skip
    assert rows[0]["loss"] == pytest.approx((50 * 2 + 2 * 10) / 52)
    assert rows[3]["loss"] == pytest.approx(1)
    assert by_epoch(log.rows, ["absent"]) == []
