"""Ranks of models' features: numbers, what is refused, files that are written, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typer.testing import CliRunner

import truecue
from truecue.audit.rank import (
    FeatureRank,
    RankComparison,
    Subject,
    _ordered,
    compare_ranks,
)
from truecue.cli.main import app
from truecue.cli.rank import _show, names
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError
from truecue.losses.rank import rank_penalty
from truecue.metrics.rank import effective_rank
from truecue.nets.build import build
from truecue.nets.classifier import Classifier, save_classifier
from truecue.report.rank_page import against, figures, headline, write_rank_page
from truecue.testing import small_gratings

CPU = Device("cpu")


def net(seed: int = 0, arch: str = "mlp-3x20", **more) -> Classifier:
    torch.manual_seed(seed)
    made = build(arch, channels=3, size=16, n_classes=2)
    made.spec |= more
    return made.eval()


def biased(share: float) -> Splits:
    return truecue.Gratings(conflicting=share).load()


def test_numbers_are_those_of_the_features() -> None:
    data, one = small_gratings(), net()
    found = compare_ranks([Subject("one", one, data)], n=256, device=CPU).models[0]
    with torch.no_grad():
        z = one.features(data.train.images)
    assert found.effective_rank == pytest.approx(effective_rank(z))
    assert found.effective_rank == pytest.approx(math.exp(found.entropy))
    assert found.penalty == pytest.approx(float(rank_penalty(z.double())))
    assert found.dead == int((z == z[0]).all(0).sum())
    assert found.n_features == 20
    centred = compare_ranks([Subject("one", one, data)], n=256, center=True, device=CPU).models[0]
    assert centred.effective_rank == pytest.approx(effective_rank(z, center=True))
    pred, test = one(data.test.images).argmax(1), data.test
    agrees = test.attributes["tint"].values == test.y
    shares = [float((pred == test.y)[m & (test.y == k)].float().mean())
              for m in (agrees, ~agrees) for k in (0, 1)]  # fmt: skip
    assert found.aligned == pytest.approx(sum(shares[:2]) / 2)
    assert found.conflicting == pytest.approx(sum(shares[2:]) / 2)
    tints = data.train.attributes["tint"].values
    assert found.conflicting_share == pytest.approx(float((tints != data.train.y).double().mean()))


def test_the_same_images_of_the_same_number_for_all_models() -> None:
    data, wide = small_gratings(), net(arch="mlp-3x100")
    found = compare_ranks([Subject("a", net(), data), Subject("b", wide, data)], device=CPU)
    assert found.n == 256  # 512 are not there
    again = compare_ranks([Subject("a", net(), data)], n=256, device=CPU)
    assert found.models[0].entropy == pytest.approx(again.models[0].entropy)
    one, other = (compare_ranks([Subject("a", net(), data)], n=64, seed=s, device=CPU)
                  for s in (0, 1))  # fmt: skip
    assert one.models[0].entropy != other.models[0].entropy


@pytest.mark.parametrize(
    ("widths", "n"), [((20,), 512), ((20, 300), 600), ((20, 400), 700)], ids=str
)
def test_twice_the_largest_number_of_features_are_looked_at(widths, n: int) -> None:
    data = truecue.Gratings().load()
    data = replace(data, train=data.train.select(torch.arange(700)))
    subjects = [Subject(str(width), net(arch=f"mlp-3x{width}"), data) for width in widths]
    assert compare_ranks(subjects, device=CPU).n == n


def test_alike_features_stand_side_by_side() -> None:
    first = torch.arange(8) % 2 == 0
    c = (first[:, None] == first[None]).double() * 0.9 + torch.eye(8) * 0.1
    found = _ordered(c, 8)
    assert torch.equal(found[:4, :4] > 0.5, torch.ones(4, 4) > 0)
    assert torch.equal(found[:4, 4:] > 0.5, torch.zeros(4, 4) > 0)
    assert len(_ordered(torch.eye(50).double(), 32)) == 32
    assert _ordered(torch.zeros(0, 0), 8).shape == (0, 0)


def test_without_bias_labels_the_rest_is_there() -> None:
    data = small_gratings()
    parts = {name: part.blind() for name, part in data.parts().items()}
    found = compare_ranks([Subject("one", net(), Splits(**parts))], device=CPU).models[0]
    assert found.conflicting_share is found.aligned is found.conflicting is None
    assert found.entropy > 0


@pytest.mark.parametrize(
    ("classes", "same"),
    [(None, True), (["horizontal", "vertical"], True), (["cat", "dog"], False),
     (["vertical", "horizontal"], False)],
)  # fmt: skip
def test_accuracies_are_those_of_a_model_of_the_same_classes(classes, same: bool) -> None:
    one, data = net(), small_gratings()
    if classes is not None:
        one.spec["extra"] = {"classes": classes}
    found = compare_ranks([Subject("one", one, data)], n=100, device=CPU).models[0]
    assert (found.aligned is not None) == (found.conflicting is not None) == same
    assert found.conflicting_share is not None


def test_the_bias_of_other_images_is_not_that_of_the_model() -> None:
    subject = Subject("one", net(), small_gratings(), trained_on=False)
    found = compare_ranks([subject], n=100, device=CPU).models[0]
    assert found.conflicting_share is None
    assert found.conflicting is not None


def test_a_model_whose_features_never_change_has_rank_one(tmp_path: Path) -> None:
    one = net()
    for parameter in one.encoder.parameters():
        torch.nn.init.zeros_(parameter)
    found = compare_ranks([Subject("dead", one, small_gratings())], device=CPU)
    assert found.models[0].effective_rank == 1
    assert found.models[0].dead == 20
    assert "20 features are the same" in write_rank_page(found, tmp_path).read_text()


def test_a_model_with_broken_weights_is_refused() -> None:
    one = net()
    torch.nn.init.constant_(one.encoder.layers[0].bias, math.nan)
    with pytest.raises(DataError, match=r"features of broken .* for 100 of 100 images"):
        compare_ranks([Subject("broken", one, small_gratings())], n=100, device=CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 1}, "at least 2 images; got 1"),
        ({"n": 300}, "300 images are wanted and the train split holds 256"),
        ({"split": "val", "n": 65}, "the val split holds 64"),
        ({"split": "valid"}, r"has no split 'valid' \(train, val, test\)"),
    ],
)
def test_refusals(change, words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        compare_ranks([Subject("one", net(), small_gratings())], device=CPU, **change)


def test_other_images_and_no_model_are_refused() -> None:
    small = build("mlp-3", channels=3, size=8, n_classes=2)
    with pytest.raises(DataError, match="one takes images of 3 channels and 8 pixels"):
        compare_ranks([Subject("one", small, small_gratings())], device=CPU)
    with pytest.raises(ConfigError, match="no model to look at"):
        compare_ranks([], device=CPU)


def test_page_json_and_figures(tmp_path: Path) -> None:
    subjects = [
        Subject(f"<b>{k}</b>", net(k, rank_strength=float(k)), biased(share))
        for k, share in enumerate((0.02, 0.1, 0.5))
    ]
    found = compare_ranks(subjects, n=100, device=CPU)
    page = write_rank_page(found, tmp_path, {"data": "gratings", "seed": 0}).read_text()
    numbers = json.loads((tmp_path / "rank.json").read_text())
    assert numbers["n"] == 100
    assert numbers["split"] == "train"
    assert numbers["center"] is False
    assert [m["strength"] for m in numbers["models"]] == [0, 1, 2]
    shares = [m["conflicting_share"] for m in numbers["models"]]
    assert shares == pytest.approx([0.02, 0.1, 0.5], abs=0.01)
    wanted = {"spectra.svg", "against_bias.svg", "against_strength.svg",
              *(f"correlation-{k}.svg" for k in range(3))}  # fmt: skip
    assert set(numbers["files"]) == wanted
    for name in wanted:
        assert ET.parse(tmp_path / name).getroot().tag.endswith("svg")
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert "<b>0</b>" not in page
    assert "not centred" in page
    assert headline(numbers).startswith("Effective ranks from ")
    same = compare_ranks([replace_data(s) for s in subjects], n=100, device=CPU)
    write_rank_page(same, tmp_path / "same")
    assert not (tmp_path / "same" / "against_bias.svg").exists()


def replace_data(subject: Subject) -> Subject:
    return subject._replace(data=biased(0.1))


def ranked(share: float, entropy: float, strength: float | None = None) -> FeatureRank:
    return FeatureRank("", 9, 2, torch.ones(2), entropy, 0.0, 0, torch.eye(2), share, share, share,
                       strength)  # fmt: skip


def drawn(models: list[FeatureRank], key: str) -> Axes:
    figure = Figure()
    against(models, key)(figure.subplots())
    return figure.axes[0]


def test_seeds_of_one_bias_share_a_column() -> None:
    shares = (0.05035, 0.2, 0.05013, 0.05022, 0.2001)
    models = [ranked(share, h) for share, h in zip(shares, (3.0, 5.0, 1.0, 2.0, 6.0), strict=True)]
    axes = drawn(models, "conflicting_share")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5 %", "20 %"]
    assert axes.lines[0].get_ydata().tolist() == [2, 5.5]
    columns = [dots.get_offsets().tolist() for dots in axes.collections]
    assert columns == [[[0, 1], [0, 2], [0, 3]], [[1, 5], [1, 6]]]
    shares = (0.0, 0.0, 0.01, 0.0111, 0.05, 0.06, 0.2, 0.21, 0.9, 0.902, 1.0)
    apart = drawn([ranked(share, 1.0) for share in shares], "conflicting_share")
    assert [tick.get_text() for tick in apart.get_xticklabels()] == [
        "0 %", "1.1 %", "5 %", "6 %", "20 %", "21 %", "90 %", "100 %",
    ]  # fmt: skip
    seeds = RankComparison("train", False, 9, (models[0], *models[2:4]))
    assert "against_bias.svg" not in figures(seeds), "one bias is nothing to compare"


def test_strengths_are_what_was_asked_for() -> None:
    axes = drawn([ranked(0.1, 1.0, s) for s in (0.0, 1.0, 1.05, 1.0)], "strength")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "1.05"]


def test_command(tmp_path: Path) -> None:
    runs = []
    for k, share in enumerate((0.02, 0.5)):
        method = truecue.ERM().override({"plan.epochs": 1})
        suite = truecue.Gratings(conflicting=share)
        facts = {"data": "gratings", "settings": suite.to_dict()}
        out = tmp_path / f"run{share}"
        truecue.train(method, suite.load(), out=out, seed=k, arch="mlp-3x20", device=CPU,
                      facts=facts)  # fmt: skip
        runs.append(str(out))
    save_classifier(net(), tmp_path / "[bold].safetensors")
    command = ["rank", *runs, str(tmp_path / "[bold].safetensors"), "gratings", "--out",
               str(tmp_path / "page"), "--device", "cpu"]  # fmt: skip
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert "512 images (train), not centred" in ran.output
    assert "run0.02" in ran.output
    assert "\n [bold]" in ran.output, "names are no markup"
    numbers = json.loads((tmp_path / "page" / "rank.json").read_text())
    shares = [m["conflicting_share"] for m in numbers["models"]]
    assert shares[:2] == pytest.approx([0.02, 0.5], abs=0.01), "each run has its own data"
    assert shares[2] is None, "nobody knows what it was trained on"
    assert all(m["conflicting"] is not None for m in numbers["models"])
    ran = CliRunner().invoke(app, [*command, "--set", "data.conflicting=0.3"])
    assert ran.exit_code == 0, ran.output
    numbers = json.loads((tmp_path / "page" / "rank.json").read_text())
    assert [m["conflicting_share"] for m in numbers["models"]] == [None] * 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "epochs=3"], "rank has no setting 'epochs'"),
        (["--split", "all"], "--split is train, val or test; got 'all'"),
        (["--n", "5000"], "5,000 images are wanted"),
    ],
)
def test_command_refuses(more: list[str], words: str, tmp_path: Path) -> None:
    save_classifier(net(), tmp_path / "one.safetensors")
    ran = CliRunner().invoke(
        app, ["rank", str(tmp_path / "one.safetensors"), "gratings", "--out",
              str(tmp_path / "page"), *more]
    )  # fmt: skip
    assert ran.exit_code != 0
    assert words in str(ran.exception)
    assert not (tmp_path / "page").exists()


def test_a_missing_argument_is_named(tmp_path: Path) -> None:
    one = tmp_path / "one.safetensors"
    save_classifier(net(), one)
    data = small_gratings()
    truecue.train(truecue.ERM().override({"plan.epochs": 1}), data, out=tmp_path / "run",
                  arch="mlp-3x20", device=CPU, facts={"data": "gratings"})  # fmt: skip
    for command, words in (
        ([one], f"DATA is missing: '{one}' is a model"),
        ([tmp_path / "run"], f"truecue rank {tmp_path / 'run'} gratings"),
        ([one, tmp_path / "run"], f"truecue rank {one} {tmp_path / 'run'} gratings"),
        (["gratings"], "MODEL is missing"),
    ):
        ran = CliRunner().invoke(app, ["rank", *map(str, command)])
        assert isinstance(ran.exception, ConfigError)
        assert words in str(ran.exception)


def test_a_terminal_of_80_columns_shows_whole_names_and_heads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["defund-biased-1.2-of-the-run-with-seed-0", "defund-biased-1.2-of-the-run-with-seed-1"]
    subjects = [Subject(name, net(rank_strength=k / 3), small_gratings())
                for k, name in enumerate(names)]  # fmt: skip
    _show(compare_ranks(subjects, device=CPU).to_dict())
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    for head in ("exp(H)", "features", "L_reg", "strength", "aligned"):
        assert head in shown
    column = "".join(line[:30].split()[0] for line in shown.splitlines() if line[:30].strip())
    for name in names:
        assert name in column, "folded, not cut off"


def test_one_feature_is_singular_on_the_page(tmp_path: Path) -> None:
    one = net()
    last = [layer for layer in one.encoder.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight[0], last.bias[0] = 0, 1  # and no other feature never changes
        last.bias[1:] = 10
    found = compare_ranks([Subject("one", one, small_gratings())], device=CPU)
    assert found.models[0].dead == 1
    assert "one: 1 feature is the same" in write_rank_page(found, tmp_path).read_text()


def test_names_tell_paths_apart() -> None:
    assert names([Path("runs/a0.01"), Path("runs/b.safetensors")]) == ["a0.01", "b"]
    assert names([Path("x/model.safetensors"), Path("y/model.safetensors")]) == [
        "x/model", "y/model",
    ]  # fmt: skip
    assert names([Path("x"), Path("x")]) == ["x (1)", "x (2)"]
