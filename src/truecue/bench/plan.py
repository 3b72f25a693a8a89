"""What a bench consists of: a TOML file of suites, methods and seeds, and the cells it means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt

from truecue.config import Config, read_toml, suggest
from truecue.data.suites import open_data
from truecue.data.suites.base import Suite
from truecue.data.suites.folder import Folder
from truecue.errors import ConfigError, TruecueError
from truecue.methods import method_named
from truecue.methods.base import Method
from truecue.nets.pretrained import Pretrained

FORMAT = 1
"""Raise it when a cell's result would hold something else: finished cells are then run again."""
MetricName = Literal[
    "unbiased", "conflicting", "aligned", "worst_group", "worst_class", "average"
]  # fmt: skip


class SuiteEntry(Config):
    """One column of the bench: data with its settings, and what networks are used on it."""

    data: str = ""
    """A suite's name or a path; left out: the entry's own name."""
    settings: dict[str, Any] = {}
    """Settings of the suite."""
    arch: str | None = None
    """Architecture of networks that a method does not choose itself."""
    pretrained: Pretrained | None = None
    """Weights to begin with, in place of `arch`."""
    methods: dict[str, Any] = {}
    """Settings of all methods on this suite, by dotted name, e.g. `"plan.epochs" = 20`."""
    only: tuple[str, ...] = ()
    """Names of the methods that are run on it; empty: all."""


class MethodEntry(Config):
    """One row of the bench: a method with its settings."""

    method: str = ""
    """The method; left out: the entry's own name."""
    settings: dict[str, Any] = {}
    """Its settings, by dotted name."""
    on: dict[str, dict[str, Any]] = {}
    """More settings, for single suites by their names in this file."""
    arch: str | None = None
    """Architecture, in place of the suite's."""


class Published(Config):
    """Figures from a paper, shown below ours."""

    source: str
    """Where they stand: paper and table."""
    metric: MetricName = "unbiased"
    """What they measure."""
    differs: str = ""
    """Why they cannot be compared with ours, where that is so."""
    values: dict[str, dict[str, float]]
    """In %, by method and suite as named in this file."""


class Space(Config):
    """The values that one setting may take in a sweep. Exactly one field is given."""

    choice: tuple[Any, ...] = ()
    """A list of values."""
    uniform: tuple[float, float] | None = None
    """From, to; any value between is equally likely."""
    log: tuple[float, float] | None = None
    """From, to; any value is equally likely on a logarithmic scale."""
    integer: tuple[int, int] | None = None
    """From, to, both included."""


class Sweep(Config):
    """A search for a method's settings."""

    method: str
    """Name of the method in this file."""
    suite: str
    """Name of the suite in this file."""
    rule: Literal["val_loss", "val_worst_class", "val_pseudo_group", "val_worst_group",
                  "oracle_test"] = "val_worst_class"  # fmt: skip
    """By which trials are compared; each trial counts with its best epoch by the same rule."""
    kind: Literal["random", "grid"] = "random"
    """Draw settings at random, or try all combinations (then every space is a `choice`)."""
    trials: PositiveInt = 20
    """Settings that are tried, where they are drawn."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds that every trial is run with."""
    space: Annotated[dict[str, Space], Field(min_length=1)]
    """What is varied: settings by dotted name."""


class Bench(Config):
    """Everything a bench file says."""

    title: str = ""
    """Shown above tables."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    """Every method is run on every suite with each of these."""
    threads: PositiveInt = 1
    """CPU threads of a cell."""
    metric: MetricName = "unbiased"
    """The one that wide tables and pictures show."""
    record: NonNegativeInt = 20
    """Epochs of a stage whose outcome is noted, so that rules can be compared; 0: none."""
    settings: dict[str, Any] = {}
    """Settings of all methods, by dotted name."""
    suites: Annotated[dict[str, SuiteEntry], Field(min_length=1)]
    """The suites, by the names that tables show."""
    methods: Annotated[dict[str, MethodEntry], Field(min_length=1)]
    """The methods, by the names that tables show."""
    guess: str = ""
    """The method whose biased and debiased networks guess groups for `val_pseudo_group`; left out:
    the first one in this file that has both."""
    published: tuple[Published, ...] = ()
    """Figures of papers."""
    sweep: Sweep | None = None
    """For `truecue bench sweep`."""

    def check(self) -> None:
        """Refuse names that are not there.

        Raises:
            ConfigError: a name of a suite or method of this file is wrong.
        """
        _distinct(self.seeds, "seeds")
        for name, suite in self.suites.items():
            _known(suite.only, self.methods, f"suites.{name}.only")
            if suite.arch and suite.pretrained:
                raise ConfigError(f"suites.{name}: give arch or pretrained, not both")
        for name, method in self.methods.items():
            _known(method.on, self.suites, f"methods.{name}.on")
        if self.guess:
            _known([self.guess], self.methods, "guess")
        for paper in self.published:
            _known(paper.values, self.methods, f"published '{paper.source}'")
            for values in paper.values.values():
                _known(values, self.suites, f"published '{paper.source}'")
        if self.sweep is not None:
            _known([self.sweep.method], self.methods, "sweep.method")
            _known([self.sweep.suite], self.suites, "sweep.suite")
            _distinct(self.sweep.seeds, "sweep.seeds")


class Column(NamedTuple):
    """A suite of a bench, opened."""

    suite: str
    """Its name in the file."""
    data: Suite
    version: str
    """Of one's own images: changes when a file does. Empty for suites, whose files stay."""
    root: Path | None


class Cell(NamedTuple):
    """One training run of a bench."""

    suite: str
    """Its name in the file."""
    method: str
    """Its name in the file."""
    seed: int
    data: Suite
    data_name: str
    version: str
    """See `Column`."""
    fit: Method
    arch: str | None
    pretrained: Pretrained | None
    threads: int
    record: int
    root: Path | None
    tried: str = ""
    """The settings that a sweep varies, to tell its trials apart; they are in `fit`."""

    def asked(self) -> dict[str, Any]:
        """Everything that the outcome depends on, as plain values; names of rows do not count."""
        weights = None
        if self.pretrained is not None:
            digest = self.pretrained.digest(self.root)  # the name of the file does not matter
            weights = self.pretrained.to_dict() | {"weights": digest}
        data = [type(self.data).__name__, self.data_name, self.data.to_dict()]
        return {
            "format": FORMAT,
            "data": [*data, self.version] if self.version else data,
            "method": [type(self.fit).__name__, self.fit.to_dict()],
            "arch": self.arch,
            "pretrained": weights,
            "seed": self.seed,
            "record": self.record,
        }

    def key(self) -> str:
        """A short text that is the same for the same question."""
        text = json.dumps(self.asked(), sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        tried = f" ({self.tried})" if self.tried else ""
        return f"{self.method} on {self.suite}, seed {self.seed}{tried}"


def read_bench(path: Path) -> Bench:
    """A bench file, checked.

    Raises:
        ConfigError: the file is absent, no TOML, or names what is not there.
    """
    try:
        bench = Bench(**read_toml(path))
        bench.check()
    except ConfigError as error:
        where = "" if str(path) in str(error) else f" ({path})"
        raise ConfigError(f"{error}{where}") from None
    return bench


def cells(bench: Bench, root: Path | None) -> list[Cell]:
    """All cells of a bench, seed by seed, so that a table fills evenly.

    Args:
        bench: from `read_bench`.
        root: folder of the suites' files and of weights.

    Raises:
        ConfigError: a suite, a method or a setting is unknown or out of range.
        DataError: see `open_column`.
    """
    columns = [open_column(bench, suite, root) for suite in bench.suites]
    return [
        cell(bench, column, method, seed)
        for seed in bench.seeds
        for column in columns
        for method in bench.methods
        if method in (bench.suites[column.suite].only or bench.methods)
    ]


def open_column(bench: Bench, suite: str, root: Path | None) -> Column:
    """A suite with its settings; one's own images are listed.

    Raises:
        ConfigError: see `cells`.
        DataError: a file of weights is absent, or one's own images are not as they should be.
    """
    entry = bench.suites[suite]
    with telling(f"suites.{suite}"):
        data = open_data(entry.data or suite, entry.settings)
        if entry.pretrained is not None:
            entry.pretrained.path(root)
        version = data.version(root) if isinstance(data, Folder) else ""
    return Column(suite, data, version, root)


def cell(
    bench: Bench, column: Column, method: str, seed: int, more: Mapping[str, Any] | None = None
) -> Cell:
    """One cell, with `more` settings of its method.

    Raises:
        ConfigError: see `cells`.
    """
    suite, entry, row = column.suite, bench.suites[column.suite], bench.methods[method]
    with telling(f"methods.{method}"):
        fit = method_named(row.method or method)()
        for part in (bench.settings, entry.methods, row.settings, row.on.get(suite), more):
            fit = fit.override(part or {})
    return Cell(
        suite,
        method,
        seed,
        column.data,
        entry.data or suite,
        column.version,
        fit,
        row.arch or entry.arch,
        None if row.arch else entry.pretrained,
        bench.threads,
        bench.record,
        column.root,
        ", ".join(f"{name} = {value}" for name, value in (more or {}).items()),
    )


@contextmanager
def telling(entry: str) -> Iterator[None]:
    """Name the entry of the file that an error is about."""
    try:
        yield
    except TruecueError as error:
        raise type(error)(f"{entry}: {error}") from None


def _distinct(seeds: tuple[int, ...], where: str) -> None:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ConfigError(
            f"{where}: {', '.join(map(str, twice))} stands there more than once; the same seed"
            " gives the same result"
        )


def _known(names: Any, known: Mapping[str, Any], where: str) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(known)
            raise ConfigError(
                f"{where}: there is no '{name}'{suggest(name, list(known))} ({there})"
            )
