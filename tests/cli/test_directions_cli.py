"""`truecue directions`: what each command writes, going on, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import test_cli
import torch
from PIL import Image

from truecue.directions.directions import Directions, load_directions

_cache, cli = test_cli._cache, test_cli.cli  # the same surroundings as for the other commands

CPU = ["--device", "cpu", "--threads", "1"]
OWN = """
import torch
from torch import nn
import truecue

class Net(nn.Module):
    def forward(self, z):
        place = torch.linspace(-1, 1, 16)
        x, y = (0.6 * z[:, k].tanh()[:, None, None] for k in (0, 1))
        spot = torch.exp(-((place[None, None] - x) ** 2 + (place[None, :, None] - y) ** 2) / 0.1)
        bright = z[:, 2, None, None].sigmoid()
        return (bright * spot)[:, None].expand(-1, 3, -1, -1)

def make():
    return truecue.PlainGenerator(Net(), dim=4, image_range=(0, 1))

def blank():
    class Blank(Net):
        def forward(self, z):
            return 0.5 + 0 * super().forward(z)
    return truecue.PlainGenerator(Blank(), dim=4, image_range=(0, 1))

def broken():
    class Broken(Net):
        def forward(self, z):
            images = super().forward(z)
            return torch.where((z[:, 0].abs() > 3)[:, None, None, None], torch.nan, images)
    return truecue.PlainGenerator(Broken(), dim=4, image_range=(0, 1))

def noisy():
    class Noisy(Net):
        def forward(self, z):
            return super().forward(z) + 0.1 * torch.rand(len(z), 1, 1, 1)
    return truecue.PlainGenerator(Noisy(), dim=4, image_range=(0, 1))
"""
SETS = ["--set", "scorer=small", "--set", "steps=3", "--set", "images=8"]
LONGER = ["--set", "scorer=small", "--set", "steps=150", "--set", "images=32", "--set",
          "lr_scorer=3e-3"]  # fmt: skip


@pytest.fixture
def spot(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:make"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 20 pictures with a spot on the left or on the right."""
    draw, root = np.random.default_rng(0), tmp_path / "spots"
    for i in range(40):
        pixels = draw.integers(0, 30, (16, 16, 3))
        left = 2 if i % 2 else 10
        pixels[4:8, left : left + 4] = 220
        (root / ("right", "left")[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / ("right", "left")[i % 2] / f"{i}.png")
    return root


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_from_finding_to_searching(cli, spot: str, images: Path, tmp_path: Path) -> None:
    found, refined, scores = tmp_path / "found", tmp_path / "refined", tmp_path / "scores"
    status, shown, error = cli("directions", "find", spot, "--by", "jacobian", "--k", "3",
                               "--out", found, *CPU)  # fmt: skip
    assert status == 0, error
    assert "3 directions (Jacobians of 32 images)" in shown
    assert read(found / "directions.json")["dim"] == 4

    status, shown, error = cli("directions", "refine", spot, found, "--out", refined, *LONGER,
                               *CPU)  # fmt: skip
    assert status == 0, error
    assert "of pairs ordered" in shown
    twin = read(refined / "refined.json")
    assert twin["settings"]["steps"] == 150
    assert len(twin["directions"]) == 3
    assert twin["before"]["found_by"] == "Jacobians of 32 images"
    page = (refined / "index.html").read_text()
    assert "Before and after" in page
    for file in ("before-after.png", "start0.png", "scorer.safetensors", "directions.safetensors"):
        assert (refined / file).is_file()

    status, shown, error = cli("directions", "traverse", spot, refined, "--out", tmp_path / "t",
                               "--columns", "5", "--starts", "2", *CPU)  # fmt: skip
    assert status == 0, error
    twin = read(tmp_path / "t" / "traversal.json")
    assert twin["steps"] == [-3, -1.5, 0, 1.5, 3]
    rows = read(refined / "refined.json")["directions"]
    order = sorted(range(3), key=lambda k: -rows[k]["ranked_right"])
    assert twin["index"] == order
    assert twin["names"] == [str(k) for k in order]
    assert twin["ranked_right"] == pytest.approx([rows[k]["ranked_right"] for k in order])
    began = read(found / "directions.json")["strengths"]
    assert twin["strengths"] == pytest.approx([began[k] for k in order])
    page = (tmp_path / "t" / "index.html").read_text()
    assert f"{twin['ranked_right'][0]:.0%} ordered" in page
    assert f"strength {twin['strengths'][0]:.3g}" in page
    assert twin["files"] == ["start0.png", "start1.png"]
    with Image.open(tmp_path / "t" / "start0.png") as picture:
        assert picture.size[0] > 5 * 96

    data = ["--set", "data.size=16", "--part", "train"]
    status, shown, error = cli("directions", "score", refined, images, "--out", scores, *data, *CPU)
    assert status == 0, error
    about = read(scores / "scores.json")
    assert about["names"] == ["0", "1", "2"]
    assert np.load(scores / "scores.npy").shape == (about["images"], 3)
    assert (scores / "extremes.png").is_file()

    status, shown, error = cli("directions", "search", scores, images, "--query", "0", "--query",
                               "3", "--by", "1", "--top", "4", *data)  # fmt: skip
    assert status == 0, error
    searches = read(scores / "search.json")["searches"]
    assert [row["query"] for row in searches] == [0, 3]
    for row in searches:
        assert row["found"][0]["image"] == row["query"]
        distances = [hit["distance"] for hit in row["found"]]
        assert distances == sorted(distances)
        assert len(distances) == 4
    assert (scores / "search.png").is_file()

    moved = images.parent / "moved"
    (images / "left").rename(moved)
    (images / "right").rename(images / "left")
    moved.rename(images / "right")
    status, _, error = cli("directions", "search", scores, images, *data)
    assert status == 2
    assert "images, as many as were scored, but not the same ones in the same order" in error
    (images / "left").rename(moved)
    (images / "right").rename(images / "left")
    moved.rename(images / "right")

    status, shown, error = cli("directions", "search", scores, images, *data)
    assert status == 0, error
    told = read(scores / "search.json")
    assert [row["name"] for row in told["directions"]] == ["0", "1", "2", "together", "pixels"]
    assert "A random order: " in shown


def test_scores_of_a_scorer_that_guesses_are_told(
    cli, spot: str, images: Path, tmp_path: Path
) -> None:
    out, scores, data = tmp_path / "out", tmp_path / "scores", ["--set", "data.size=16"]
    blank = spot.replace(":make", ":blank")
    status, shown, error = cli("directions", "refine", blank, "2", "--out", out, *SETS, *CPU)
    assert status == 0, error
    assert "No visible effect" in shown
    part = ["--part", "train", "--threads", "1"]
    warned = "Warning: The scorer is at chance for every direction"
    status, _, error = cli("directions", "score", out, images, "--out", scores, *data, *part)
    assert status == 0
    assert warned in error
    assert read(scores / "scores.json")["at_chance"] == ["0", "1"]
    search = ["directions", "search", scores, images, *data, *part]
    status, shown, error = cli(*search)
    assert status == 0
    assert warned in error
    assert shown.count("(the scorer is at chance)") == 2
    assert [row["name"] for row in read(scores / "search.json")["directions"]] == [
        "0", "1", "pixels"]  # fmt: skip
    status, _, error = cli(*search, "--query", "0")
    assert status == 2
    assert "at chance for every direction" in error
    assert cli(*search, "--query", "0", "--by", "1")[0] == 0


def test_refining_again_reads_what_is_there(cli, spot: str, tmp_path: Path) -> None:
    out, command = tmp_path / "out", ["directions", "refine", spot, "2"]
    assert cli(*command, "--out", out, *SETS, *CPU)[0] == 0
    before = (out / "directions.safetensors").read_bytes()
    log = (out / "refine" / "log.jsonl").read_text()
    assert cli(*command, "--out", out, *SETS, *CPU)[0] == 0
    assert (out / "directions.safetensors").read_bytes() == before
    assert (out / "refine" / "log.jsonl").read_text() == log
    status, _, error = cli(*command, "--out", out, *SETS, "--seed", "1", *CPU)
    assert status == 2
    assert "was made with other settings: seed 0 (now 1)" in error
    assert (out / "directions.safetensors").read_bytes() == before
    assert cli(*command, "--out", out, *SETS, "--seed", "1", "--fresh", *CPU)[0] == 0
    assert (out / "directions.safetensors").read_bytes() != before


def test_what_was_trained_is_not_written_over(cli, spot: str, tmp_path: Path) -> None:
    found, refined = tmp_path / "found", tmp_path / "refined"
    find = ["directions", "find", spot, "--by", "random", "--k", "2", *CPU]
    assert cli(*find, "--out", found)[0] == 0
    assert cli(*find, "--out", found, "--seed", "1")[0] == 0  # nothing was trained
    for start in (found, found / "directions.safetensors"):
        before = (found / "directions.safetensors").read_bytes()
        status, _, error = cli("directions", "refine", spot, start, "--out", found, *SETS, *CPU)
        assert status == 2
        assert "holds the directions to begin with, which would be lost" in error
        assert (found / "directions.safetensors").read_bytes() == before
    refine = ["directions", "refine", spot, found, "--out", refined, *SETS, *CPU]
    assert cli(*refine)[0] == 0
    known = read(refined / "scorer.json")["extra"]["directions"]
    assert known == load_directions(refined).digest() != load_directions(found).digest()
    before = (refined / "directions.safetensors").read_bytes()
    status, _, error = cli(*find, "--out", refined)
    assert status == 2
    assert "directions that a run goes with (run.toml, scorer.safetensors); others" in error
    assert (refined / "directions.safetensors").read_bytes() == before
    assert cli(*find, "--out", refined, "--fresh")[0] == 0
    assert not {"run.toml", "scorer.safetensors", "refined.json"} & {
        path.name for path in refined.iterdir()
    }
    assert cli(*refine)[0] == 0  # and from the start, not from what is left
    assert (refined / "directions.safetensors").read_bytes() == before


def test_discovered_directions(cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sets = ["--set", "reconstructor=lenet", "--set", "steps=2", "--set", "images=4"]
    status, shown, error = cli("directions", "find", "shapes", "--by", "voynov", "--k", "2",
                               "--out", out, *sets, *CPU)  # fmt: skip
    assert status == 0, error
    assert "The reconstructor tells" in shown
    assert read(out / "discovered.json")["settings"]["steps"] == 2
    again = [
        "directions",
        "find",
        "shapes",
        "--by",
        "voynov",
        "--k",
        "2",
        "--out",
        out,
        *sets,
        *CPU,
    ]
    assert cli(*again)[0] == 0  # its own run
    (out / "scorer.safetensors").touch()
    status, _, error = cli(*again)
    assert status == 2
    assert "directions that a run goes with (scorer.safetensors)" in error


@pytest.mark.slow
def test_metrics_of_known_factors(cli, tmp_path: Path) -> None:
    found, out = tmp_path / "found", tmp_path / "out"
    cli("directions", "find", "shapes", "--by", "random", "--k", "3", "--out", found, *CPU)
    sets = ["--set", "images=300", "--set", "epochs=1", "--votes", "100"]
    status, shown, error = cli("directions", "metrics", "shapes", found, "--out", out, *sets, *CPU)
    assert status == 0, error
    told = read(out / "metrics.json")
    assert told["metrics"].keys() >= {"beta_vae", "factor_vae", "mig", "dci", "sap"}
    assert all(0 <= value <= 1 for value in told["metrics"].values())
    page = (out / "metrics.html").read_text()
    assert all(f"{value:.3f}" in page for value in told["metrics"].values())
    picture = (out / "importance.svg").read_text()
    assert all(f">{value:.2f}<" in picture for row in told["importance"] for value in row)
    assert all(f">{factor}<" in picture for factor in told["factors"])
    assert "beta_vae" in shown
    again = ["directions", "metrics", "shapes", found, "--out", out, *sets, "--seed", "1", *CPU]
    status, _, error = cli(*again)
    assert status == 2
    assert "seed 0 (now 1). Use another folder, or --fresh to start over" in error
    assert cli(*again, "--fresh")[0] == 0
    assert read(out / "metrics.json")["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["find", "nonsense"], "there is no generator 'nonsense' (shapes, mnist-dcgan"),
        (["find", "mnist-vae"], "give --root or set TRUECUE_DATA"),
        (["find", "shapes", "--by", "safe"], "there is no finder 'safe'; did you mean 'sefa'"),
        (["find", "shapes", "--k", "99"], "codes have 10 numbers"),
        (["find", "shapes", "--set", "steps=3"], "'sefa' has no settings"),
        (["refine", "shapes", "nowhere"], "there is no weights file nowhere"),
        (["refine", "shapes", "2", "--set", "step=0"], "step must be greater than 0"),
        (["refine", "shapes", "11", "--set", "steps=1"], "11 orthonormal directions do not fit"),
        (["metrics", "mnist-vae", "x"], "give --root or set TRUECUE_DATA"),
        (
            ["score", "nowhere", "gratings"],
            "there is no scorer nowhere/scorer.safetensors; 'truecue directions refine' trains one",
        ),
        (["search", "nowhere", "gratings"], "nowhere holds no scores that can be read"),
    ],
)
def test_mistakes(cli, tmp_path: Path, arguments: list[str], said: str) -> None:
    out = tmp_path / "out"
    status, _, error = cli("directions", *arguments, "--out", out)
    assert status == 2
    assert said in error
    assert not out.exists()


def test_a_generator_with_noise_is_refused(cli, spot: str, tmp_path: Path) -> None:
    noisy = spot.replace(":make", ":noisy")
    status, _, error = cli("directions", "refine", noisy, "2", "--out", tmp_path / "out", *CPU)
    assert status == 2
    assert "not deterministic: two renderings of the same code differ by 0.0" in error


def test_pictures_that_cannot_be(cli, spot: str, tmp_path: Path) -> None:
    Directions(torch.eye(2, 4), "axes").save(tmp_path / "d")
    for more, said in ((["--columns", "4"], "odd number"), (["--step", "0"], "a step above 0")):
        status, _, error = cli("directions", "traverse", spot, tmp_path / "d", "--out",
                               tmp_path / "out", *more, *CPU)  # fmt: skip
        assert status == 2
        assert said in error
    status, _, error = cli("directions", "traverse", "shapes", tmp_path / "d", "--out",
                           tmp_path / "out", *CPU)  # fmt: skip
    assert status == 2
    assert "the directions have 4 numbers in z; the generator's codes have 10 in z" in error
    assert not (tmp_path / "out").exists()


def test_finding_in_a_generator_that_gives_one_image_warns(cli, spot: str, tmp_path: Path) -> None:
    find = ["directions", "find", "--by", "jacobian", "--k", "2", *CPU, "--out"]
    status, shown, _ = cli(*find, tmp_path / "blank", spot.replace(":make", ":blank"))
    assert status == 0
    assert "Warning: no visible effect: 0, 1." in shown
    status, shown, _ = cli(*find, tmp_path / "spot", spot)
    assert status == 0
    assert "no visible effect" not in shown


def test_finding_stops_where_images_are_not_finite(cli, spot: str, tmp_path: Path) -> None:
    broken = spot.replace(":make", ":broken")
    out, random = tmp_path / "out", ["--by", "random", "--k", "4", "--seed", "9"]
    status, _, error = cli("directions", "find", broken, *random, "--out", out, *CPU)
    assert status == 2
    assert "images are not finite for codes drawn with seed 9" in error
    assert not out.exists()


def test_a_direction_without_effect_is_named(cli, spot: str, tmp_path: Path) -> None:
    Directions(torch.eye(4)[2:], "axes", ("brightness", "nothing")).save(tmp_path / "d")
    status, shown, _ = cli("directions", "traverse", spot, tmp_path / "d", "--out",
                           tmp_path / "out", *CPU)  # fmt: skip
    assert status == 0
    assert "Warning: no visible effect: nothing." in shown
    assert read(tmp_path / "out" / "traversal.json")["visible"] == [True, False]
