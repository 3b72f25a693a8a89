"""`truecue show bias`: pictures of what a run of SiH learned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_cli
import tomli_w
import torch
from PIL import Image

from truecue.cli.main import main
from truecue.config import read_toml
from truecue.nets.vae import build_vae, save_vae

_cache, cli = test_cli._cache, test_cli.cli  # the same surroundings as for the other commands

SIZES = ["--set", "plan.epochs=2", "--set", "plan.batch_size=64"]
CPU = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 60 bright or dark images."""
    draw, root = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "mine"
    for i in range(120):
        kind = ("cat", "dog")[i % 2]
        pixels = draw.integers(0, 100, (16, 16, 3)) + 150 * ((i % 2) ^ (i % 9 == 0))
        (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SiH on these images."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(out.parent / "cache"))
        command = ["train", "sih", images, "--set", "data.size=16", *SIZES, *CPU]
        patch.setattr("sys.argv", ["truecue", *map(str, [*command, "--out", out])])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return out


def test_training_shows_the_pictures_already(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert report["bias"]["split"] == "val"
    page = (trained / "report.html").read_text()
    assert "What the shortcut looks like" in page
    twin = json.loads((trained / "bias" / "bias.json").read_text())
    numbers = {k: v for k, v in (twin["push"] or {}).items() if k != "images"}
    assert numbers == (report["bias"]["push"] or {})


def test_pictures_of_a_run(cli, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    status, shown, _ = cli("show", "bias", trained, "--out", out, "--seed", "0", *CPU)
    assert status == 0
    assert f"Pictures: {out / 'index.html'}" in shown
    twin = json.loads((out / "bias.json").read_text())
    assert twin["classes"] == ["cat", "dog"]
    assert twin["about"]["data"] == "mine"
    # the same network, images and seed as in training: the same numbers
    before = json.loads((trained / "bias" / "bias.json").read_text())
    assert twin["push"] == before["push"]
    assert twin["gallery"] == before["gallery"]


def test_a_class_of_ones_own(cli, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    status, _, _ = cli(
        "show", "bias", trained, "--out", out, "--target", "dog", "--factor", "3", *CPU, "--quiet"
    )
    assert status == 0
    push = json.loads((out / "bias.json").read_text())["push"]
    if push is not None:
        assert {row["target"] for row in push["images"]} == {"dog"}
        assert push["factor"] == 3


def test_pictures_of_a_suite(cli, tmp_path: Path) -> None:
    run_ = tmp_path / "run"
    status, _, error = cli(
        "train", "sih", "gratings", *SIZES, *CPU, "--out", run_, "--no-baseline", "--quiet"
    )
    assert status == 0, error
    status, _, error = cli("show", "bias", run_, *CPU)
    assert status == 0, error
    assert (run_ / "bias" / "index.html").is_file()


def test_other_images(cli, trained: Path, images: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    out = tmp_path / "pictures"
    status, _, error = cli("show", "bias", trained, "--data", moved, "--out", out, *CPU)
    assert status == 0, error
    assert json.loads((out / "bias.json").read_text())["about"]["data"] == "moved"


def test_other_images_get_the_size_of_the_run(cli, images: Path, tmp_path: Path) -> None:
    """Also where the run's data has no setting for it."""
    asked = {"data": "digits", "data_settings": {}, "method": "sih", "seed": 0}
    (tmp_path / "run.toml").write_text(tomli_w.dumps({"asked": asked}))
    torch.manual_seed(0)
    vae = build_vae("mlp", 3, 12, 2)
    save_vae(vae, tmp_path / "sih-vae.safetensors", {"classes": ["cat", "dog"]})
    own = ["show", "bias", tmp_path, "--data", images, "--out", tmp_path / "out", *CPU]
    status, _, error = cli(*own)
    assert status == 0, error
    assert (tmp_path / "out" / "index.html").is_file()
    status, _, error = cli(*own, "--set", "data.size=16")
    assert status == 2
    assert "For your own images set data.size=12" in " ".join(error.split())


def test_images_that_changed_are_noticed(cli, trained: Path, images: Path, tmp_path: Path) -> None:
    before = images / "cat" / "0.png"
    kept = before.read_bytes()
    try:
        before.unlink()
        status, _, error = cli("show", "bias", trained, "--out", tmp_path / "out", *CPU)
    finally:
        before.write_bytes(kept)
    assert status == 2
    assert "no longer those that" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "cow"], "there is no class 'cow'; the classes are cat, dog"),
        (["--factor", "1"], "a number above 1; got 1. The smallest move"),
        (["--factor", "0.5"], "a number above 1; got 0.5"),
        (["--factor", "0"], "a number above 1; got 0"),
        (["--set", "steps=3"], "show bias has no setting 'steps'"),
        (["--data", "gratings"], "the run knows the classes cat, dog; the data has"),
        (["--data", "./nowhere"], "there is no folder or table ./nowhere"),
    ],
)
def test_mistakes(cli, trained: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    status, _, error = cli("show", "bias", trained, "--out", tmp_path / "out", *arguments, *CPU)
    assert status == 2
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run(cli, tmp_path: Path) -> None:
    status, _, error = cli("show", "bias", tmp_path)
    assert status == 2
    assert f"{tmp_path} is not the folder of a run" in error


def test_a_run_of_another_method(cli, trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "run.toml", tmp_path)
    status, _, error = cli("show", "bias", tmp_path)
    assert status == 2
    assert "holds no paired VAE (sih-vae.safetensors)" in error
    assert "truecue train sih DATA" in error


# --- of any classifier --------------------------------------------------------------------------

SHORT = ["--set", "plan.epochs=2", "--set", "plan.batch_size=32"]


@pytest.fixture(scope="module")
def plain(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of plain training on these images."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(out.parent / "cache"))
        own = ["--set", "data.size=16", "--set", "data.val_share=0.3", "--seed", "3"]
        command = ["train", "erm", images, *own, "--set", "plan.epochs=3", *CPU]
        patch.setattr("sys.argv", ["truecue", *map(str, [*command, "--out", out])])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return out


def test_pictures_of_any_model(cli, plain: Path, images: Path) -> None:
    status, shown, error = cli("show", "bias", "--model", plain, images, *SHORT, *CPU)
    assert status == 0, error
    out = plain / "bias-model"
    assert f"Pictures: {out / 'index.html'}" in shown
    twin = json.loads((out / "bias.json").read_text())
    assert twin["judge"] == "model"
    assert twin["classes"] == ["cat", "dog"]
    assert twin["about"]["model"] == str(plain)
    asked = {name: read_toml(folder / "run.toml")["asked"] for name, folder in
             (("run", plain), ("pictures", out))}  # fmt: skip
    assert asked["pictures"]["data_settings"]["val_share"] == 0.3
    assert asked["pictures"]["images"] == asked["run"]["images"], "its own images, split as then"
    page = (out / "index.html").read_text()
    assert "it had no part in the training but its answers" in page.lower()
    status, _, error = cli("show", "bias", "--model", plain, images, *CPU)
    assert status == 2, "other settings than those that the folder was made with"
    assert "--fresh" in error
    again = ["show", "bias", "--model", plain, images, *SHORT, *CPU, "--target", "dog"]
    status, shown, error = cli(*again)
    assert status == 0, error
    assert "epoch" not in error, "training is read back"
    file = plain / "model.safetensors"
    status, _, error = cli("show", "bias", "--model", file, images, *SHORT, *CPU, "--quiet")
    assert status == 0, error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--model", "PLAIN"], "give either RUN alone, or --model MODEL with the images"),
        (["IMAGES", "--model", "PLAIN", "--data", "gratings"], "--data goes with RUN"),
        (["RUN", "--fresh"], "--fresh is about training, which goes with --model"),
        (["RUN", "--arch", "vae-mlp"], "--arch is about training, which goes with --model"),
        (["IMAGES", "--model", "PLAIN", "--set", "epochs=3"], "'epochs'"),
        (["IMAGES", "--model", "PLAIN", "--set", "size=3"], "write --set data.size="),
        (["IMAGES", "--model", "./nowhere"], "there is no card"),
        (["IMAGES", "--model", "PLAIN", "--set", "data.size=20"], "trained on images of 16 pixels"),
        (["IMAGES", "--model", "PLAIN", "--set", "data.val_share=0"], "this data has none"),
        (["IMAGES", "--model", "PLAIN", "--factor", "0.5"], "a number above 1; got 0.5"),
        (["gratings", "--model", "PLAIN"], "the model knows the classes cat, dog"),
        (["PLAIN"], "or have one trained for this model: truecue show bias --model"),
    ],
)
def test_mistakes_about_models(
    cli, trained: Path, plain: Path, images: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    places = {"RUN": trained, "PLAIN": plain, "IMAGES": images}
    named = [places.get(word, word) for word in arguments]
    status, _, error = cli("show", "bias", *named, "--out", tmp_path / "out", *CPU)
    assert status == 2
    assert said in " ".join(error.split())
    assert not (tmp_path / "out").exists()
