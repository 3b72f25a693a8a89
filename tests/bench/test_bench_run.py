from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_parts import SMALL, run_all, run_here, small
from safetensors.torch import load_file
from typer.testing import CliRunner

from truecue.bench import pool, work
from truecue.bench.run import _Progress
from truecue.bench.store import Store
from truecue.cli.main import app
from truecue.engine import device
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError, StorageError, SupervisionError, TruecueError

ONE = SMALL.replace("seeds = [0, 1]", "seeds = [0]")


def test_names_of_cells_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    with _Progress(2, quiet=False, said=print) as bar:
        bar.started("lff [/fast] on digits, seed 0")  # type: ignore[arg-type]
    assert "lff [/fast]" in screen.getvalue()


def test_finished_cells_are_never_run_again(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)
    run_here(wanted, store)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "bench" / "results").iterdir()}
    assert len(before) == 4
    assert store.missing(wanted) == []
    tally = run_all(wanted, store)
    assert (tally.kept, tally.done, tally.failed) == (4, 0, [])
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "bench" / "results").iterdir()}
    assert after == before


def test_workers_run_what_is_missing_and_a_failure_stops_nothing(tmp_path: Path) -> None:
    bad = ONE + '[methods.bad]\nmethod = "erm"\nsettings = { "plan.batch_size" = 5000,'
    bad += ' "plan.drop_last" = true }\n'
    _, wanted, store = small(tmp_path, bad)
    tally = run_all(wanted, store, processes=2)
    assert tally.done == 4
    assert [o.cell.method for o in tally.failed] == ["bad", "bad"]
    assert all("batch of 5000" in o.error for o in tally.failed)
    failed = next(c for c in wanted if c.method == "bad")
    assert "batch of 5000" in store.error(failed)
    assert failed in store.missing(wanted)
    # in workers and in this process: the same bits
    _, again, other = small(tmp_path / "again", ONE) if (tmp_path / "again").mkdir() is None else 0
    run_here(again, other)
    for cell in again:
        ours, theirs = store.result(cell), other.result(cell)
        assert ours["records"] == theirs["records"]
        assert ours["model"]["test"] == theirs["model"]["test"]


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_device_that_is_not_there_is_refused_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = '[sweep]\nmethod = "lff"\nsuite = "tints"\nspace = { q = { choice = [0.5] } }\n'
    _, _, store = small(tmp_path, ONE + sweep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, says in (("foo", "cpu, cuda or mps; got 'foo'"), ("cuda", "no CUDA device")):
        given = ["bench", command, str(tmp_path / "small.toml"), "--out", str(store.folder)]
        ran = CliRunner().invoke(app, [*given, "--device", name])
        assert isinstance(ran.exception, ConfigError)
        assert says in str(ran.exception)
    assert not store.folder.exists()


def test_a_dry_run_says_what_would_be_run_and_what_could_not(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)
    given = ["bench", "run", str(tmp_path / "small.toml"), "--out", str(store.folder), "--dry"]
    ran = CliRunner().invoke(app, given)
    assert ran.exit_code == 0, ran.output
    assert all(str(cell) in ran.output for cell in wanted)
    small(tmp_path, ONE.replace("mlp-3x8", "mlp-3y8"))
    ran = CliRunner().invoke(app, given)
    assert isinstance(ran.exception, ConfigError)
    assert "mlp-3y8" in str(ran.exception)
    assert not store.folder.exists()


def test_workers_keep_freed_memory_as_commands_do(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: called.append(True))
    assert pool._device(0, "cpu").device.type == "cpu"
    assert called == [True]


def test_a_worker_that_dies_before_it_takes_its_job_is_a_failed_cell(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)
    process = SimpleNamespace(join=lambda _: None, exitcode=-signal.SIGKILL)
    ours, theirs = Pipe()
    worker = pool._Worker(process, ours)
    jobs = [pool.Job(cell, store.work(cell)) for cell in wanted[:2]]
    pool._give(worker, jobs, lambda _: None)
    theirs.close()  # with the job unread: the pipe is reset, not just at its end
    assert "its process died (SIGKILL)" in pool._outcome(worker).error
    pool._give(worker, jobs, lambda _: None)  # nobody reads it
    assert "its process died (SIGKILL)" in pool._outcome(worker).error


def test_cells_that_another_process_has_finished_meanwhile_are_kept(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)

    class Late(Store):
        @contextmanager
        def locked(self) -> Iterator[None]:
            with super().locked():
                run_here(wanted, self)
                yield

    tally = run_all(wanted, Late(store.folder))
    assert (tally.kept, tally.done) == (4, 0)


def test_workers_are_dismissed_before_the_folder_is_free_again(tmp_path: Path, monkeypatch) -> None:
    _, wanted, store = small(tmp_path, ONE)
    story = []

    def outcomes(jobs: list[pool.Job], **_: Any) -> Iterator[pool.Outcome]:
        try:
            yield pool.Outcome(jobs[0].cell, {"nothing": 1})
        finally:
            story.append("dismissed")

    class Full(Store):
        def keep(self, outcome: pool.Outcome) -> None:
            raise StorageError("no space left")

        @contextmanager
        def locked(self) -> Iterator[None]:
            try:
                with super().locked():
                    yield
            finally:
                story.append("free")

    monkeypatch.setattr("truecue.bench.run.work", outcomes)
    with pytest.raises(StorageError, match="no space left"):
        run_all(wanted, Full(store.folder))
    assert story == ["dismissed", "free"]


def test_result_holds_what_tables_need(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)
    run_here(wanted[:1], store)
    found = store.result(wanted[0])
    assert found["model"]["labels_used"]["training"] == "class labels only"
    assert found["device"]
    assert found["seconds"] > 0
    assert [r["epoch"] for r in found["records"]] == [1, 2, 3, 4]
    assert not store.work(wanted[0]).exists()


def test_result_says_how_many_images_are_drawn_more_often(tmp_path: Path) -> None:
    defund = """[methods.defund]
settings = { variant = "supervised", "probe.epochs" = 2 }
"""
    _, wanted, store = small(tmp_path, ONE.replace("[methods.erm]\n", defund))
    cell, plain = wanted[0], next(c for c in wanted if c.method == "lff")
    result = work.run_cell(cell, store.work(cell), Device("cpu"))
    kept = load_file(store.work(cell) / "run" / "once" / "errors.safetensors")["errors"]
    assert result["errors"] == pytest.approx(float(kept.double().mean()))
    assert 0 < result["errors"] < 1
    assert work.run_cell(plain, store.work(plain), Device("cpu"))["errors"] is None


def test_damaged_result_is_named(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)
    run_here(wanted[:1], store)
    path = next((tmp_path / "bench" / "results").iterdir())
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match=r"cannot be read.*remove it, and the cell is run again"):
        store.result(wanted[0])
    for other in ("{}", "null", "[]"):
        path.write_text(other)
        with pytest.raises(DataError, match=r"is not a cell's result; remove it"):
            store.result(wanted[0])


def test_methods_that_need_absent_labels_are_refused_before_anything_runs(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for k in range(20):
        _image(images / "ab"[k % 2] / f"{k}.png", k)
    text = ONE.replace('data = "digits"', f'data = "{images}"', 1).replace(
        "train_size = 200, test_size = 200, conflicting = 0.02", "size = 8", 1
    )
    _, wanted, _ = small(tmp_path, text + "[methods.groupdro]\n")
    with pytest.raises(SupervisionError, match=r"groupdro on tints: GroupDRO needs .*lff"):
        work.preflight(wanted)
    assert not work._LOADED, "the parent of the workers holds images"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('arch = "mlp-3x8"', 'arch = "mpl-3"', r"erm on tints: .*'mpl-3'"),
        ('arch = "mlp-3x8"', 'arch = "cnn4"', r"erm on tints: 'cnn4' needs images of at least 42"),
        (
            '"plan.epochs" = 4',
            '"plan.epochs" = 4, "plan.select" = "val_loss"',
            r"erm on tints: choosing by val_loss needs validation images",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    text = ONE.replace(old, new, 1).replace("conflicting = 0.02", "val_share = 0.0", 1)
    _, wanted, _ = small(tmp_path, text)
    with pytest.raises(TruecueError, match=sentence):
        work.preflight(wanted)


def _image(path: Path, value: int) -> None:
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value * 10, dtype=np.uint8)).save(path)


def test_two_runs_of_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path, ONE)
    with store.locked(), pytest.raises(StorageError, match="another process is running"):
        run_all(wanted, store)


LONG = ONE.replace('"plan.epochs" = 4', '"plan.epochs" = 2000').replace("record = 4", "record = 2")


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "truecue.cli.main", "bench", "run", folder / "small.toml"]
    command += ["--out", folder / "bench", "--processes", "2"]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)


def wait_for(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def children(pid: int) -> list[int]:
    """The worker processes of a bench."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended while we looked
            continue
    return found


@pytest.mark.slow
def test_a_killed_worker_costs_its_cell_and_nothing_else(tmp_path: Path) -> None:
    small(tmp_path, LONG)
    bench = start(tmp_path)
    try:
        logs = tmp_path / "bench" / "work"
        assert wait_for(lambda: len(list(logs.glob("*/run/log.jsonl"))) == 2)
        os.kill(children(bench.pid)[0], signal.SIGKILL)
        errors = tmp_path / "bench" / "errors"
        assert wait_for(lambda: errors.is_dir() and len(list(errors.glob("*.json"))) == 1)
        said = json.loads(next(errors.glob("*.json")).read_text())["error"]
        assert "its process died (SIGKILL); was there enough memory?" in said
        assert wait_for(lambda: len(list((tmp_path / "bench" / "work").glob("*"))) >= 3)
    finally:
        bench.send_signal(signal.SIGTERM)
        bench.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGTERM])
def test_a_bench_that_is_stopped_goes_on_and_ends_with_the_same_results(
    which: signal.Signals, tmp_path: Path
) -> None:
    text = LONG.replace("2000", "150")
    _, wanted, store = small(tmp_path, text)
    bench = start(tmp_path)
    logs = tmp_path / "bench" / "work"
    assert wait_for(lambda: len(list(logs.glob("*/run/log.jsonl"))) == 2)
    workers = children(bench.pid)
    bench.send_signal(which)
    status = bench.wait(60)
    assert status == (130 if which == signal.SIGTERM else -signal.SIGKILL)
    gone = [wait_for(lambda pid=pid: not Path(f"/proc/{pid}/status").exists(), 30)
            for pid in workers]  # fmt: skip
    assert all(gone), "workers outlive the bench"
    if which == signal.SIGTERM:
        assert list(logs.glob("*/run/stages/*.ckpt"))
    assert store.missing(wanted)
    tally = run_all(wanted, store, processes=2)
    assert not tally.failed
    whole = tmp_path / "whole"
    whole.mkdir()
    _, again, other = small(whole, text)
    run_here(again[:2], other)
    for cell in again[:2]:
        assert store.result(cell)["records"] == other.result(cell)["records"]
