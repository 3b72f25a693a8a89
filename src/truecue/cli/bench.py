"""`truecue bench`: many methods on many suites with many seeds, and their tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.bench.plan import Bench
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
        bool, typer.Option("--dry", help="Only say what there is and what would be run.")
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

    bench, store = _open(file, out)
    wanted = cells(bench, root)
    missing = store.missing(wanted)
    if not quiet:
        typer.echo(f"{len(wanted)} cells, {len(missing)} of them to run; folder: {store.folder}")
    if dry:
        for cell in missing:
            typer.echo(f"  {cell}")
        return
    preflight(missing)
    tally = run_cells(
        wanted, store, processes=processes, accelerator=device, quiet=quiet, said=_say
    )
    if not quiet:
        typer.echo(
            f"{tally.done} run, {tally.kept} there before, {len(tally.failed)} failed;"
            f" {tally.seconds:.0f} s ({tally.cell_seconds:.0f} s of cells)"
        )
    if tally.failed:
        for outcome in tally.failed:
            typer.echo(f"truecue: {outcome.cell}: {outcome.error}", err=True)
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _open(file: Path, out: Path | None) -> tuple[Bench, Store]:
    from truecue.bench.plan import read_bench
    from truecue.bench.store import Store

    return read_bench(file), Store(out or Path("bench") / file.stem)
