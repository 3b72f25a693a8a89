from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from bench_parts import SMALL, run_here, small
from typer.testing import CliRunner

from truecue.bench import plots
from truecue.bench import table as t
from truecue.bench.plan import Bench, Cell
from truecue.bench.pool import Outcome
from truecue.bench.rules import compare_rules
from truecue.bench.store import Store
from truecue.bench.sweep import Trial, judge, settings_tried, sweep_cells
from truecue.cli.main import app
from truecue.errors import ConfigError
from truecue.metrics.intervals import student_t

PAPER = """
[[published]]
source = "A & B, Table 1"
differs = "another network, best epoch on test"
[published.values.erm]
tints = 51.5
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Bench, list[Cell], Store]:
    bench, wanted, store = small(tmp_path_factory.mktemp("bench"), SMALL + PAPER)
    run_here(wanted[:-1], store)
    store.keep(Outcome(wanted[-1], None, "it broke"))
    return bench, wanted, store


def test_wide_table_has_means_intervals_labels_failures_and_papers(made) -> None:
    bench, wanted, store = made
    found = t.rows(bench, wanted, store)
    head, lines = t.wide(bench, found, "unbiased")
    assert head == ["method", "tints", "more", *t.HEAD]
    assert [line[0] for line in lines] == ["erm", "erm, A & B, Table 1 (not comparable)", "lff"]
    values = [store.result(c)["model"]["test"]["unbiased"]["value"] for c in wanted
              if (c.method, c.suite) == ("erm", "tints")]  # fmt: skip
    half = 12.7062 * abs(values[0] - values[1]) / 2  # t quantile with one degree of freedom
    assert lines[0][1] == f"{50 * sum(values):.1f} ± {100 * half:.1f}"
    assert lines[0][3:6] == ["class labels only", "none", "last"]
    assert lines[1][1:3] == ["51.5", ""]
    assert lines[2][2].endswith("(n=1) 1 failed")
    said = "\n".join(t.notes(bench, found, "unbiased"))
    assert "lff on more, seed 1: it broke." in said
    assert "not comparable: another network, best epoch on test" in said
    assert "cpu" in said
    assert "not been run" not in said


def test_what_has_not_been_run_is_counted(tmp_path: Path) -> None:
    bench, wanted, store = small(tmp_path)
    for count, words in (
        (2, "2 cells have not been run yet."),
        (1, "1 cell has not been run yet."),
    ):
        for cell in wanted[: len(wanted) - count]:
            store.keep(Outcome(cell, None, "it broke"))
        found = t.rows(bench, wanted, store)
        assert words in t.notes(bench, found, "unbiased")


def test_markdown_and_latex_have_every_field(made) -> None:
    bench, wanted, store = made
    found = t.rows(bench, wanted, store)
    head, lines = t.wide(bench, found, "worst_group")
    text = t.markdown("Title", head, lines, ["note"])
    assert text.count("\n|") == 2 + len(lines)
    tex = t.latex("100 %", ["a_b", "c"], [["1 ± 2", "x & y"]], ["5 %"])
    assert r"a\_b & c \\" in tex
    assert r"1 $\pm$ 2 & x \& y \\" in tex
    assert r"\caption{100 \%. 5 \%}" in tex


def test_labels_used_on_single_suites_are_shown(tmp_path: Path) -> None:
    text = SMALL.replace(
        "[methods.lff]", '[methods.lff]\non.more = { "plan.select" = "val_worst_group" }'
    )
    bench, wanted, store = small(tmp_path, text)
    found = t.rows(bench, wanted, store)
    _, lines = t.wide(bench, found, "unbiased")
    assert lines[0][4:6] == ["none", "last"]
    assert lines[1][4:6] == [
        "none / class and bias labels of validation images", "last / val_worst_group"
    ]  # fmt: skip
    assert not any("Hardware" in said for said in t.notes(bench, found, "unbiased"))
    assert "nan" not in t.as_csv(bench, found)


def test_latex_takes_any_name() -> None:
    text = t.latex("", ["a~b^c"], [[r"\x_{1} <5 %"]], [])
    assert r"a\textasciitilde{}b\textasciicircum{}c" in text
    assert r"\textbackslash{}x\_\{1\} \textless{}5 \%" in text


def test_csv_has_a_line_for_each_metric_and_published_figures(made) -> None:
    bench, wanted, store = made
    found = t.rows(bench, wanted, store)
    rows = list(csv.DictReader(io.StringIO(t.as_csv(bench, found))))
    assert len(rows) == 4 * len(t.METRICS) + 1
    ours = next(r for r in rows if (r["method"], r["suite"]) == ("lff", "tints"))
    assert ours["seeds"] == "0 1"
    assert rows[-1]["source"] == "A & B, Table 1"
    assert float(rows[-1]["mean"]) == 0.515


def test_json_has_every_seed_and_rule(made) -> None:
    bench, wanted, store = made
    found = t.rows(bench, wanted, store)
    said = json.loads(t.as_json(bench, found, compare_rules(bench, wanted, store)))
    row = next(r for r in said["rows"] if (r["method"], r["suite"]) == ("erm", "more"))
    assert len(row["values"]["unbiased"]) == 2
    assert {r["rule"] for r in said["rules"]} >= {"last", "val_worst_group", "oracle_test"}
    assert Bench(**said["bench"]) == bench


def test_rules_table_states_the_shortfall(made) -> None:
    bench, wanted, store = made
    choices = compare_rules(bench, wanted, store)
    head, lines, said = t.rules_table(bench, choices, "unbiased")
    assert head[-1] == "short"
    by_rule = {(line[0], line[1]): line for line in lines}
    assert by_rule["erm", "val_worst_group"][-1] == "0.0"
    assert "no rule to use" in said[0]


def test_pictures_show_every_method(made) -> None:
    bench, wanted, store = made
    found = t.rows(bench, wanted, store)
    choices = compare_rules(bench, wanted, store)
    pictures = plots.pictures(bench, wanted, found, choices, "unbiased")
    assert set(pictures) == {"ratio", "rules", "heat"}
    for name in ("ratio", "heat"):
        text = pictures[name].decode()
        assert text.lstrip().startswith("<?xml")
        assert "erm" in text
        assert "lff" in text
    shown = f"{100 * found[0].estimate('unbiased').value:.1f}"
    assert shown in pictures["heat"].decode()
    assert ">unbiased accuracy, %<" in pictures["heat"].decode()  # what the numbers are
    one = [c for c in wanted if c.suite == "tints"]
    assert plots.against_ratio(bench, one, found, "unbiased") is None


def test_published_figures_are_hollow_marks_in_the_ratio_plot(made) -> None:
    bench, wanted, store = made
    found = t.rows(bench, wanted, store)
    theirs = "published: A & B, Table"
    picture = plots.against_ratio(bench, wanted, found, "unbiased").decode()
    assert "published: A &amp; B," in picture
    assert "(not comparable)" in picture
    marks = picture.count("fill: none; stroke: #1c2430")  # in the colour of the first method
    other = plots.against_ratio(bench, wanted, found, "worst_group").decode()
    assert "published" not in other
    assert theirs not in other
    assert marks > other.count("fill: none; stroke: #1c2430")


GRID = """
[sweep]
method = "lff"
suite = "tints"
kind = "grid"
seeds = [0]
[sweep.space]
q = { choice = [0.3, 0.7] }
"plan.optimizer.lr" = { choice = [0.001, 0.01, 0.02] }
"plan.batch_size" = { choice = [64] }
"""


def trials_of(bench: Bench) -> list[Trial]:
    """Made up: 40 % with the first values, 10 points more with each further one."""
    made = []
    for k, settings in enumerate(settings_tried(bench.sweep)):
        made.append(Trial(settings, k / 10, (1,), student_t([0.4 + k / 10]), 0.01 * (k + 1)))
    return made[::-1]  # the best first


def test_a_grid_over_two_settings_is_a_heat_map(tmp_path: Path) -> None:
    bench, _, _ = small(tmp_path, SMALL + GRID)
    picture = plots.sweep_map(bench, trials_of(bench), "unbiased").decode()
    for text in ("q 0.3", "q 0.7", "0.001", "0.02", "40.0", "90.0", "|E|/N 1 %", "|E|/N 6 %"):
        assert text in picture, text
    assert "framed: best by val_worst_class" in picture
    assert "batch_size" not in picture, "it has one value"
    assert plots.sweep_map(bench, [], "unbiased") is None
    for text in (SWEEP, GRID.replace("[64]", "[64, 32]"), GRID.replace("[0.3, 0.7]", "[0.3]")):
        other, _, _ = small(tmp_path, SMALL + text)
        assert plots.sweep_map(other, trials_of(other), "unbiased") is None


def test_the_command_draws_a_sweep_before_anything_else_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = GRID.replace("0.001, 0.01, 0.02", "0.001, 0.01")
    bench, _, store = small(tmp_path, SMALL + grid)
    command = ["bench", "plot", str(tmp_path / "small.toml"), "--out", str(store.folder), "--to",
               str(tmp_path / "pictures")]  # fmt: skip
    refused = CliRunner().invoke(app, command)
    assert "there is no result yet" in str(refused.exception)
    trials = sweep_cells(bench, None)
    run_here([c for trial in trials for c in trial], store)
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.exception
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["sweep.svg"]
    best = judge(bench, trials, [], store)[0]
    assert math.isnan(best.errors), "LfF draws no errors more often"
    assert f"{100 * best.test.value:.1f}" in (tmp_path / "pictures" / "sweep.svg").read_text()


SWEEP = """
[sweep]
method = "lff"
suite = "tints"
trials = 3
seeds = [0]
[sweep.space]
q = { uniform = [0.3, 0.9] }
"plan.optimizer.lr" = { log = [1e-4, 1e-2] }
"""


def test_sweep_tries_settings_and_puts_the_best_first(tmp_path: Path) -> None:
    bench, _, store = small(tmp_path, SMALL + SWEEP)
    tried = settings_tried(bench.sweep)
    assert tried == settings_tried(bench.sweep)
    assert len({t["q"] for t in tried}) == 3
    assert all(0.3 <= t["q"] <= 0.9 and 1e-4 <= t["plan.optimizer.lr"] <= 1e-2 for t in tried)
    trials = sweep_cells(bench, None)
    assert [c[0].fit.q for c in trials] == [t["q"] for t in tried]
    assert [str(c[0]) for c in trials] == [
        f"lff on tints, seed 0 (q = {t['q']}, plan.optimizer.lr = {t['plan.optimizer.lr']})"
        for t in tried
    ]
    assert all(c[0].key() == c[0]._replace(tried="").key() for c in trials)
    run_here([c for trial in trials for c in trial], store)
    made = judge(bench, trials, [], store)
    assert [m.value for m in made] == sorted((m.value for m in made), reverse=True)
    text = t.sweep_table(bench, made)
    assert "val_worst_class (class labels of validation images)" in text
    assert "TEST" not in text


@pytest.mark.parametrize(
    ("seeds", "sentence"), [("[]", "at least 1 item"), ("[0, 0]", "more than once")]
)
def test_seeds_of_a_sweep(tmp_path: Path, seeds: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        small(tmp_path, SMALL + SWEEP.replace("seeds = [0]", f"seeds = {seeds}"))


def test_grid_tries_all_combinations(tmp_path: Path) -> None:
    text = SWEEP.replace("trials = 3", 'kind = "grid"').replace(
        "{ uniform = [0.3, 0.9] }", "{ choice = [0.3, 0.5] }"
    )
    grid = text.replace("{ log = [1e-4, 1e-2] }", "{ choice = [0.1, 0.2, 0.3] }")
    bench, _, _ = small(tmp_path, SMALL + grid)
    assert len(settings_tried(bench.sweep)) == 6
    with pytest.raises(ConfigError, match=r"a grid needs a list of values"):
        settings_tried(small(tmp_path, SMALL + text)[0].sweep)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("{ }", "give one of choice, uniform, log or integer; found none"),
        ("{ uniform = [0.9, 0.3] }", "range must rise"),
        ("{ log = [0.0, 0.3] }", "above 0"),
        ("{ log = [0.1, 0.3], choice = [1] }", "found choice, log"),
    ],
)
def test_spaces_that_make_no_sense(tmp_path: Path, space: str, sentence: str) -> None:
    text = SMALL + SWEEP.replace("{ uniform = [0.3, 0.9] }", space)
    with pytest.raises(ConfigError, match=rf"sweep\.space\.q: .*{sentence}"):
        sweep_cells(small(tmp_path, text)[0], None)
