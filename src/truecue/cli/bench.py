"""`truecue bench`: many methods on many suites with many seeds, and their tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.bench.plan import Bench, MetricName
    from truecue.bench.run import Tally
    from truecue.bench.store import Store

app = typer.Typer(help="Compare methods on suites over seeds: run, tables, rules, sweeps, plots.")
File = Annotated[Path, typer.Argument(metavar="FILE", help="The bench's TOML file.")]
Folder = Annotated[
    Path | None, typer.Option("--out", help="The bench's folder; default: bench/NAME OF FILE.")
]
Processes = Annotated[
    int, typer.Option("--processes", min=1, help="Cells at a time, each in a process of its own.")
]


@app.command()
def run(
    file: File,
    out: Folder = None,
    processes: Processes = 1,
    root: o.Root = None,
    device: o.Accelerator = "cpu",
    dry: Annotated[
        bool, typer.Option("--dry", help="Only say what would be run, and whether it can be.")
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Run every cell that has no result yet.

    Stopped or killed and started again, it goes on: finished cells are not run again, and those
    under way continue from their checkpoints. A cell that fails is kept with its error, the others
    are run, and the exit status is 1.
    """
    from truecue.bench.plan import cells
    from truecue.bench.run import run_cells
    from truecue.bench.work import preflight
    from truecue.engine.device import check_accelerator

    check_accelerator(device)
    bench, store = _open(file, out)
    wanted = cells(bench, root)
    missing = store.missing(wanted)
    if not quiet:
        typer.echo(f"{len(wanted)} cells, {len(missing)} of them to run; folder: {store.folder}")
    if dry:
        for cell in missing:
            typer.echo(f"  {cell}")
    preflight(missing)
    if dry:
        return
    tally = run_cells(
        wanted, store, processes=processes, accelerator=device, quiet=quiet, said=_say
    )
    if not quiet:
        typer.echo(
            f"{tally.done} run, {tally.kept} there before, {len(tally.failed)} failed;"
            f" {tally.seconds:.0f} s ({tally.cell_seconds:.0f} s of cells)"
        )
    _end(tally)


def _end(tally: Tally) -> None:
    """Say what failed, and exit with status 1 if anything did."""
    for outcome in tally.failed:
        typer.echo(f"truecue: {outcome.cell}: {outcome.error}", err=True)
    if tally.failed:
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _open(file: Path, out: Path | None) -> tuple[Bench, Store]:
    from truecue.bench.plan import read_bench
    from truecue.bench.store import Store

    return read_bench(file), Store(out or Path("bench") / file.stem)


Metric = Annotated[
    str | None, typer.Option("--metric", help="unbiased, conflicting, worst_group, ...")
]
Target = Annotated[Path | None, typer.Option("--to", help="Write into this file.")]


@app.command()
def table(
    file: File,
    out: Folder = None,
    form: Annotated[str, typer.Option("--form", help="markdown, csv, latex or json.")] = "markdown",
    metric: Metric = None,
    to: Target = None,
    root: o.Root = None,
) -> None:
    """Tables of what has been run: means with intervals, labels used, seconds.

    Markdown and LaTeX show one metric with a column for each suite; CSV has a line for each metric;
    JSON has every seed's values and what each rule would have chosen.
    """
    from truecue.bench import table as t
    from truecue.bench.plan import cells
    from truecue.bench.rules import compare_rules
    from truecue.errors import ConfigError

    bench, store = _open(file, out)
    wanted = cells(bench, root)
    rows, shown = t.rows(bench, wanted, store), _metric(metric, bench)
    if form == "csv":
        text = t.as_csv(bench, rows)
    elif form == "json":
        some = any(row.seeds for row in rows)
        choices = compare_rules(bench, wanted, store, shown) if some else []
        text = t.as_json(bench, rows, choices)
    elif form in {"markdown", "latex"}:
        head, lines = t.wide(bench, rows, shown)
        write = t.markdown if form == "markdown" else t.latex
        text = write(bench.title, head, lines, t.notes(bench, rows, shown))
    else:
        raise ConfigError(f"--form is markdown, csv, latex or json; got '{form}'")
    _put(text, to)


@app.command()
def rules(
    file: File, out: Folder = None, metric: Metric = None, to: Target = None, root: o.Root = None
) -> None:
    """What each rule for choosing an epoch would have reached on the same runs.

    Shows the price of not knowing groups: how far each rule falls short of val_worst_group.
    """
    from truecue.bench import table as t
    from truecue.bench.plan import cells
    from truecue.bench.rules import compare_rules

    bench, store = _open(file, out)
    shown = _metric(metric, bench)
    choices = compare_rules(bench, cells(bench, root), store, shown)
    head, lines, said = t.rules_table(bench, choices, shown)
    _put(t.markdown(bench.title, head, lines, said), to)


@app.command()
def plot(
    file: File,
    folder: Annotated[Path, typer.Option("--to", help="Folder for the pictures.")] = Path(
        "pictures"
    ),
    out: Folder = None,
    metric: Metric = None,
    root: o.Root = None,
) -> None:
    """Pictures (SVG): accuracy against bias ratio, rule against rule, methods by suites, sweep."""
    from truecue.atomic import atomic
    from truecue.bench import table as t
    from truecue.bench.plan import cells
    from truecue.bench.plots import pictures
    from truecue.bench.rules import compare_rules
    from truecue.bench.sweep import guess_cells, judge, sweep_cells
    from truecue.errors import ConfigError

    bench, store = _open(file, out)
    wanted, shown = cells(bench, root), _metric(metric, bench)
    rows, trials = t.rows(bench, wanted, store), []
    if bench.sweep is not None:
        shows = bench.override({"metric": shown})
        trials = judge(shows, sweep_cells(bench, root), guess_cells(bench, root), store)
    some, tried = any(row.seeds for row in rows), any(trial.test.n for trial in trials)
    if not some and not tried:
        raise ConfigError("there is no result yet; `truecue bench run` comes first")
    choices = compare_rules(bench, wanted, store, shown) if some else []
    made = pictures(bench, wanted, rows, choices, shown, trials)
    for name, picture in made.items():
        with atomic(folder / f"{name}.svg") as temporary:
            temporary.write_bytes(picture)
        typer.echo(folder / f"{name}.svg")


@app.command()
def sweep(
    file: File,
    out: Folder = None,
    processes: Processes = 1,
    root: o.Root = None,
    device: o.Accelerator = "cpu",
    to: Target = None,
    quiet: o.Quiet = False,
) -> None:
    """Search a method's settings, as the file's [sweep] says, under a stated rule.

    Trials are cells like any others: what was run is not run again. Prints the trials, the best
    first; --to writes them as JSON.
    """
    import json

    from truecue.bench.run import run_cells
    from truecue.bench.sweep import guess_cells, judge, plain, sweep_cells
    from truecue.bench.table import sweep_table
    from truecue.bench.work import preflight
    from truecue.engine.device import check_accelerator
    from truecue.report.report import finite

    check_accelerator(device)
    bench, store = _open(file, out)
    trials, guessing = sweep_cells(bench, root), guess_cells(bench, root)
    wanted = [*guessing, *(cell for trial in trials for cell in trial)]
    preflight(store.missing(wanted))
    tally = run_cells(
        wanted, store, processes=processes, accelerator=device, quiet=quiet, said=_say
    )
    made = judge(bench, trials, guessing, store)
    typer.echo(sweep_table(bench, made))
    if to is not None:
        _put(json.dumps(finite({"bench": bench.to_dict(), "trials": plain(made)}), indent=1), to)
    _end(tally)


def _metric(name: str | None, bench: Bench) -> MetricName:
    from truecue.bench.table import METRICS
    from truecue.config import suggest
    from truecue.errors import ConfigError

    if name is None:
        return bench.metric
    for known in METRICS:
        if known == name:
            return known
    raise ConfigError(
        f"there is no metric '{name}'{suggest(name, list(METRICS))} ({', '.join(METRICS)})"
    )


def _put(text: str, to: Path | None) -> None:
    if to is None:
        typer.echo(text, nl=False)
        return
    from truecue.atomic import write_text

    write_text(to, text)
    typer.echo(to)
