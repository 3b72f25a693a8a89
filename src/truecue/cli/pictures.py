"""`truecue show`: what a trained model goes by, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.audit.shown import BiasPictures
    from truecue.data.suites.base import Suite
    from truecue.engine.device import Device

app = typer.Typer(help="Show what a trained model goes by, as pictures.", no_args_is_help=True)


@app.callback()
def options() -> None:
    """Show what a trained model goes by, as pictures."""


@app.command()
def bias(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DATA",
            help="The folder of a run of 'truecue train sih'; with --model: the images, see DATA of"
            " 'truecue train'.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", help="A classifier to explain: a model.safetensors, or a run's folder."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for all that is written; default: RUN/bias, or beside the model a folder"
            " bias-NAME.",
        ),
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
        float | None,
        typer.Option(
            "--factor",
            help="How far the longer move goes, in smallest moves, above 1; with --model, at most."
            " Default: 2, with --model 6.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Most steps in search of the smallest move.")
    ] = 20,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", help="Of the choice of images, classes and pairs; of training with --model."
        ),
    ] = 0,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="With --model: the encoders; default: by image size."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="With --model: train anew where the folder holds a training."),
    ] = False,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Show what bias a model learned: change it in images, and look what changes.

    For a run of SiH, or with --model for any classifier: the biased half of SiH is then trained to
    follow its answers, which takes about as long as training by SiH. Cut off and started again, it
    goes on where it was.

    Writes index.html, bias.json and an image file of each picture. The images of a run are its own,
    loaded again with its settings and seed, unless --data names others. A model whose run was
    trained on DATA is shown them with the run's settings of the data; --set goes before.
    """
    from truecue.audit.bias import check_factor
    from truecue.config import parse_assignments
    from truecue.report.bias import headline
    from truecue.report.report import check_page

    check_factor(factor)
    if out is not None:
        check_page(out, "bias.json")
    own, changes = o.divide(parse_assignments(sets or []))
    choices = {"seed": seed, "target": target, "steps": steps, "factor": factor}
    if model is None:
        _check_only_run(own, arch, fresh=fresh)
        compute = o.open_device(device, threads=threads)
        pictures, page = _of_run(
            Path(what), out, data, changes, root, compute, choices, quiet=quiet
        )
    else:
        _check_only_model(what, data)
        compute = o.open_device(device, threads=threads)
        pictures, page = _of_model(
            model, what, out, own, changes, root, compute,
            choices | {"arch": arch, "fresh": fresh}, quiet=quiet,
        )  # fmt: skip
    if not quiet:
        for note in pictures.notes:
            typer.echo(f"Note: {note}.")
        typer.echo(f"{headline(pictures.to_dict())[0]}.")
        typer.echo(f"Pictures: {page}")


def _check_only_run(own: dict[str, Any], arch: str | None, *, fresh: bool) -> None:
    from truecue.errors import ConfigError

    if own:
        raise ConfigError(
            f"show bias has no setting '{next(iter(own))}' without --model; settings of the data"
            " begin with 'data.'"
        )
    if arch is not None or fresh:
        raise ConfigError(
            f"{'--fresh' if fresh else '--arch'} is about training, which goes with --model; the"
            " pictures of a run are made of what it trained"
        )


def _check_only_model(what: str, data: str | None) -> None:
    from truecue.errors import ConfigError

    if data is not None:
        raise ConfigError(
            "--data goes with RUN; with --model the images are the argument: truecue show bias"
            f" --model MODEL {data}"
        )
    if (Path(what) / "run.toml").is_file():
        raise ConfigError(
            f"{what} is the folder of a run, and --model is given, too: give either RUN alone, or"
            " --model MODEL with the images"
        )


def _of_run(
    run: Path, out: Path | None, data: str | None, changes: dict[str, Any], root: Path | None,
    compute: Device, choices: dict[str, Any], *, quiet: bool,
) -> tuple[BiasPictures, Path]:  # fmt: skip
    """Pictures of what a run of SiH keeps, and the page."""
    from truecue import api
    from truecue.audit.bias import bias_pictures
    from truecue.errors import DataError
    from truecue.nets.vae import load_vae
    from truecue.report.bias_page import write_bias_page
    from truecue.report.parts import circumstances

    if not (run / "run.toml").is_file():
        raise DataError(
            f"{run} is not the folder of a run: it holds no run.toml. To explain a classifier, give"
            " --model and the images"
        )
    asked = o.asked_of(run)
    path = run / f"{asked.get('method')}-vae.safetensors"
    if not path.is_file():
        raise DataError(
            f"{run} holds no paired VAE ({path.name}), which the pictures are decoded by. Train by"
            " the method that makes one: truecue train sih DATA; or have one trained for this"
            f" model: truecue show bias --model {run} DATA"
        )
    vae = load_vae(path)
    suite = _suite(asked, data, changes, vae.size)
    splits = o.load(suite, root, int(asked.get("seed", 0)), quiet=quiet)
    if data is None and not changes and api.digest(splits) != asked.get("images"):
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
    pictures = bias_pictures(vae, splits, device=compute, **choices)
    facts = o.facts(data or str(asked.get("data")), suite)
    about = {"data": facts["data"], "model": str(run)}
    about |= circumstances(compute, choices["seed"], facts)
    return pictures, write_bias_page(pictures, out or run / "bias", about)


def _of_model(
    model: Path, data: str, out: Path | None, own: dict[str, Any], changes: dict[str, Any],
    root: Path | None, compute: Device, choices: dict[str, Any], *, quiet: bool,
) -> tuple[BiasPictures, Path]:  # fmt: skip
    """Pictures of what any classifier goes by, and the page."""
    from truecue.explain import show_bias
    from truecue.methods.bias_half import BiasHalf
    from truecue.nets.classifier import load_classifier

    net = load_classifier(model)
    suite, seed = o.suite_of_model(data, changes, model, net)  # the seed of the model's splits
    o.check_names(own, BiasHalf, suite)
    settings = BiasHalf().override(own)
    home = model.parent / f"bias-{model.stem}" if model.is_file() else model / "bias-model"
    shown = show_bias(
        net, o.load(suite, root, seed, quiet=quiet), out=out or home, settings=settings,
        device=compute, quiet=quiet, facts=o.facts(data, suite) | {"model": str(model)}, **choices,
    )  # fmt: skip
    assert shown.page is not None
    return shown.pictures, shown.page


def _suite(asked: dict[str, Any], data: str | None, changes: dict[str, Any], size: int) -> Suite:
    """The run's suite with the run's settings, or the one that the user names, in its size."""
    if data is not None:
        return o.in_model_size(o.open_suite(data, changes), changes, size)
    return o.suite_again(asked, changes)
