from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from bench_parts import SMALL, result, run_here, small

from truecue.bench.rules import RULES, choose, compare_rules, guessed, metric_of, rule_values
from truecue.engine.record import packed
from truecue.errors import ConfigError

# epoch 1: by the cue; epoch 2: all but one cell right; epoch 3: worse again
HITS = [[[4, 0], [0, 4]], [[4, 4], [1, 4]], [[2, 2], [2, 2]]]
SAYS = [[0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 0, 1, 1, 0, 1]]


@pytest.fixture
def made():
    return result(HITS, SAYS)


def test_metrics_of_an_epoch(made) -> None:
    second = made["records"][1]
    expected = {
        "unbiased": 13 / 16, "aligned": 1.0, "conflicting": 5 / 8, "worst_group": 1 / 4,
        "worst_class": 5 / 8, "average": 13 / 16,
    }  # fmt: skip
    for metric, value in expected.items():
        assert metric_of(made, second, metric) == pytest.approx(value)
    made["task"]["aligned"] = None
    assert math.isnan(metric_of(made, second, "unbiased"))
    assert metric_of(made, second, "average") == pytest.approx(13 / 16)


def test_values_of_every_rule_against_hand_computation(made) -> None:
    # the first image of each class is one that two classifiers disagree on: six others are aligned,
    # too few of each class, and together a group; so are the two, which are all on their side
    disagree = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0]).bool()
    expected = {
        "last": [0, 1, 2],
        "val_loss": [-1, -1 / 2, -1 / 3],
        "val_worst_class": [3 / 4, 3 / 4, 3 / 4],
        # aligned: five of six; conflicting: the fourth and the eighth image
        "val_worst_group": [0, 1 / 2, 4 / 6],
        "oracle_test": [1 / 2, 13 / 16, 1 / 2],
        "val_pseudo_group": [4 / 6, 5 / 6, 4 / 6],
    }
    for rule, values in expected.items():
        assert rule_values(made, rule, "unbiased", disagree) == pytest.approx(values), rule
    assert rule_values(made, "val_pseudo_group", "unbiased") is None


def test_rules_without_what_they_need(made) -> None:
    del made["val"]["bias"]
    assert rule_values(made, "val_worst_group", "unbiased") is None
    made["val"] = None
    assert rule_values(made, "val_loss", "unbiased") is None
    assert rule_values(made, "last", "unbiased") == [0, 1, 2]


def test_a_loss_that_was_not_finite_is_never_chosen(made) -> None:
    records = [dict(record) for record in made["records"]]
    records[-1]["val_loss"] = None  # how a file holds it
    values = rule_values(made | {"records": records}, "val_loss", "unbiased")
    assert choose(values) == 1


def test_guessing_by_a_method_without_branches_is_refused(made, tmp_path: Path) -> None:
    bench, _, _ = small(tmp_path, 'guess = "erm"\n' + SMALL)
    with pytest.raises(ConfigError, match="guess: 'erm' has no biased and debiased network"):
        guessed(bench, {("tints", "erm", 0): made}, "tints", 0)
    assert guessed(bench, {}, "tints", 0) is None


def test_the_first_of_equals_is_chosen_and_nan_never() -> None:
    assert choose([0.1, 0.5, 0.5]) == 1
    assert choose([math.nan, 0.2, 0.1]) == 1
    assert choose([math.nan, math.nan]) == 1


def test_compared_rules_on_real_runs(tmp_path: Path) -> None:
    bench, wanted, store = small(tmp_path)
    with pytest.raises(ConfigError, match="no result yet"):
        compare_rules(bench, wanted, store)
    run_here(wanted, store)
    choices = {(c.suite, c.method, c.rule): c for c in compare_rules(bench, wanted, store)}
    assert {rule for _, _, rule in choices} == set(RULES)
    for suite in bench.suites:
        for method in bench.methods:
            last = choices[suite, method, "last"]
            assert last.epochs == (4, 4)
            assert last.out_of == 4
            reports = [store.result(c) for c in wanted if (c.suite, c.method) == (suite, method)]
            delivered = [r["model"]["test"]["unbiased"]["value"] for r in reports]
            assert last.chosen.value == pytest.approx(sum(delivered) / 2)
            for rule in RULES:  # nothing beats the oracle by the oracle's own metric
                best = choices[suite, method, "oracle_test"].chosen.value
                assert choices[suite, method, rule].chosen.value <= best + 1e-9
            assert choices[suite, method, "val_worst_group"].short.value == 0


def test_shortfall_is_seed_by_seed(tmp_path: Path) -> None:
    bench, wanted, store = small(tmp_path)
    run_here(wanted, store)
    for c in compare_rules(bench, wanted, store, "worst_group"):
        same = [
            d for d in compare_rules(bench, wanted, store, "worst_group")
            if (d.suite, d.method, d.rule) == (c.suite, c.method, "val_worst_group")
        ]  # fmt: skip
        assert c.short.value == pytest.approx(same[0].chosen.value - c.chosen.value)


def test_guesses_are_packed_with_results(tmp_path: Path) -> None:
    _, wanted, store = small(tmp_path)
    run_here(wanted[:2], store)
    erm, lff = (store.result(c) for c in wanted[:2])
    assert erm["guesses"] == {}
    assert set(lff["guesses"]) == {"biased", "debiased"}
    assert len(lff["guesses"]["biased"]) >= len(packed(torch.zeros(1).long()))


def test_the_delivered_epoch_is_among_the_candidates(tmp_path: Path) -> None:
    text = SMALL.replace(
        '"plan.epochs" = 4', '"plan.epochs" = 9, "plan.select" = "val_worst_class"'
    )
    text = text.replace("record = 4", "record = 2")
    _, wanted, store = small(tmp_path, text)
    run_here(wanted[:1], store)
    found = store.result(wanted[0])
    best = found["model"]["stages"][0]["best_epoch"]
    epochs = [r["epoch"] for r in found["records"]]
    assert best not in (5, 9), "the recorder would have noted it anyhow"
    assert epochs == sorted([5, 9, best])
    hits = found["records"][epochs.index(best)]["test_hits"]
    assert hits == found["model"]["test"]["cells"]["hits"]
