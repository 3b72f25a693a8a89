"""Cut off at any moment and continued, a run gives the same bits as in one go."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_parts import Toy, assert_same, cpu, images
from killing import Child, saves
from safetensors.torch import load_file

from truecue import api
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.plan import SGD, Adam, Cosine, Patience, Plan
from truecue.engine.run import Run
from truecue.methods import DeNetDM, Method
from truecue.methods.erm import ERM
from truecue.testing import small_gratings

BUSY = Plan(  # everything that carries state from step to step
    epochs=3,
    batch_size=64,
    augment=("flip", "crop"),
    optimizer=SGD(lr=0.05),
    schedule=Cosine(warmup=1),
    select="val_loss",
    stop=Patience(epochs=2),
)
SHORT = Plan(epochs=3, batch_size=64, optimizer=Adam(lr=1e-3))
CASES: dict[str, Method] = {
    "erm": ERM(plan=SHORT),
    "erm-augmented": ERM(plan=BUSY.model_copy(update={"average": 0.9})),
    "denetdm": DeNetDM(plan=SHORT, experts=SHORT),
    "denetdm-augmented": DeNetDM(
        plan=BUSY, experts=SHORT.override({"augment": ["flip"]}), deep="conv3", shallow="mlp-3"
    ),
}
ARCH = {"erm-augmented": "conv3", "denetdm-augmented": "mlp-4"}


@pytest.fixture(scope="module")
def data() -> Splits:
    return small_gratings()


def train(case: str, data: Splits, out: Path, seconds: float = 0.0, device: Device | None = None):
    return api.train(
        CASES[case], data, out=out, seed=3, arch=ARCH.get(case), baseline=False,
        device=device or cpu(), checkpoint_seconds=seconds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(data: Splits, tmp_path_factory) -> dict[str, Path]:
    """What each case gives in one go."""
    folder = tmp_path_factory.mktemp("whole")
    for case in CASES:
        train(case, data, folder / case, seconds=1e9)
    return {case: folder / case / "model.safetensors" for case in CASES}


def assert_equal_files(one: Path, other: Path) -> None:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert one.read_bytes() == other.read_bytes()


class Cut(Exception):
    pass


def cut_in_backward(patch, after: int) -> None:
    _count(patch, Device, "backward", after, late=False)


def cut_after_optimizer(patch, after: int) -> None:
    """The weights have moved, and nothing tells of it yet."""
    _count(patch, torch.optim.Adam, "step", after, late=True)
    _count(patch, torch.optim.SGD, "step", after, late=True)


def cut_in_save(patch, after: int) -> None:
    """Half of a checkpoint is written."""
    save, calls = torch.save, []

    def half(state, file, *rest):
        calls.append(1)
        if len(calls) > after:
            file.write(b"half")
            raise Cut
        save(state, file, *rest)

    patch.setattr(torch, "save", half)


def cut_before_rename(patch, after: int) -> None:
    """The new file is whole, but not in its place."""
    _count(patch, Path, "replace", after, late=False)


def _count(patch, owner, name: str, after: int, *, late: bool) -> None:
    original, calls = getattr(owner, name), []

    def counted(*args, **values):
        calls.append(1)
        if len(calls) > after and not late:
            raise Cut
        result = original(*args, **values)
        if len(calls) > after:
            raise Cut
        return result

    patch.setattr(owner, name, counted)


CUTS = (cut_in_backward, cut_after_optimizer, cut_in_save, cut_before_rename)


@pytest.mark.parametrize(
    ("case", "seed"),
    [(case, 0) for case in CASES]
    + [pytest.param(c, s, marks=pytest.mark.slow) for c in CASES for s in range(1, 6)],
)
def test_cut_at_five_random_moments(case, seed, data, whole, tmp_path, monkeypatch) -> None:
    rng, cuts, tries = random.Random(seed), 0, 0
    while cuts < 5:
        tries += 1
        assert tries < 50, "the cuts do not cut"
        with monkeypatch.context() as patch:
            rng.choice(CUTS)(patch, rng.randrange(5))
            try:
                train(case, data, tmp_path / "run", seconds=rng.choice([0.0, 0.0, 0.03]))
            except Cut:
                cuts += 1
            else:  # it came to its end before the cut: start over
                shutil.rmtree(tmp_path / "run")
                cuts = 0
    train(case, data, tmp_path / "run", seconds=1e9)
    assert_equal_files(whole[case], tmp_path / "run" / "model.safetensors")


def test_cut_after_every_single_step(tmp_path: Path) -> None:
    """With dropout, batch statistics, values for each sample, and a last batch that is not full."""
    plan = Plan(epochs=3, batch_size=20, augment=("flip", "crop"), average=0.5)
    make = lambda: Toy(dropout=0.4, norm=True)  # noqa: E731
    whole = Run(None, 0, cpu()).train("fit", make, images(), plan)

    def cut(calls: int, loss: torch.Tensor) -> torch.Tensor:
        if calls == 1:
            raise Cut
        return loss

    cuts = 0
    while True:
        run = Run(tmp_path, 0, cpu(), checkpoint_seconds=0.0)
        try:
            parts = run.train("fit", lambda: Toy(dropout=0.4, norm=True, spoil=cut), images(), plan)
        except Cut:
            cuts += 1
        else:
            break
    assert cuts == 3 * 3 - 1
    assert_same(whole, parts)


@pytest.mark.parametrize("case", ["erm", "erm-augmented", "denetdm"])
def test_killed_at_five_random_moments(case: str, data, whole, tmp_path: Path) -> None:
    rng, out, kills = random.Random(case), tmp_path / "run", 0
    for _ in range(5):
        count = saves(out)
        already, wanted = count(), rng.randrange(1, 5)
        child = Child(lambda: train(case, data, out))
        if not child.send(signal.SIGKILL, lambda: count() - already >= wanted):  # noqa: B023
            assert child.wait() == 0
            break
        assert child.wait() in {-signal.SIGKILL, 0}
        kills += 1
    assert kills >= 3
    train(case, data, out)
    assert_equal_files(whole[case], out / "model.safetensors")
    assert not list(out.glob("*/stages/.*.tmp"))


# stopped politely


def command(out: Path, epochs: int = 3) -> list[str]:
    return [
        "truecue", "train", "denetdm", "gratings", "--out", str(out), "--seed", "3",
        "--set", f"plan.epochs={epochs}", "--set", f"experts.epochs={epochs}",
        "--no-baseline", "--device", "cpu", "--threads", "1", "--quiet",
    ]  # fmt: skip


def call(words: list[str]) -> None:
    from truecue.cli.main import main

    sys.argv = words
    main()


def steps(out: Path) -> int:
    """Epochs and looks that the log tells of."""
    return sum(len(log.read_text().splitlines()) for log in out.glob("*/log.jsonl"))


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_a_command_ends_with_130(which, tmp_path: Path, capfd) -> None:
    out, whole = tmp_path / "parts", tmp_path / "whole"
    assert Child(lambda: call(command(whole))).wait() == 0
    for rows in (1, steps(whole) // 2):
        child = Child(lambda: call(command(out)))
        assert child.send(which, lambda: steps(out) >= rows)  # noqa: B023
        assert child.wait() == 130
        said = capfd.readouterr().err
        assert "truecue: stopped at stage" in said
        assert "the same command goes on from there" in said
        assert list(out.glob("*/stages/*.ckpt"))
    assert Child(lambda: call(command(out))).wait() == 0
    assert_equal_files(whole / "model.safetensors", out / "model.safetensors")
    assert (out / "report.html").is_file()


def test_a_second_signal_stops_at_once(tmp_path: Path, data) -> None:
    from truecue.engine.signals import StopSignal

    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.came
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored() -> None:
    from truecue.engine.signals import StopSignal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert not stop.came
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_a_folder_the_farewell_says_that_nothing_is_kept(data) -> None:
    from truecue.errors import Interrupted

    def stop(calls: int, loss):
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    with pytest.raises(Interrupted, match="'fit', step 3; nothing was saved"):
        Run(None, 0, cpu()).train("fit", lambda: Toy(spoil=stop), images(), Plan(batch_size=16))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_in_a_process_of_its_own(case: str, data, whole, tmp_path: Path) -> None:
    """The same with a new interpreter each time, as a user's machine would do it."""
    script = tmp_path / "script.py"
    here = Path(__file__).parent
    script.write_text(
        f"import sys; sys.path.insert(0, {str(here)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "import test_exact as t\n"
        f"t.train({case!r}, t.small_gratings(), Path({str(tmp_path / 'run')!r}))\n"
    )
    rng, out = random.Random(case), tmp_path / "run"
    for _ in range(5):
        count = saves(out)
        already, wanted = count(), rng.randrange(1, 6)
        process = subprocess.Popen([sys.executable, str(script)])
        while process.poll() is None and count() - already < wanted:
            time.sleep(0.001)
        process.kill()
        process.wait()
    subprocess.run([sys.executable, str(script)], check=True)
    assert_equal_files(whole[case], out / "model.safetensors")


# a folder is for one run


def test_other_images_under_the_same_settings_are_refused(data, tmp_path: Path) -> None:
    from truecue.errors import RunMismatch

    train("erm", data, tmp_path)
    other = replace(data, train=replace(data.train, images=data.train.images.roll(1, 0)))
    with pytest.raises(RunMismatch, match=r"images .* Use another folder, or --fresh"):
        train("erm", other, tmp_path)


def test_fresh_trains_again(data, tmp_path: Path) -> None:
    method = CASES["denetdm"]
    arguments = {"out": tmp_path, "baseline": True, "device": cpu()}
    api.train(method, data, **arguments)
    longer = method.override({"plan.epochs": 4, "experts.epochs": 2})
    report = api.train(longer, data, fresh=True, **arguments).report
    stages = {
        (name, stage["name"]): stage["epochs"]
        for name, model in report["models"].items()
        for stage in model["stages"]
    }
    assert stages == {("denetdm", "experts"): 2, ("denetdm", "student"): 4, ("erm", "fit"): 4}
    shutil.rmtree(tmp_path)
