"""`truecue evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from truecue.cli import options as o


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model.safetensors, or a run's folder.")
    ],
    data: o.Data,
    out: o.Out = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Of the splits; default: the one of the model's training."),
    ] = None,
    sets: o.Sets = None,
    root: o.Root = None,
    skip_unreadable: o.Skip = False,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a trained model on validation and test images, by group where groups are known.

    A run that was trained on DATA lends its settings of the data and its seed, so that the images
    measured are those that were held out from it.
    """
    from truecue import api
    from truecue.cli.show import show_report
    from truecue.config import parse_assignments
    from truecue.errors import ConfigError
    from truecue.nets.classifier import load_classifier
    from truecue.report.report import finite, write_report

    own, given = o.divide(parse_assignments(sets or []))
    if own:
        raise ConfigError(
            f"evaluate has no setting '{next(iter(own))}'; settings of the data begin with 'data.'"
        )
    if out is not None:
        _check_free(out)
    net = load_classifier(model)
    made = net.spec.get("extra", {})
    if skip_unreadable:
        given["skip_unreadable"] = True
    suite, lent = o.suite_of_model(data, given, model, net)
    report = api.evaluate(
        net,
        o.load(suite, root, lent if seed is None else seed),
        name=str(made.get("method", "model")),
        device=o.open_device(device, threads=threads),
        facts=o.facts(data, suite),
    )
    if out is not None:
        write_report(report, {}, out)
    if as_json:
        typer.echo(json.dumps(finite(report), indent=1))
    else:
        show_report(report, out)


def _check_free(out: Path) -> None:
    """Refuse a folder with a report that is not `evaluate`'s own.

    Raises:
        RunMismatch: it holds a run (a training, an audit), or a report of another kind.
    """
    from truecue.errors import RunMismatch

    report, other = out / "report.json", (out / "run.toml").exists()
    if report.exists():
        try:
            other |= json.loads(report.read_text(encoding="utf-8"))["kind"] != "evaluate"
        except (OSError, ValueError, LookupError, TypeError):  # no report that was written here
            other = True
    if other:
        raise RunMismatch(
            f"{out} holds a training or other work, whose report must not be written over: give"
            " another folder by --out"
        )
