"""The section on pairs: its numbers against a loop, what is missing, names that are hostile."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import torch
from report_sample import sample_pictures, sample_report

from truecue.audit.pairs import BINS, pair_history, pair_numbers, skipped_shares
from truecue.data.sets import Attribute, ImageSet
from truecue.engine.device import Device
from truecue.engine.run import Pairs
from truecue.losses.contrastive import similarities
from truecue.nets.build import build
from truecue.report.page import render
from truecue.report.pairs import section


def images(n: int = 40, known: bool = True) -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 4, 4), generator=rng).to(torch.uint8)
    values = torch.randint(2, (n,), generator=rng)
    attributes = {"tint": Attribute(values, ("warm", "cold"))} if known else {}
    return ImageSet(x, torch.randint(2, (n,), generator=rng), ("no", "yes"), attributes)


def log_row(at: float, there: float) -> dict[str, Any]:
    """A look at the logs of epochs of 100 batches."""
    row = {"stage": "fit", "step": round(100 * at), "at": at}
    row |= {"skipped_pos": 1 - there, "skipped_neg": 0.0}
    for name in ("PA", "PC", "NA", "NC"):
        row |= {f"pairs_{name}": 10.0, f"there_{name}": 1.0, f"mean_{name}": 0.5}
    return row | {"there_PC": there, "mean_PC": 0.2 * there}


def numbers(known: bool = True, guessed: bool = False):
    torch.manual_seed(0)
    nets = {k: build("mlp-3", channels=3, size=4, n_classes=2) for k in ("erm", "denetdm")}
    rows = [{"loss": 1.0}, log_row(0.25, 0.5), log_row(1.0, 0.0)]
    return nets, pair_numbers(
        nets, images(known=known), "tint" if known else None, Pairs("biased" if guessed else None),
        nets["erm"] if guessed else None, rows, Device("cpu"),
    )  # fmt: skip


def test_numbers_equal_a_loop():
    nets, found = numbers()
    of = images()
    s = similarities(nets["erm"].eval().features(of.images).double()).detach()
    sets: list[list[float]] = [[], [], [], []]
    b = of.attributes["tint"].values
    for i in range(40):
        for j in range(40):
            if i != j:
                place = 2 * bool(of.y[i] != of.y[j]) + bool(b[i] != b[j])
                sets[place].append(float(s[i, j]))
    model = found["models"]["erm"]
    assert model["pairs"] == [len(values) for values in sets]
    assert model["means"] == pytest.approx([sum(v) / len(v) for v in sets], abs=1e-5)
    assert [sum(row) for row in model["histogram"]] == model["pairs"]
    middle = [sum(n * ((k + 0.5) * 2 / BINS - 1) for k, n in enumerate(row)) / sum(row)
              for row in model["histogram"]]  # fmt: skip
    assert middle == pytest.approx(model["means"], abs=1.01 / BINS)
    means = model["penalties"]["means"]
    assert means["pos"] == pytest.approx((model["means"][0] - model["means"][1]) ** 2, abs=1e-5)
    assert means["sum"] == pytest.approx(means["pos"] + means["neg"], abs=2e-6)
    assert set(model["penalties"]) == {
        "end_linear", "means", "mean_std", "kl", "jeffreys", "mmd_rbf", "official"
    }  # fmt: skip


def test_means_of_training_are_those_of_batches_that_have_pairs():
    history = pair_history([{"loss": 1.0}, log_row(1.0, 0.5), log_row(2.0, 0.0)])
    assert [row["means"]["PC"] for row in history] == [0.2, None]
    assert [row["means"]["PA"] for row in history] == [0.5, 0.5]
    assert [row["epoch"] for row in history] == [1.0, 2.0]
    assert len(pair_history([log_row(k + 1.0, 1.0) for k in range(1000)])) <= 400


def test_a_look_at_few_batches_is_no_epoch():
    # 98 batches with pairs, and the last two of the epoch without
    rows = [log_row(0.5, 1.0), log_row(0.98, 1.0), log_row(1.0, 0.0), log_row(1.5, 1.0)]
    rows[2] |= {"pairs_PC": 60.0, "mean_NC": -1.0}
    history = pair_history(rows)
    assert [row["epoch"] for row in history] == [1.0, 1.5]
    first = history[0]
    assert first["skipped"] == {"pos": pytest.approx(0.02), "neg": 0}
    assert first["pairs"]["PC"] == pytest.approx(11)
    assert first["means"] == {"PA": 0.5, "PC": 0.2, "NA": 0.5, "NC": 0.47}


def test_skipped_batches_are_counted_in_all_rows_not_in_those_that_are_drawn():
    rows = [log_row(k + 1.0, float(k % 3 > 0)) for k in range(1000)]
    assert {row["skipped"]["pos"] for row in pair_history(rows)} == {1}  # every third row is kept
    assert skipped_shares(rows) == {"pos": pytest.approx(0.334), "neg": 0}
    assert skipped_shares([{"loss": 1.0}]) is None
    uneven = [log_row(0.25, 0.5), log_row(1.0, 0.0)]
    assert skipped_shares(uneven) == {"pos": pytest.approx(0.875), "neg": 0}


def test_without_bias_labels_guesses_stand_for_them_or_nothing_is_shown():
    assert numbers(known=False)[1] is None
    nets, found = numbers(known=False, guessed=True)
    assert (found["bias"], found["guessed_by"]) == (None, "biased")
    says = nets["erm"].eval()(images().images).argmax(1)
    order = torch.tensor(found["dots"]["bias"])
    assert sorted(order.tolist()) == sorted(says.tolist())


def test_section_says_what_was_measured():
    report = sample_report() | {"pairs": numbers()[1]}
    made = section(report)
    assert made is not None
    # 0.25 epochs with half of the batches skipped, 0.75 with all
    assert made["skipped"] == ("88\u00a0%", "0\u00a0%")
    assert [len(row) for row in made["scatters"]] == [2, 2]
    text = render(report, sample_pictures())
    assert "Who is similar to whom" in text
    assert "same class, other tint" in text
    assert text.count("data:image/svg+xml;base64") >= 9
    for panel in (*made["histograms"], *made["training"], *made["scatters"][0]):
        assert base64.b64decode(panel.source.partition(",")[2]).startswith(b"<?xml")
    assert section(sample_report()) is None
    assert "Who is similar to whom" not in render(sample_report(), sample_pictures())


def test_section_says_that_guesses_were_weighed():
    found = numbers(guessed=True)[1]
    made = section(sample_report() | {"pairs": found})
    assert made is not None
    assert made["training"][2].title == "Batches that lacked a kind of pair"
    text = render(sample_report() | {"pairs": found}, sample_pictures())
    assert "among images of one class in 88\u00a0% of the batches" in text
    assert "A part is skipped" not in text
    plain = render(sample_report() | {"pairs": numbers()[1]}, sample_pictures())
    assert "A part is skipped" in plain
    assert "weighed each pair" not in plain


def test_hostile_names_are_text():
    found = numbers()[1]
    evil = "<script>alert(1)</script>{{ 7 * 7 }}"
    found["bias"], found["dots"]["values"] = evil, [evil, "b"]
    text = render(sample_report() | {"pairs": found}, sample_pictures())
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
