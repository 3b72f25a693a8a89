"""`truecue data`: looking at images before training on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.data.check import CheckReport, Table

app = typer.Typer(help="Look at images before training on them.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at images before training on them."""


@app.command()
def check(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="An image folder, a table, a data set on disk, or shards."
        ),
    ],
    sets: o.Sets = None,
    at_least: Annotated[
        int, typer.Option("--at-least", min=1, help="Fewer images of a class are a problem.")
    ] = 10,
    seed: o.DataSeed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at a folder or table of images: what can be read, how often what occurs, copies.

    Reports counts, unreadable files, classes with too few images, files that occur twice (and in
    which splits), and how strongly each attribute goes with the class. Ends with status 1 where
    something should be looked at.
    """
    from truecue.config import parse_assignments
    from truecue.data.check import check as look
    from truecue.data.suites.folder import Folder
    from truecue.errors import ConfigError

    own, given = o.divide(parse_assignments(sets or []))
    suite = o.open_suite(path, own | given)
    if not isinstance(suite, Folder):
        raise ConfigError(f"'{path}' is a suite of the package; check takes a folder or a table")
    with o.decoding(quiet=as_json) as progress:
        report = look(suite, at_least=at_least, seed=seed, progress=progress)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        _show(report)
    if report.problems:
        raise typer.Exit(1)


def _show(report: CheckReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    console = Console(highlight=False)
    counts = Grid(title=f"{report.images:,} usable images", title_justify="left")
    counts.add_column("class")
    for split in report.counts:
        counts.add_column(split, justify="right")
    for kind in next(iter(report.counts.values()), {}):
        counts.add_row(escape(kind), *(f"{by[kind]:,}" for by in report.counts.values()))
    console.print(counts)
    for name, (width, height) in report.sizes.items():
        console.print(f"{name} image: {width} x {height} pixels")
    for table in report.tables:
        strength = "not defined" if table.cramers_v is None else f"{table.cramers_v:.2f}"
        what = f"{table.split}: class and {table.attribute}, Cramér's V {strength}"
        console.print(f"{escape(what)} (0 none, 1 full)", soft_wrap=True)
        console.print(_table(table))
    for note in report.notes:
        console.print(escape(note), soft_wrap=True)
    for fault in report.faults:
        console.print(escape(f"unusable: {fault}"), soft_wrap=True)
    for problem in report.problems:
        console.print(f"Problem: {escape(problem)}", style="yellow", soft_wrap=True)
    if not report.problems:
        console.print("Nothing to object to.")


def _table(table: Table) -> object:
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid()
    grid.add_column("class")
    for value in table.values:
        grid.add_column(escape(value), justify="right")
    for kind, row in zip(table.classes, table.counts, strict=True):
        grid.add_row(escape(kind), *(f"{count:,}" for count in row))
    return grid
