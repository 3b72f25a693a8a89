"""`truecue app`: what it refuses, and that it serves and ends."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import truecue
from truecue.audit.make import make_audit
from truecue.cli.main import main
from truecue.engine.device import Device
from truecue.nets.build import build


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An audit of an untrained network on a few digits."""
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    suite = truecue.Digits(train_size=300, test_size=200)
    data = suite.load(seed=3)
    net = build("conv3", channels=3, size=data.train.shape[1], n_classes=10)
    facts = {"data": "digits", "settings": suite.to_dict()}
    made = make_audit(tmp_path / "audit", data, net, seed=3, device=Device("cpu"), facts=facts)
    return made.folder


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command that cannot be done says."""
    monkeypatch.setattr(sys, "argv", ["truecue", "app", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "fastapi" else known(n, *a)
    )
    said = run(capsys, monkeypatch, str(tmp_path))
    assert "the app needs fastapi" in said
    assert "pip install 'truecue[app]'" in said


def test_folders_and_hosts_that_cannot_be_used_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, audit: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="the app's packages are not installed")
    assert "holds no finished audit" in run(capsys, monkeypatch, str(tmp_path))
    assert "give --password" in run(capsys, monkeypatch, str(audit), "--host", "0.0.0.0")
    said = run(capsys, monkeypatch, str(audit), "--with", str(tmp_path))
    assert "holds no finished audit" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = run(capsys, monkeypatch, str(audit), "--port", port, "--no-open")
        assert f"cannot listen at 127.0.0.1, port {port}" in said
    text = (audit / "run.toml").read_text()
    (audit / "run.toml").write_text(text.replace("train_size = 300", "train_size = 301"))
    assert "are not those of" in run(capsys, monkeypatch, str(audit))
    (audit / "run.toml").write_text(text.replace('data = "digits"', ""))
    assert "name them with --data" in run(capsys, monkeypatch, str(audit))
    gone = '[asked]\ndata = "zoo"\n[asked.data_settings]\nroot = "/nowhere/zoo"\n'
    (audit / "run.toml").write_text(gone)
    said = run(capsys, monkeypatch, str(audit))
    assert "were in /nowhere/zoo, and nothing is there; say where they are now with --data" in said
    (audit / "run.toml").unlink()
    assert "holds no run.toml" in run(capsys, monkeypatch, str(audit))


@pytest.mark.slow
def test_it_serves_until_it_is_stopped(audit: Path) -> None:
    pytest.importorskip("fastapi", reason="the app's packages are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "truecue.cli.main", "app", str(audit), "--no-open",
               "--port", str(port), "--threads", "1", "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TRUECUE_PASSWORD": "sesame"}
    )
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        end = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/classes.json")
            except urllib.error.HTTPError as error:
                code = error.code
                error.close()
                break
            except urllib.error.URLError:
                assert time.monotonic() < end
                time.sleep(0.1)
        assert code == 401  # the password counts
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]
