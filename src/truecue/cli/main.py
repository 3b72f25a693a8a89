"""The `truecue` command. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from truecue.cli import app as web
from truecue.cli import (
    audit,
    bench,
    data,
    directions,
    evaluate,
    lists,
    pictures,
    probe,
    rank,
    repair,
    train,
)  # fmt: skip
from truecue.errors import Interrupted, TruecueError

app = typer.Typer(
    help="Find, show, measure and remove the spurious correlations that image classifiers learn.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # as "rich" it takes [n] for a style, and keeps the line breaks
    add_completion=False,
)
app.command()(train.demo)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(audit.audit)
app.command()(web.app)
app.command()(rank.rank)
app.command()(repair.repair)
app.add_typer(lists.methods, name="methods")
app.add_typer(lists.suites, name="suites")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(pictures.app, name="show")
app.add_typer(directions.app, name="directions")
directions.app.command()(probe.probe)
directions.app.command()(probe.rescore)

_debug = False


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Find, show, measure and remove the spurious correlations that image classifiers learn."""
    global _debug  # noqa: PLW0603
    _debug = debug
    if version:
        from importlib.metadata import version as of

        typer.echo(f"truecue {of('truecue')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line: one sentence and status 2 for errors that the user can mend."""
    if isinstance(sys.stdout, TextIOWrapper):
        # "?" for a sign that a terminal lacks; stderr writes its code, and needs no such care
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except Interrupted as error:
        typer.echo(f"truecue: {error}", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except TruecueError as error:
        if _debug:
            raise
        typer.echo(f"truecue: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a file or folder that nothing nearer to it has a sentence for
        if _debug or error.errno is None:
            raise
        what = "a file" if error.filename is None else error.filename
        typer.echo(f"truecue: {what} cannot be read or written: {error.strerror}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
