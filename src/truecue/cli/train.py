"""`truecue train` and `truecue demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truecue.cli import options as o


def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="See 'truecue methods'.")],
    data: o.Data,
    out: o.Out = None,
    seed: o.Seed = 0,
    sets: o.Sets = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML with settings; --set overrides it.")
    ] = None,
    root: o.Root = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="Architecture; default: by method and image size.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="Pretrained weights for --arch (a file, or a run's folder)."
        ),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm", help="How the weights want pixels: unit, half, cifar, imagenet or clip."
        ),
    ] = None,
    frozen: Annotated[
        bool,
        typer.Option(
            "--frozen", help="Leave the weights as they are; train the last layer on features."
        ),
    ] = False,
    baseline: Annotated[
        bool, typer.Option(help="Also train the same network plainly, as the 'before'.")
    ] = True,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over where the folder holds a run.")
    ] = False,
    skip_unreadable: o.Skip = False,
    device: o.Accelerator = "auto",
    devices: o.Devices = 1,
    precision: o.Precision = "32-true",
    deterministic: o.Deterministic = False,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Train a classifier, measure how biased it is, and write model and report.

    Writes model.safetensors, report.html and report.json into the folder given by --out (default:
    runs/METHOD-DATA-SEED). Cut off and started again, it goes on where it was.
    """
    from truecue import api
    from truecue.cli.show import show_report
    from truecue.config import parse_assignments, read_toml
    from truecue.methods import method_named

    own, given = o.divide((read_toml(config) if config else {}) | parse_assignments(sets or []))
    suite = o.open_suite(data, given, skip_unreadable=skip_unreadable)
    kind = method_named(method)
    o.check_names(own, kind, suite)
    chosen = kind().override(own)
    compute = o.open_device(
        device, devices, precision, deterministic=deterministic, threads=threads
    )
    facts = o.facts(data, suite)
    pretrained = o.pretrained(weights, arch, norm, frozen=frozen)
    out = out or Path("runs") / f"{method}-{facts['data']}-{seed}"
    trained = api.train(
        chosen,
        o.load(suite, root, seed, quiet=quiet),
        out=out,
        seed=seed,
        arch=arch if pretrained is None else None,
        pretrained=pretrained,
        root=root,
        baseline=baseline,
        device=compute,
        fresh=fresh,
        quiet=quiet,
        facts=facts,
    )
    if compute.first and not quiet:
        show_report(trained.report, out)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is written.")] = Path(
        "truecue-demo"
    ),
    seed: o.Seed = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over where the folder holds a run.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")] = 1,
    quiet: o.Quiet = False,
) -> None:
    """The whole job on embedded data: audit, judge, repair, debias, ask again.

    Digits whose colour nearly always gives the answer away; plain training goes by the colour. The
    audit finds that out without being told, and DeNetDM removes it without being told. Takes about
    a minute and writes index.html, which tells the story.
    """
    from truecue.cli.show import show_story
    from truecue.data.suites.digits import Digits
    from truecue.demo import demo as run

    suite = Digits()
    story = run(
        out,
        suite.load(seed=seed),
        seed=seed,
        device=o.open_device("cpu", threads=threads),
        facts=o.facts("digits", suite),
        fresh=fresh,
        quiet=quiet,
    )
    if not quiet:
        show_story(story, out)
