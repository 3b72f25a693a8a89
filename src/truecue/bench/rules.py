"""Every rule for choosing an epoch, applied to the same recorded runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truecue.bench.plan import Bench, Cell, MetricName
from truecue.bench.store import Store
from truecue.engine.judge import worst_guessed
from truecue.engine.plan import LABELS_FOR_CHOOSING
from truecue.engine.record import unpacked
from truecue.errors import ConfigError
from truecue.metrics import groups as g
from truecue.metrics.groups import GroupCounts
from truecue.metrics.intervals import Estimate, student_t

RULES = tuple(LABELS_FOR_CHOOSING)
"""In the order of tables: from no labels at all to the test images."""


class Choice(NamedTuple):
    """What a rule comes to over the seeds of a method on a suite."""

    suite: str
    method: str
    rule: str
    chosen: Estimate
    """The metric on test images, in [0, 1], of the epochs that the rule chose."""
    short: Estimate
    """How much lower than by `val_worst_group`, seed by seed; nan without bias labels."""
    epochs: tuple[int | None, ...]
    """Chosen epoch of each seed; None for a network that is no epoch's outcome."""
    out_of: int
    """Epochs that could be chosen from, at most."""


def metric_of(result: Mapping[str, Any], record: Mapping[str, Any], metric: MetricName) -> float:
    """A metric of a recorded epoch on the test images, in [0, 1]; nan where it is not defined."""
    total = torch.tensor(result["model"]["test"]["cells"]["total"])
    counts = GroupCounts(torch.tensor(record["test_hits"]), total)
    table = result["task"]["aligned"]
    if metric in ("average", "worst_class"):
        return g.average(counts) if metric == "average" else g.worst_class(counts)
    if table is None:  # no bias labels: what depends on them is not defined
        return math.nan
    mask = torch.tensor(table, dtype=torch.bool)
    if metric in ("aligned", "conflicting"):
        return g.aligned(counts, mask) if metric == "aligned" else g.conflicting(counts, mask)
    return g.unbiased(counts) if metric == "unbiased" else g.worst_group(counts)


def rule_values(
    result: Mapping[str, Any], rule: str, metric: MetricName, disagree: Tensor | None = None
) -> list[float] | None:
    """The value that a rule gives to each record of a result; larger is better.

    Args:
        result: of a cell.
        rule: one of `RULES`.
        metric: what `oracle_test` looks at.
        disagree: bool [n], for `val_pseudo_group`: the validation images on which a biased and a
            debiased classifier disagree.

    Returns:
        One number for each record, nan where it is not defined; None where the result lacks what
        the rule needs.
    """
    records, val, task = result["records"], result["val"], result["task"]
    if rule == "last":
        return [float(k) for k in range(len(records))]
    if rule == "oracle_test":
        return [metric_of(result, record, metric) for record in records]
    if val is None:
        return None
    if rule == "val_loss":
        losses = [record["val_loss"] for record in records]
        return [math.nan if loss is None else -loss for loss in losses]  # None: not finite
    y = unpacked(val["y"])
    says = [unpacked(record["val_says"]) for record in records]
    k = len(task["classes"])
    if rule == "val_worst_class":
        zeros = torch.zeros_like(y)
        return [g.worst_class(g.group_counts(s, y, zeros, n_classes=k, n_values=1)) for s in says]
    if rule == "val_pseudo_group":
        return None if disagree is None else [worst_guessed(s == y, y, disagree) for s in says]
    if "bias" not in val:
        return None
    values, n = unpacked(val["bias"]), len(task["bias_values"])
    counts = [g.group_counts(s, y, values, n_classes=k, n_values=n) for s in says]
    mask = torch.tensor(task["aligned"], dtype=torch.bool)
    return [g.worst_pooled(c, mask) for c in counts]


def choose(values: list[float]) -> int:
    """The first record with the largest value; the last one where no value is a number."""
    known = [(-value, k) for k, value in enumerate(values) if not math.isnan(value)]
    return min(known)[1] if known else len(values) - 1


def guessed(bench: Bench, results: Mapping[tuple[str, str, int], Mapping[str, Any]],
                   suite: str, seed: int) -> Tensor | None:  # fmt: skip
    """On which validation images the guessing method's networks disagree; None without one.

    Raises:
        ConfigError: `guess` names a method that has no biased and debiased network.
    """
    names = [bench.guess] if bench.guess else list(bench.methods)
    for name in names:
        result = results.get((suite, name, seed))
        if result is not None and result["guesses"] and result["val"] is not None:
            guess = {role: unpacked(text) for role, text in result["guesses"].items()}
            return guess["biased"] != guess["debiased"]
        if bench.guess and result is not None and result["val"] is not None:
            raise ConfigError(
                f"guess: '{name}' has no biased and debiased network whose answers could be"
                " compared; name a method that has both, such as lff"
            )
    return None


def found(cells: list[Cell], store: Store) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The results that there are, by suite, method and seed."""
    known = ((c, store.result(c)) for c in cells)
    return {(c.suite, c.method, c.seed): r for c, r in known if r is not None}


def compare_rules(
    bench: Bench, cells: list[Cell], store: Store, metric: MetricName | None = None
) -> list[Choice]:
    """What each rule would have chosen, method by method and suite by suite.

    A run's candidates are the recorded epochs of the stage that made its network. Training looked
    at none of this, so that all rules judge the same runs.

    Args:
        bench: the file.
        cells: its cells.
        store: its results.
        metric: on the test images; None: the bench's own.

    Raises:
        ConfigError: there is no result yet.
    """
    metric = metric or bench.metric
    results = found(cells, store)
    if not results:
        raise ConfigError("there is no result yet; `truecue bench run` comes first")
    rows = []
    for suite in bench.suites:
        for method in bench.methods:
            own = {seed: r for seed in bench.seeds if (r := results.get((suite, method, seed)))}
            if own:
                guesses = {s: guessed(bench, results, suite, s) for s in own}
                rows += _choices(suite, method, own, guesses, metric)
    return rows


def _choices(
    suite: str, method: str, own: Mapping[int, Mapping[str, Any]],
    guesses: Mapping[int, Tensor | None], metric: MetricName,
) -> list[Choice]:  # fmt: skip
    picked: dict[str, dict[int, int]] = {}
    for rule in RULES:
        for seed, result in own.items():
            values = rule_values(result, rule, metric, guesses[seed])
            if values is not None:
                picked.setdefault(rule, {})[seed] = choose(values)
    reached = {
        rule: {s: metric_of(own[s], own[s]["records"][k], metric) for s, k in by_seed.items()}
        for rule, by_seed in picked.items()
    }
    best = reached.get("val_worst_group", {})
    return [
        Choice(
            suite,
            method,
            rule,
            student_t(list(values.values())),
            student_t([best[s] - v for s, v in values.items() if s in best]),
            tuple(own[s]["records"][k].get("epoch") for s, k in picked[rule].items()),
            max(len(own[s]["records"]) for s in values),
        )
        for rule, values in reached.items()
    ]
