"""`truecue show`: what a trained model goes by, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.data.suites.base import Suite

app = typer.Typer(help="Show what a trained model goes by, as pictures.", no_args_is_help=True)


@app.callback()
def options() -> None:
    """Show what a trained model goes by, as pictures."""


@app.command()
def bias(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run of 'truecue train sih'.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for all that is written; default: RUN/bias")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Other images than the run's: see DATA of 'truecue train'."),
    ] = None,
    sets: o.Sets = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="The class whose bias all images get; default: drawn for each."
        ),
    ] = None,
    factor: Annotated[
        float,
        typer.Option("--factor", min=0.1, help="How far the longer move goes, in smallest moves."),
    ] = 2.0,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Most steps in search of the smallest move.")
    ] = 20,
    seed: Annotated[
        int, typer.Option("--seed", help="Of the choice of images, classes and pairs.")
    ] = 0,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Show what bias a run of SiH learned: change it in images, and look what changes.

    Writes index.html, bias.json and an image file of each picture. The images are the run's own,
    loaded again with its settings and seed, unless --data names others.
    """
    from truecue import api
    from truecue.audit.bias import bias_pictures
    from truecue.config import parse_assignments, read_toml
    from truecue.errors import ConfigError, DataError
    from truecue.nets.vae import load_vae
    from truecue.report.bias import headline
    from truecue.report.bias_page import write_bias_page
    from truecue.report.parts import circumstances

    own, changes = o.divide(parse_assignments(sets or []))
    if own:
        raise ConfigError(
            f"show bias has no setting '{next(iter(own))}'; settings of the data begin with 'data.'"
        )
    if factor == 1:
        raise ConfigError("--factor 1 is the smallest move, which is shown in any case")
    if not (run / "run.toml").is_file():
        raise DataError(f"{run} is not the folder of a run: it holds no run.toml")
    asked = read_toml(run / "run.toml").get("asked", {})
    path = run / f"{asked.get('method')}-vae.safetensors"
    if not path.is_file():
        raise DataError(
            f"{run} holds no paired VAE ({path.name}), which the pictures are decoded by. Train by"
            " the method that makes one: truecue train sih DATA"
        )
    vae = load_vae(path)
    suite = _suite(asked, data, changes)
    compute = o.open_device(device, threads=threads)
    splits = o.load(suite, root, int(asked.get("seed", 0)), quiet=quiet)
    if data is None and not sets and api.digest(splits) != asked.get("images"):
        raise DataError(
            f"the images are no longer those that {run} was trained on; to show them all the same,"
            " name them with --data"
        )
    classes = vae.spec.get("extra", {}).get("classes")
    if classes is not None and tuple(classes) != splits.train.classes:
        raise DataError(
            f"the run knows the classes {', '.join(classes)}; the data has"
            f" {', '.join(splits.train.classes)}. Give the data that it was trained for"
        )
    pictures = bias_pictures(
        vae, splits, seed=seed, target=target, steps=steps, factor=factor, device=compute
    )
    facts = o.facts(data or str(asked.get("data")), suite)
    about = {"data": facts["data"], "model": str(run), **circumstances(compute, seed, facts)}
    page = write_bias_page(pictures, out or run / "bias", about)
    if not quiet:
        for note in pictures.notes:
            typer.echo(f"Note: {note}.")
        typer.echo(f"{headline(pictures.to_dict())[0]}.")
        typer.echo(f"Pictures: {page}")


def _suite(asked: dict[str, Any], data: str | None, changes: dict[str, Any]) -> Suite:
    """The run's suite with the run's settings, or the one that the user names."""
    from truecue.data.suites.folder import Folder

    if data is not None:
        suite = o.open_suite(data, changes)
        if isinstance(suite, Folder) and "size" not in changes:
            suite = suite.override({"size": asked.get("data_settings", {}).get("size", suite.size)})
        return suite
    return o.suite_again(asked, changes)
