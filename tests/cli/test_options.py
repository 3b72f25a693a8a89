"""What the options of commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import tomli_w
from PIL import Image

from truecue.cli import options
from truecue.data.sets import Splits
from truecue.data.suites.bar import BAR
from truecue.data.suites.base import Suite
from truecue.data.suites.digits import Digits
from truecue.data.suites.folder import Folder
from truecue.data.suites.gratings import Gratings
from truecue.errors import ConfigError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier


class Slow(Suite):
    """A suite that tells how far it is."""

    source: ClassVar[str] = "gratings"
    licence: ClassVar[str] = "none"
    self_made: ClassVar[bool] = True

    def load(
        self,
        root: Path | None = None,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Splits:
        if progress is not None:
            progress(seed, 7)
        return Gratings().load(root, seed=seed)


def test_progress_goes_to_suites_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
        yield None if quiet else lambda *done: seen.append(done)

    monkeypatch.setattr(options, "decoding", bar)
    assert len(options.load(Slow(), None, 3).train) == 1024
    assert len(options.load(Gratings(), None, 4).train) == 1024
    assert len(options.load(Slow(), None, 5, quiet=True).train) == 1024
    assert seen == [(3, 7)]


def test_a_folder_of_ones_own_needs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    gone = tmp_path / "gone"
    for i in range(20):
        file = tmp_path / "mine" / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(file)
    splits = options.load(Folder(root=str(tmp_path / "mine"), size=8), gone, 0)
    assert len(splits.train) + len(splits.test) + len(splits.val or ()) == 20
    for suite in (BAR(), Folder()):
        with pytest.raises(ConfigError, match=r"there is no folder .*gone"):
            options.load(suite, gone, 0)


def net(size: int, seed: int = 0) -> Classifier:
    made = build("mlp-3", channels=3, size=size, n_classes=2)
    made.spec["extra"] = {"seed": seed}
    return made


def run_of(folder: Path, data: str, settings: dict[str, object]) -> Path:
    folder.mkdir(parents=True)
    asked = {"data": data, "data_settings": settings, "seed": 4}
    (folder / "run.toml").write_bytes(tomli_w.dumps({"asked": asked}).encode())
    return folder


def test_a_run_lends_its_settings_of_the_data(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "digits", Digits(train_size=300, conflicting=0.3).to_dict())
    for model in (run, run / "model.safetensors"):
        suite, seed = options.suite_of_model("digits", {"train_size": 200}, model, net(28, 1))
        assert suite == Digits(train_size=200, conflicting=0.3)
        assert seed == 4
    suite, seed = options.suite_of_model("gratings", {}, run, net(16, 1))
    assert suite == Gratings(), "a run on other data lends nothing"
    assert seed == 1


def test_own_images_are_those_that_are_named(tmp_path: Path) -> None:
    there = {"root": str(tmp_path / "moved" / "mine"), "size": 16, "val_share": 0.3}
    run, here = run_of(tmp_path / "run", "mine", there), tmp_path / "mine"
    here.mkdir()
    suite, _ = options.suite_of_model(str(here), {}, run, net(16))
    assert suite == Folder(root=str(here), size=16, val_share=0.3)
    suite, _ = options.suite_of_model(str(here), {"size": 24}, run, net(16))
    assert suite == Folder(root=str(here), size=24, val_share=0.3)
    suite, _ = options.suite_of_model(str(here), {}, tmp_path / "no-run", net(20))
    assert suite == Folder(root=str(here), size=20)


def test_a_folder_with_the_name_of_a_suite_lends_it_nothing(tmp_path: Path) -> None:
    mine = tmp_path / "digits"
    mine.mkdir()
    of_mine = run_of(tmp_path / "mine", "digits", Folder(root=str(mine), val_share=0.3).to_dict())
    assert options.suite_of_model("digits", {}, of_mine, net(28, 1)) == (Digits(), 1)
    of_suite = run_of(tmp_path / "suite", "digits", Digits(val_share=0.3).to_dict())
    suite, seed = options.suite_of_model(str(mine), {}, of_suite, net(16, 1))
    assert (suite, seed) == (Folder(root=str(mine), size=16), 1)


@pytest.mark.parametrize("data", [".", "./", "../mine", "../mine/", "~/mine", "inside/.."])
def test_data_has_one_name_however_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    here = tmp_path / "mine"
    (here / "inside").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    made = Folder(root=str(here), size=16, val_share=0.3)
    name = options.facts(data, made)["data"]
    assert name == "mine"
    run = run_of(tmp_path / "run", name, made.to_dict())
    suite, seed = options.suite_of_model(data, {}, run, net(16))
    assert isinstance(suite, Folder)
    assert (suite.val_share, seed) == (0.3, 4)


def test_a_suite_and_a_link_keep_their_names(tmp_path: Path) -> None:
    assert options.name_of("digits") == "digits"
    (tmp_path / "mine").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "mine")
    assert options.name_of(str(tmp_path / "current")) == "current"
