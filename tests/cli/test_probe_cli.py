"""`truecue directions probe` and `rescore`: pages and twins, and one sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import test_cli
import torch
from test_directions_cli import CPU, OWN, read

from truecue.cli.probe import _score
from truecue.directions.directions import Directions, load_directions
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.classifier import save_classifier
from truecue.nets.load_generator import load_generator
from truecue.nets.scorer import Scorer, save_scorer

_cache, cli = test_cli._cache, test_cli.cli  # the same surroundings as for the other commands

FEW = ["--n", "4", "--columns", "3", "--null", "100", *CPU]
CLASSES = ["<a>", "b"]
MEASURE = """
def looks(images):
    red, _, blue = images.float().mean((2, 3)).unbind(1)
    return {"bright": red + blue, "tint": red - 0.9 * blue}

def other(images):
    return {"dark": -images.float().mean((1, 2, 3))}
"""


@pytest.fixture
def spot(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:make"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A linear network that tells bright images from dark ones."""
    net = build("mlp-2x4", channels=3, size=16, n_classes=2)
    with torch.no_grad():
        for values in net.parameters():
            values.zero_()
        first = next(p for p in net.encoder.parameters() if p.dim() == 2)
        first[0] = 0.1
        net.head.weight[:, 0] = torch.tensor([1.0, -1])
    save_classifier(net, tmp_path / "model", {"classes": CLASSES})
    return tmp_path / "model"


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Across, brightness, and nothing."""
    home = tmp_path / "found"
    Directions(torch.eye(4)[[0, 2, 3]], "axes", ("across", "bright", "nothing")).save(home)
    return home


def test_probing_without_real_images(
    cli, spot: str, model: Path, found: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, shown, error = cli("directions", "probe", spot, "--directions", found, "--model", model,
                               "--out", out, *FEW)  # fmt: skip
    assert status == 0, error
    assert "real images were not asked" in shown
    assert re.search(r"nothing  no visible effect", shown)
    twin = read(out / "probe.json")
    across, bright, nothing = twin["directions"]
    assert bright["classes"][0]["slope"] > 10 * abs(across["classes"][0]["slope"])
    assert bright["classes"][0]["slope"] == pytest.approx(-bright["classes"][1]["slope"], rel=1e-3)
    assert bright["flagged"]
    assert bright["q"] == pytest.approx(2 / 101)  # of two; no random direction comes up to it
    assert bright["classes"][0]["one_way"]
    assert not across["flagged"]
    assert not across["classes"][0]["one_way"]
    assert nothing["visible"] is False
    assert nothing["p"] is None
    assert nothing["travel"] is None
    assert nothing["classes"][0]["p"] is None
    assert twin["real"] is None
    judged = twin["to_judge"]
    assert judged["answers"] == ["core", "spurious", "unclear"]
    assert judged["vectors"]["bright"] == [0, 0, 1, 0]
    assert judged["steps"] == [-3, 3, 3]
    assert all(re.fullmatch("[0-9a-f]{16,}", judged[k]) for k in ("generator", "classifier"))
    page = (out / "index.html").read_text()
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert "<script" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("data:") or ":" not in link for link in links)
    # three starts and three steps for each of three directions
    assert page.count('alt="start') == 27
    assert any("trained on biased images" in line for line in twin["caveats"])


def test_a_scorer_of_other_directions_is_refused(spot: str, found: Path) -> None:
    generator, rows, device = load_generator(spot), load_directions(found), Device("cpu")
    names, net = list(rows.names), Scorer("small", (3, 16, 16), 3)
    for card in ({"names": names}, {"names": names, "directions": rows.digest()}):
        save_scorer(net, found, card)
        score, _ = _score(found, rows, None, generator, device)
        assert score(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 3)
    turned = Directions(rows.matrix.flip(0), "axes", rows.names)
    with pytest.raises(DataError, match="is of other directions than those beside it"):
        _score(found, turned, None, generator, device)


@pytest.mark.slow
def test_probing_with_real_images(cli, spot: str, found: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    status, _, error = cli("train", "erm", "gratings", "--set", "plan.epochs=2", "--out", run,
                           "--quiet", *CPU)  # fmt: skip
    assert status == 0, error
    probe = ["directions", "probe", spot, "--directions", found, "--model", run, "--out", out,
             "--data", "gratings", *FEW]  # fmt: skip
    status, _, error = cli(*probe)
    assert status == 2
    assert "holds no scorer to rank real images by" in error
    assert not out.exists()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = ["across", "bright", "nothing"]
        card = {"names": names, "ranked_right": [0.9, 0.8, 0.5], "pairs": 1024}
        save_scorer(Scorer("small", (3, 16, 16), 3), found, card)
    status, _, error = cli(*probe)
    assert status == 0, error
    warned = "The scorer is at chance for: nothing. These scores mean nothing"
    assert f"Warning: {warned}." in error
    assert warned in read(out / "probe.json")["caveats"]
    real = read(out / "probe.json")["real"]
    assert real["part"] == "test"
    assert [row["direction"] for row in real["drift"]] == ["across", "bright", "nothing"]
    assert all(len(row["times"]) == 3 for row in real["nearest"])
    assert {row["direction"] for row in real["gaps"]} <= {"across", "bright", "nothing"}
    page = (out / "index.html").read_text()
    assert "Scores of real and generated images" in page
    assert "times as far from the nearest training image" in page
    assert (read(out / "probe.json")["about"]["measure"]) is None
    (found / "scorer.safetensors").unlink()
    own = found / "measure.py"
    own.write_text(MEASURE)
    measured = [*probe[:3], "--directions", tmp_path / "measured", *probe[5:], "--measure"]
    status, shown, error = cli("directions", "find", spot, "--by", f"{own}:looks", "--out",
                               tmp_path / "measured", *CPU)  # fmt: skip
    assert status == 0, error
    assert "2 directions (measured in 2,000 generated images)" in shown
    status, _, error = cli(*measured, f"{own}:looks")
    assert status == 0, error
    real = read(out / "probe.json")["real"]
    assert [row["direction"] for row in real["drift"]] == ["bright", "tint"]
    status, _, error = cli(*measured, f"{own}:other")
    assert status == 2
    assert "measures dark; the directions are bright, tint" in error
    save_scorer(Scorer("small", (3, 16, 16), 3), found)
    status, _, error = cli(*probe, "--part", "later")
    assert status == 2
    assert "there are no later images; there are train" in error


def test_rescoring(cli, spot: str, model: Path, found: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, shown, error = cli("directions", "rescore", spot, found, "--model", model, "--before",
                               found, "--n", "20", "--out", out, *CPU)  # fmt: skip
    assert status == 0, error
    twin = read(out / "rescoring.json")
    assert twin["attributes"] == CLASSES
    assert twin["tables"]["before"] == twin["tables"]["after"]
    shift = twin["tables"]["after"]["shift"]
    assert shift[1][0] > 5 * shift[0][0]
    assert shift[2] == [0, 0]
    picture = (out / "rescoring.svg").read_text()
    assert picture.count(f">{shift[1][0]:.2f}<") >= 2
    assert "before" in picture
    assert "changes most" in shown


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--step", "0"], "a step above 0"),
        (["--columns", "4"], "odd number of columns"),
        (["--data", "gratings"], "the model knows the classes <a>, b"),
        (["--measure", "own.py:looks"], "say which ones by --data"),
        (["--model", "nowhere"], "nowhere"),
        (["--directions", "nowhere"], "there is no weights file nowhere"),
    ],
)
def test_mistakes(
    cli, spot: str, model: Path, found: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    out = tmp_path / "out"
    status, _, error = cli("directions", "probe", spot, "--directions", found, "--model", model,
                           "--out", out, *FEW, *more)  # fmt: skip
    assert status == 2
    assert said in error
    assert not out.exists()


def test_a_classifier_of_other_channels_is_refused(
    cli, spot: str, found: Path, tmp_path: Path
) -> None:
    save_classifier(build("mlp-2", channels=4, size=16, n_classes=2), tmp_path / "four")
    status, _, error = cli("directions", "probe", spot, "--directions", found, "--model",
                           tmp_path / "four", "--out", tmp_path / "out", *FEW)  # fmt: skip
    assert status == 2
    assert "3 channels and the classifier takes 4" in error
