"""Searching a method's settings: trials are cells, compared by a rule that is said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from truecue.bench.plan import Bench, Cell, Space, Sweep, cell, open_column
from truecue.bench.rules import choose, guessed, metric_of, rule_values
from truecue.bench.store import Store
from truecue.engine.plan import LABELS_FOR_CHOOSING
from truecue.errors import ConfigError
from truecue.metrics.intervals import Estimate, student_t
from truecue.seeds import derive


@dataclass(frozen=True)
class Trial:
    """Settings that were tried."""

    settings: dict[str, Any]
    value: float
    """Mean over seeds of the rule's value at the best recorded epoch; larger is better; nan where a
    seed has no result."""
    epochs: tuple[int | None, ...]
    """The chosen epoch of each seed."""
    test: Estimate
    """The bench's metric on test images at these epochs. Nothing is chosen by it."""
    errors: float = math.nan
    """Share of the labelled training images that are drawn more often, mean over seeds; nan for
    methods that draw no errors of a biased network."""
    failed: tuple[str, ...] = ()


def settings_tried(sweep: Sweep) -> list[dict[str, Any]]:
    """The settings of all trials; the same file always gives the same ones.

    Raises:
        ConfigError: a space gives none or several kinds of values, an empty range, or in a grid
            something other than a list.
    """
    for name, space in sweep.space.items():
        _check(name, space, grid=sweep.kind == "grid")
    names = list(sweep.space)
    if sweep.kind == "grid":
        lists = [sweep.space[name].choice for name in names]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*lists)]
    rng = np.random.default_rng(derive(0, "sweep", sweep.method, sweep.suite))
    return [{n: _draw(sweep.space[n], rng) for n in names} for _ in range(sweep.trials)]


def _check(name: str, space: Space, *, grid: bool) -> None:
    where = f"sweep.space.{name}"
    given = {k: v for k, v in space.to_dict().items() if v}
    if len(given) != 1:
        kinds = "choice, uniform, log or integer"
        raise ConfigError(f"{where}: give one of {kinds}; found {', '.join(given) or 'none'}")
    if space.choice:
        return
    if grid:
        raise ConfigError(f"{where}: a grid needs a list of values (choice)")
    low, high = next(iter(given.values()))
    if not low < high or (space.log and low <= 0):
        raise ConfigError(
            f"{where}: the range must rise{' and be above 0' if space.log else ''};"
            f" got {low} to {high}"
        )


def _draw(space: Space, rng: np.random.Generator) -> Any:
    if space.choice:
        return space.choice[int(rng.integers(len(space.choice)))]
    if space.integer is not None:
        return int(rng.integers(space.integer[0], space.integer[1], endpoint=True))
    if space.log is not None:
        low, high = (math.log(v) for v in space.log)
        return float(f"{math.exp(rng.uniform(low, high)):.4g}")
    assert space.uniform is not None
    return float(f"{rng.uniform(*space.uniform):.4g}")


def sweep_cells(bench: Bench, root: Any) -> list[list[Cell]]:
    """The cells of every trial, one for each seed; a guessing method's cells come with them.

    Raises:
        ConfigError: the file has no sweep, a setting is unknown or out of range, or epochs are not
            recorded, which rules need.
    """
    sweep = bench.sweep
    if sweep is None:
        raise ConfigError("the file has no [sweep]; see `truecue bench sweep --help`")
    if not bench.record:
        raise ConfigError("a sweep compares recorded epochs; set record above 0")
    column = open_column(bench, sweep.suite, root)
    return [
        [cell(bench, column, sweep.method, seed, tried) for seed in sweep.seeds]
        for tried in settings_tried(sweep)
    ]


def guess_cells(bench: Bench, root: Any) -> list[Cell]:
    """Cells of the guessing method on the sweep's suite; empty for rules that guess no groups.

    Raises:
        ConfigError: the rule needs a guessing method, and the file names none.
    """
    assert bench.sweep is not None
    if bench.sweep.rule != "val_pseudo_group":
        return []
    if not bench.guess:
        raise ConfigError("sweeping by val_pseudo_group needs `guess`, the name of a method")
    column = open_column(bench, bench.sweep.suite, root)
    return [cell(bench, column, bench.guess, seed) for seed in bench.sweep.seeds]


def judge(
    bench: Bench, trials: Sequence[Sequence[Cell]], guessing: Sequence[Cell], store: Store
) -> list[Trial]:
    """What each trial came to, the best first; those without a value last."""
    sweep = bench.sweep
    assert sweep is not None
    guesses = {(c.suite, c.method, c.seed): r for c in guessing if (r := store.result(c))}
    made = []
    for tried, cells in zip(settings_tried(sweep), trials, strict=True):
        values, epochs, test, errors = [], [], [], []
        for one in cells:
            result = store.result(one)
            if result is None:
                continue
            groups = guessed(bench, guesses, sweep.suite, one.seed)
            found = rule_values(result, sweep.rule, bench.metric, groups)
            if found is None:
                raise ConfigError(
                    f"'{sweep.suite}' has nothing that {sweep.rule} could look at"
                    f" ({LABELS_FOR_CHOOSING[sweep.rule]}); use another rule"
                )
            k = choose(found)
            values.append(found[k])
            epochs.append(result["records"][k].get("epoch"))
            errors.append(math.nan if (e := result.get("errors")) is None else float(e))
            test.append(metric_of(result, result["records"][k], bench.metric))
        whole = len(values) == len(cells)
        value = sum(values) / len(values) if whole else math.nan
        failed = tuple(e for one in cells if (e := store.error(one)))
        share = sum(errors) / len(errors) if errors else math.nan
        made.append(Trial(tried, value, tuple(epochs), student_t(test), share, failed))
    return sorted(made, key=lambda t: (math.isnan(t.value), -t.value if t.value == t.value else 0))


def plain(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Trials as plain values."""
    return [asdict(t) | {"test": t.test.to_dict()} for t in trials]
