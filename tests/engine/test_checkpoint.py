from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest
import torch
from engine_parts import Toy, assert_same, cpu, seeded, stage

from truecue.engine import checkpoint, loop
from truecue.engine.plan import Plan
from truecue.errors import DataError, StorageError

STATE = {"step": 3, "learner": {"w": torch.arange(3.0)}, "best": None}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_state_and_random_state_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "fit.ckpt"
    torch.manual_seed(5)
    checkpoint.save(path, STATE, cpu())
    expected = torch.rand(4)
    torch.manual_seed(6)
    state = checkpoint.load(path, cpu())
    assert torch.equal(torch.rand(4), expected)
    assert state.keys() == STATE.keys()
    assert torch.equal(state["learner"]["w"], STATE["learner"]["w"])
    assert names(path.parent) == ["fit.ckpt"]


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "fit.ckpt"
    checkpoint.save(path, STATE, cpu())

    def write_some(state, file, *rest):
        file.write(b"x" * 1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", write_some)
        with pytest.raises(StorageError, match=r"fit.ckpt: No space left.*before is untouched"):
            checkpoint.save(path, STATE | {"step": 4}, cpu())
    assert checkpoint.load(path, cpu())["step"] == 3
    assert names(tmp_path) == ["fit.ckpt"]


def test_torch_itself_hitting_a_limit_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """Torch's writer raises an error of its own; the system's must come through."""
    path = tmp_path / "fit.ckpt"
    checkpoint.save(path, STATE, cpu())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large; what it held before is untouched"):
            checkpoint.save(path, STATE | {"step": 4, "big": torch.zeros(100_000)}, cpu())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path, cpu())["step"] == 3
    assert names(tmp_path) == ["fit.ckpt"]


def test_training_goes_on_from_the_checkpoint_before_the_full_disk(tmp_path, monkeypatch) -> None:
    plan = Plan(epochs=3, batch_size=16)
    whole = seeded(Toy)
    loop.train(whole, stage(plan))
    save, saved = torch.save, []

    def fill_up(state, file, *rest):
        saved.append(state["step"])
        if len(saved) == 5:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill_up)
        with pytest.raises(StorageError):
            loop.train(seeded(Toy), stage(plan, folder=tmp_path, seconds=0.0))
    assert checkpoint.load(tmp_path / "fit.ckpt", cpu())["step"] == 4
    resumed = seeded(Toy, 7)
    loop.train(resumed, stage(plan, folder=tmp_path))
    assert_same(whole, resumed)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".fit.ckpt.123.tmp").write_bytes(b"half")
    (tmp_path / ".other.ckpt.123.tmp").write_bytes(b"half")
    checkpoint.save(tmp_path / "fit.ckpt", STATE, cpu())
    assert names(tmp_path) == [".other.ckpt.123.tmp", "fit.ckpt"]


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:200] = bytes(200)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm",
    [
        halved,
        flipped,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a checkpoint"),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)),
        lambda path: torch.save({"step": 3}, path),  # nothing about random states
        lambda path: torch.save([1, 2], path),
    ],
)
def test_a_corrupted_checkpoint_is_one_sentence(tmp_path: Path, harm) -> None:
    path = tmp_path / "fit.ckpt"
    checkpoint.save(path, STATE, cpu())
    harm(path)
    with pytest.raises(DataError, match=r"fit.ckpt is not a checkpoint.*remove it") as error:
        checkpoint.load(path, cpu())
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)  # torch's advice would run foreign code


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"rng": Evil()}, tmp_path / "fit.ckpt")
    with pytest.raises(DataError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "fit.ckpt", cpu())
    assert not (tmp_path / "ran").exists()


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.ckpt"
    state = {"cpu": torch.get_rng_state()}
    torch.save(STATE | {"rng": [state, state]}, path)
    with pytest.raises(DataError, match="written by 2 processes, and this run has 1"):
        checkpoint.load(path, cpu())
