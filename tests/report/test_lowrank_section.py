"""DeFund's section of the report: numbers against recomputation, the page, what may be absent."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

import truecue
from truecue.audit.rank import correlation_map
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.run import Run
from truecue.fitting import Fitted
from truecue.methods.defund import DeFund
from truecue.metrics.rank import effective_rank
from truecue.nets.classifier import load_classifier
from truecue.report.lowrank import BINS, POINTS, SHEET, SIDE, _curve, _histogram, lowrank_part
from truecue.report.lowrank_view import lowrank_view
from truecue.report.view import percent
from truecue.testing import small_gratings

QUICK = {
    "pretrain.epochs": 2, "pretrain.batch_size": 64, "pretrain.augment": ["flip"],
    "probe.epochs": 3, "plan.epochs": 3, "probe.optimizer.lr": 0.01, "plan.optimizer.lr": 0.01,
}  # fmt: skip


def trained(out: Path, data: Splits | None = None, **settings) -> dict:
    method = truecue.DeFund().override(QUICK | settings)
    truecue.train(method, data or small_gratings(), out=out, arch="mlp-3", device=Device("cpu"))
    return json.loads((out / "report.json").read_text())


def test_numbers_and_page(tmp_path: Path) -> None:
    report = trained(tmp_path, strengths=[0.5, 2.0], cutoff=0.4)
    found, kept = report["lowrank"], load_file(tmp_path / "defund" / "once" / "errors.safetensors")
    train = small_gratings().train
    conflicting = train.attributes["tint"].values != train.y
    mean = kept["scores"][1:].mean(0)
    errors = mean > 0.4
    assert found["errors"]["count"] == int(errors.sum())
    assert found["errors"]["by_class"] == torch.bincount(train.y[errors], minlength=2).tolist()
    hits = float((errors & conflicting).sum())
    assert found["errors"]["precision"]["value"] == pytest.approx(hits / float(errors.sum()))
    assert found["errors"]["recall"]["value"] == pytest.approx(hits / float(conflicting.sum()))
    assert [row["strength"] for row in found["single"]] == [0, 0.5, 2]
    for row, score in zip(found["single"], kept["scores"], strict=True):
        assert row["auprc"] == pytest.approx(average_precision_score(conflicting, score))
    assert found["mean"]["auprc"] == pytest.approx(average_precision_score(conflicting, mean))
    assert sum(found["histogram"]["conflicting"]) == int(conflicting.sum())
    assert [row["name"].split(":")[0] for row in found["table"]][::3] == ["plain", "oracle"]
    assert "bias labels" in found["table"][-1]["labels"]
    assert not any("bias labels" in row["labels"] for row in found["table"][:-1])
    assert found["table"][2]["test"] == report["models"]["defund"]["test"]
    stages = {row["stage"] for row in found["training"]}
    assert stages == {"pretrain-0", "pretrain-0.5", "pretrain-2"}
    assert report["labels_used"]["training"] == "class labels only"
    strengths = {file.stem: load_classifier(file).spec.get("rank_strength")
                 for file in tmp_path.glob("*.safetensors")}  # fmt: skip
    assert strengths == {
        "model": 0, "defund-plain": 0, "defund-errors-0": 0, "defund-debiased": 0,
        "defund-biased-0.5": 0.5, "defund-biased-2": 2, "erm": None,
    }, "of their encoders: `truecue rank` draws ranks against it"  # fmt: skip
    assert "suspects" not in report
    page = (tmp_path / "report.html").read_text()
    section = page.partition("What the biased encoder stumbles over")[2].partition("</section>")[0]
    assert section.count('<figure class="panel">') == 7
    for strength in ("0", "2"):
        assert f'alt="Which features go together, strength {strength}"' in section
    assert section.count('class="photo ') == SHEET
    assert "mean score: area" in section
    bars = re.search(r'<img src="([^"]+)" alt="(Accuracy on conflicting test images: [^"]+)"', page)
    assert bars is not None
    plain = report["models"]["erm"]["test"]["conflicting"]["value"]
    assert f"Plain training {percent(plain)}" in bars[2]
    for name in ("plain last layer", "errors of strength 0", "errors of strength 0.5, 2", "oracle"):
        assert f"{name} {percent(None)}"[:-2] in " ".join(bars[2].split())
    assert len(re.findall(r">\d+\u00a0%</text>|>&lt;1", svg_of(bars[1]))) >= 10, "two for each"
    assert f"<strong>{int(errors.sum())}</strong>" in section


@pytest.fixture
def by_hand() -> tuple[DeFund, Fitted, Splits]:
    """A fitted DeFund whose scores were made up; the strength 0 is not among those chosen."""
    data, run = small_gratings(), Run(None, 0, Device("cpu"), arch="mlp-3")
    rng = torch.Generator().manual_seed(0)
    ids = torch.randperm(256, generator=rng)[:100].sort().values
    scores = torch.rand(3, 100, generator=rng, dtype=torch.float64)
    scores[0] = 1 - scores[1:].mean(0)
    run.tell("errors", {
        "ids": ids, "scores": scores, "wrong": scores > 0.5, "errors": scores[1:].mean(0) > 0.4,
        "strengths": torch.tensor([0, 0.5, 2]), "chosen": torch.tensor([False, True, True]),
    })  # fmt: skip
    run.tell("encoders", {"strengths": torch.tensor([0.0, 0.5, 2]),
                          "features": torch.rand(3, 50, 80, generator=rng)})  # fmt: skip
    method = DeFund().override({"strengths": [0.5, 2.0], "upweight": 7.0, "variant": "supervised"})
    return method, Fitted(run.new_net(data.train), run, 0.0), data


def test_the_mean_score_is_that_of_the_chosen_strengths(by_hand) -> None:
    method, fitted, data = by_hand
    found = fitted.run.told["errors"]
    part, sheet = lowrank_part(method, fitted, data, Device("cpu"))
    ids, mean = found["ids"], found["scores"][1:].mean(0)
    conflicting = (data.train.attributes["tint"].values != data.train.y)[ids]
    wanted = {
        kind: torch.histc(mean[which], BINS, 0, 1).tolist()
        for kind, which in (("aligned", ~conflicting), ("conflicting", conflicting))
    }
    assert part["histogram"] == wanted
    assert part["mean"]["auprc"] == pytest.approx(average_precision_score(conflicting, mean))
    top = mean.topk(SHEET)
    said = [caption.rpartition(" · ")[2] for caption in sheet.captions]
    assert said == [f"score {score:.2f}" for score in top.values.tolist()]
    assert torch.equal(sheet.images, data.train.images[:][ids[top.indices]])


def test_maps_show_which_features_go_together(by_hand) -> None:
    method, fitted, data = by_hand
    features = fitted.run.told["encoders"]["features"]
    features[2, :, ::2] = features[2, :, :1]  # of the strongest encoder half are one and the same
    part, _ = lowrank_part(method, fitted, data, Device("cpu"))
    plain, strongest = part["correlations"]
    assert (plain["strength"], strongest["strength"]) == (0, 2)
    for row, k in ((plain, 0), (strongest, 2)):
        found = torch.tensor(row["absolute"])
        assert found.shape == (SIDE, SIDE), "of 80 features"
        torch.testing.assert_close(found, correlation_map(features[k].double(), SIDE),
                                   atol=0.0051, rtol=0)  # fmt: skip
    share = float((torch.tensor(strongest["absolute"]) > 0.99).float().mean())
    assert share == pytest.approx(0.25, abs=0.03), "a quarter of all pairs, side by side"
    assert float(torch.tensor(plain["absolute"]).mean()) < 0.2
    assert part["spectra"]["n"] == 50
    wanted = [effective_rank(z) for z in features]
    assert [row["effective_rank"] for row in part["spectra"]["of"]] == pytest.approx(wanted)


def test_the_oracle_draws_the_conflicting_images_more_often(by_hand, monkeypatch) -> None:
    method, fitted, data = by_hand
    errors = fitted.run.told["errors"]
    whole = {"ids": torch.arange(256), "scores": torch.rand(3, 256).double()}
    whole |= {"wrong": whole["scores"] > 0.5, "errors": whole["scores"][0] > 0.5}
    fitted.run.tell("errors", errors | whole)
    drawn = {}

    def untrained(self, stage, make, data, plan, *, weights, **_):
        drawn[stage] = weights
        return make()

    monkeypatch.setattr(Run, "train", untrained)
    part, _ = lowrank_part(method.override({"variant": "linear"}), fitted, data, Device("cpu"))
    conflicting = data.train.attributes["tint"].values != data.train.y
    assert torch.equal(drawn["oracle"], torch.where(conflicting, 7.0, 1.0).double())
    assert part["table"][-1]["name"].startswith("oracle")


def svg_of(address: str) -> str:
    return base64.b64decode(address.partition(",")[2]).decode()


def test_labels_of_the_figures_are_not_cut_off(tmp_path: Path) -> None:
    panels = lowrank_view(trained(tmp_path, strengths=[2.0]))["panels"]
    scores = svg_of(next(p.source for p in panels if p.title == "Bias scores"))
    place = re.search(r'transform="rotate\(-90 ([\d.]+) [\d.]+\)"[^>]*>images<', scores)
    assert place is not None
    assert float(place[1]) > 9, "its letters are 9 points high, and end here"


def test_without_bias_labels(tmp_path: Path) -> None:
    data = small_gratings()
    parts = {name: part.blind() for name, part in data.parts().items()}
    found = trained(tmp_path, Splits(**parts), strengths=[2.0])["lowrank"]
    assert found["errors"]["precision"] is None
    assert list(found["histogram"]) == ["all"]
    assert len(found["table"]) == 3, "no oracle without bias labels"
    page = (tmp_path / "report.html").read_text()
    assert "Finding conflicting images" not in page
    assert "highest bias scores" in page


def test_part_of_the_labels(tmp_path: Path) -> None:
    report = trained(tmp_path, variant="semi", labelled=0.25, strengths=[2.0])
    found = report["lowrank"]
    assert found["labelled"] == sum(map(sum, found["histogram"].values())) == 64
    assert found["table"][0]["name"] == "plain: last layer alone, nothing drawn more often"
    assert report["labels_used"]["training"] == "class labels of 25 % of the training images"
    page = (tmp_path / "report.html").read_text()
    assert "answered for 64 training images whose labels are used (of 256)" in page


def test_histogram_and_curve_of_given_scores() -> None:
    scores = torch.tensor([0.0, 0.999, 1.0, 0.5, 0.26], dtype=torch.float64)
    agree = torch.tensor([1, 0, 0, 1, -1])
    counts = _histogram(scores, agree)
    assert counts["aligned"][0] == counts["aligned"][BINS // 2] == 1
    assert counts["conflicting"][-1] == 2
    assert counts["not known"][5] == 1
    found = _curve(scores, agree)
    assert found["auprc"] == 1
    assert found["pr"][0][0] == 0
    assert _curve(scores, torch.ones(5))["auprc"] is None


def test_curve_of_rare_conflicting_images_keeps_the_top_of_the_ranking() -> None:
    n, rare = 54_000, 540
    scores = torch.linspace(1, 0, n, dtype=torch.float64)
    agree = torch.ones(n, dtype=torch.int64)
    agree[:rare] = 0  # all of them come first
    perfect = _curve(scores, agree)["pr"]
    assert len(perfect) == POINTS
    assert {p for _, p in perfect} == {1.0}
    agree[:100], agree[540:640] = 1, 0  # an aligned block before them
    found = _curve(scores, agree)["pr"]
    assert found[0] == (0, 1)
    assert found[1][1] < 0.1
    assert found[-1] == (1, pytest.approx(rare / 640, abs=1e-4))
    gaps = [after - before for (before, _), (after, _) in pairwise(found)]
    assert max(gaps) < 2 / POINTS


def test_training_figures_have_a_point_for_each_epoch(tmp_path: Path) -> None:
    # batches of 2: 128 steps an epoch, so that the loop looks at 50, 100 and 128
    report = trained(tmp_path, **{"pretrain.batch_size": 2, "pretrain.epochs": 2})
    assert [row["epoch"] for row in report["lowrank"]["training"]] == [1, 2, 1, 2]
    losses = report["models"]["defund"]["losses"]
    assert [row["epoch"] for row in losses if row["stage"] == "pretrain-0"] == [1, 2]


def test_other_methods_have_no_section() -> None:
    assert lowrank_view({"models": {}}) is None


@pytest.mark.slow
def test_going_on_gives_the_same_section(tmp_path: Path) -> None:
    one = trained(tmp_path, strengths=[2.0])
    (tmp_path / "report.json").unlink()
    assert trained(tmp_path, strengths=[2.0])["lowrank"] == one["lowrank"]


def test_unknown_bias_values_are_left_out_of_precision(tmp_path: Path) -> None:
    data = small_gratings()
    tint = data.train.attributes["tint"]
    values = tint.values.clone()
    values[::2] = -1
    train = replace(data.train, attributes={"tint": tint._replace(values=values)})
    found = trained(tmp_path, replace(data, train=train), strengths=[2.0])["lowrank"]
    known = values >= 0
    kept = load_file(tmp_path / "defund" / "once" / "errors.safetensors")
    assert found["errors"]["precision"]["n"] == int((kept["errors"] & known).sum())
    assert sum(found["histogram"]["not known"]) == int((~known).sum())
