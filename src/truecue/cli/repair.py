"""`truecue repair`: tune an audited model's last layer by the verdicts, and measure the change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.data.sets import Splits


def repair(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of an audit that has verdicts.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="low, random, error or spufix; may be repeated. Default: low, and random and error"
            " to compare with.",
        ),
    ] = None,
    k: Annotated[
        int,
        typer.Option("--k", min=1, help="Training images of each class, at most half of it."),
    ] = 100,
    replay: Annotated[
        int,
        typer.Option(
            "--replay", min=0, help="Training images of each class without a spurious feature."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="The first seed; its models are kept.")] = 0,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="How many seeds, from --seed on.")
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for all that is written; default: DIR/repair."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting: lr, momentum, batch_size, epochs, target, tol or ends.",
        ),
    ] = None,
    root: o.Root = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what an earlier repair has left in the folder.")
    ] = False,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print repair.json.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Repair an audited model by what people said is spurious, and measure the change.

    Tunes the last layer on the training images of each class that show its spurious features
    least, and keeps the epoch with the smallest gap that keeps the accuracy. Random and error
    tuning on as many images show what tuning alone does. Writes a model for each, repair.json and
    repair.html. Repairs by other methods that are there already stay, to compare with. The images
    are the audit's own, loaded again with its settings and seed.
    """
    from truecue.audit.audit import Audit
    from truecue.config import parse_assignments
    from truecue.repair.repair import DEFAULT, repair_audit
    from truecue.repair.tune import TuneSettings
    from truecue.report.parts import circumstances
    from truecue.report.repair_page import write_repair_page

    changes = {"k": k, "replay": replay} | parse_assignments(sets or [])
    settings = TuneSettings().override(changes)
    audit = Audit(folder)
    splits, facts = _images(folder, root, quiet=quiet or as_json)
    compute = o.open_device(device, threads=threads)
    about = circumstances(compute, seed, facts)
    told = repair_audit(
        audit, splits, methods=method or DEFAULT, settings=settings,
        seeds=range(seed, seed + seeds), out=out, device=compute, facts=facts, about=about,
        fresh=fresh, quiet=quiet or as_json,
    )  # fmt: skip
    page = write_repair_page(told, out or folder / "repair")
    if as_json:
        typer.echo(json.dumps(told, indent=1))
    elif not quiet:
        _show(told, page)


def _images(folder: Path, root: Path | None, *, quiet: bool) -> tuple[Splits, dict[str, Any]]:
    """The images that were audited, and where they come from."""
    from truecue.config import read_toml
    from truecue.errors import DataError

    asked = read_toml(folder / "run.toml").get("asked", {})
    if "data" not in asked:
        raise DataError(
            f"{folder} does not say where its images come from: it was made in Python. Repair it"
            " there, too, by truecue.repair_audit"
        )
    suite = o.suite_again(asked)
    facts = {"data": asked.get("data"), "settings": suite.to_dict(), "command": o.command()}
    return o.load(suite, root, int(asked.get("seed", 0)), quiet=quiet), facts


def _show(told: dict[str, Any], page: Path) -> None:
    """Both ends and the gap by method, the sentence of the page, and what to do next."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from truecue.report.repair_words import headline, next_steps

    console = Console(highlight=False)
    for part, title in (("val", "Validation images that nothing was chosen by"), ("test", "Test")):
        table = Table(title=f"{title}; gap in points", title_justify="left")
        table.add_column("", no_wrap=True)
        worst = told["before"][part]["groups"] is not None
        for head in ("accuracy", "low end", "high end", "gap", *(["worst group"] if worst else [])):
            table.add_column(head, justify="right")
        rows = {"before": told["before"]}
        rows |= {name: found["parts"] for name, found in told["methods"].items()}
        for name, parts in rows.items():
            found = parts[part]
            shares = [_share(found[key]) for key in ("accuracy", "low", "high")]
            gap = _gap(found["gap"])
            group = [_share(found["groups"]["worst_group"])] if worst else []
            table.add_row(name, *shares, gap, *group)
        console.print(table)
    for note in told["notes"]:
        console.print(f"Note: {escape(note)}.", soft_wrap=True)
    console.print(f"{escape(headline(told)[0])}.", soft_wrap=True)
    step = next_steps(told)[0]
    console.print(
        f"Next: {escape(step.text)} {escape(step.command or '')}".rstrip(), soft_wrap=True
    )
    console.print(f"Page: {page}", soft_wrap=True, markup=False)


def _share(found: dict[str, Any]) -> str:
    return "–" if found["value"] is None else f"{found['value']:.1%}"


def _gap(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "–"
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    return f"{value:+.0f} ({low:+.0f} to {high:+.0f})"
