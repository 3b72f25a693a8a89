"""`truecue directions probe` and `rescore`: what directions do to classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import directions as d
from truecue.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from truecue.data.sets import Splits
    from truecue.directions.directions import Directions
    from truecue.directions.probe import Probe
    from truecue.directions.view import ClassifierView
    from truecue.engine.device import Device
    from truecue.nets.classifier import Classifier
    from truecue.nets.generator import Generator
    from truecue.report.probe_page import Real

Model = Annotated[
    Path, typer.Option("--model", help="The classifier: a run's folder, or model.safetensors.")
]
Steps = Annotated[float, typer.Option("--step", help="The longest step, forward and back.")]


def probe(
    generator: d.Which,
    chosen: Annotated[
        Path,
        typer.Option("--directions", help="The folder that 'find' or 'refine' wrote."),
    ],
    model: Model,
    out: d.Target,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="What the classifier was trained on: a suite or a path. Cues are then held"
            " against real images, by --measure, or by the scorer that 'refine' wrote beside the"
            " directions.",
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure",
            help="Rank real images by what this function measures, file.py:function: the one that"
            " the directions were found by.",
        ),
    ] = None,
    part: Annotated[
        str, typer.Option("--part", help="Real images to rank: test or val (or train).")
    ] = "test",
    step: Steps = 3.0,
    columns: Annotated[int, typer.Option("--columns", min=3, help="Steps, odd.")] = 11,
    n: Annotated[int, typer.Option("--n", min=2, help="Codes to begin from.")] = 64,
    null: Annotated[
        int, typer.Option("--null", min=100, help="Random directions to compare with.")
    ] = 400,
    k: Annotated[
        int | None,
        typer.Option("--k", min=1, help="Real images in each end; default: a fifth of a class."),
    ] = None,
    sets: o.Sets = None,
    seed: d.Draws = 0,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:  # fmt: skip
    """Watch a classifier while images move along each direction; writes index.html and probe.json.

    How far logits travel, for the same way of the image, is compared with random directions. All
    directions are held against real images, if --data is given: their scores, or what --measure
    gives, rank each class, and accuracy at the two ends is compared. The splits of DATA are those
    of the classifier's training; its settings are given by --set data.NAME=VALUE.
    """
    from truecue.directions.directions import check_fit, load_directions
    from truecue.directions.probe import probe_classifier
    from truecue.directions.view import ClassifierView
    from truecue.engine.progress import counter
    from truecue.errors import ConfigError
    from truecue.nets.classifier import load_classifier
    from truecue.report.probe_page import write_probe
    from truecue.report.report import check_page

    check_page(out, "probe.json")
    if measure is not None and data is None:
        raise ConfigError("--measure ranks real images; say which ones by --data")

    made, compute = d._open(generator, root, device, threads)
    found = load_directions(chosen)
    check_fit(found, made)
    net = load_classifier(model)
    see = ClassifierView(net.to(compute.device), made(made.codes(1, 0, "shape")).shape[1:])
    given = None if data is None else _given(data, model, net, sets, root, quiet=quiet)
    score, guesses = None, ""
    if given is not None:
        score, guesses = _score(chosen, found, measure, made, compute)
    with counter("probing", quiet=quiet, of="directions") as tell:
        probed = probe_classifier(
            made, found, see, reach=step, n=n, columns=columns, null=null, seed=seed, progress=tell
        )
    real = None
    if given is not None:
        real = _held_against(probed, made, found, see, given, part, score, guesses, compute, k,
                             seed, quiet=quiet)  # fmt: skip
    classes = net.spec.get("extra", {}).get("classes") or list(map(str, range(net.n_classes)))
    facts = d._facts(made, found, compute, seed) | {
        "model": str(model),
        "data": data,
        "measure": measure,
    }
    page = write_probe(probed, made, found, see, classes, real, out, facts)
    if not quiet:
        _tell(probed, found, real)
        if guesses:
            typer.echo(f"Warning: {guesses}.", err=True)
        typer.echo(f"Page: {page}")


def rescore(
    generator: d.Which,
    chosen: d.Where,
    out: d.Target,
    models: Annotated[
        list[Path],
        typer.Option("--model", help="A classifier whose classes are the attributes; or several."),
    ],
    before: Annotated[
        Path | None,
        typer.Option("--before", help="Other directions, shown beside: those before refining."),
    ] = None,
    step: Annotated[
        float, typer.Option("--step", help="How far to go along each direction.")
    ] = 3.0,
    n: Annotated[int, typer.Option("--n", min=1, help="Codes.")] = 512,
    seed: d.Draws = 0,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Tell how a step along each direction changes attributes that classifiers see.

    Writes rescoring.json and a heat map, rescoring.svg: the mean change of each class's
    probability, for each direction. A good direction has one large entry.
    """
    import torch

    from truecue.atomic import atomic
    from truecue.directions.directions import check_fit, load_directions
    from truecue.directions.rescore import rescore as measure
    from truecue.directions.view import ClassifierView
    from truecue.nets.classifier import load_classifier
    from truecue.report.probe_figures import rescoring

    made, compute = d._open(generator, root, device, threads)
    shape = made(made.codes(1, 0, "shape")).shape[1:]
    found = {"directions": load_directions(chosen)}
    if before is not None:
        found = {"before": load_directions(before), "after": found["directions"]}
    views, attributes = [], []
    for path in models:
        net = load_classifier(path)
        classes = net.spec.get("extra", {}).get("classes") or map(str, range(net.n_classes))
        attributes += [f"{path.stem}: {c}" if len(models) > 1 else str(c) for c in classes]
        views.append(ClassifierView(net.to(compute.device), shape))

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([view(images).softmax(1) for view in views], 1)

    tables = {}
    for name, each in found.items():
        check_fit(each, made)
        tables[name] = measure(made, each.matrix, step, probabilities, n=n, seed=seed)
    picture = rescoring(
        {name: t.shift.tolist() for name, t in tables.items()},
        {name: each.names for name, each in found.items()},
        attributes,
    )
    numbers = {
        "about": d._facts(made, found[list(found)[-1]], compute, seed) | {"step": step, "n": n},
        "attributes": attributes,
        "images": views[0].said,
        "tables": {
            name: {"names": list(found[name].names), **t.to_dict()} for name, t in tables.items()
        },
    }
    with atomic(out / "rescoring.svg") as temporary:
        temporary.write_bytes(picture)
    d._write(out / "rescoring.json", numbers)
    if not quiet:
        for name, t in tables.items():
            for row, shift in zip(found[name].names, t.shift, strict=True):
                best = int(shift.argmax())
                typer.echo(f"{name} {row:>4}  {attributes[best]} changes most:"
                           f" {float(shift[best]):.2f}")  # fmt: skip
        typer.echo(f"Heat map: {out / 'rescoring.svg'}")


def _given(
    data: str,
    model: Path,
    net: Classifier,
    sets: list[str] | None,
    root: Path | None,
    *,
    quiet: bool,
) -> Splits:
    """The splits that the classifier was trained on."""
    from truecue.config import parse_assignments
    from truecue.engine.evaluate import check_fits
    from truecue.errors import ConfigError

    own, given = o.divide(parse_assignments(sets or []))
    if own:
        raise ConfigError(
            f"there is no setting '{next(iter(own))}'; settings of the data begin with 'data.'"
        )
    suite, seed = o.suite_of_model(data, given, model, net)
    splits = o.load(suite, root, seed, quiet=quiet)
    check_fits(net, splits.train)
    return splits


def _score(
    folder: Path, found: Directions, measure: str | None, generator: Generator, device: Device
) -> tuple[Callable[[Tensor], Tensor], str]:
    """What gives images [b, c, h, w] a number for each direction: a measure, or the scorer.

    Also a warning (without a full stop), empty where there is none.
    """
    from truecue.directions.judge import guessed, warning_of
    from truecue.directions.measured import values_of
    from truecue.errors import DataError
    from truecue.nets.generator import as_uint8
    from truecue.nets.load_generator import load_function
    from truecue.nets.scorer import load_scorer

    if measure is not None:
        function = load_function(measure)
        names, _ = values_of(function, as_uint8(generator(generator.codes(2, 0, "shape")), 0))
        if names != found.names:
            raise DataError(
                f"{measure} measures {', '.join(names)}; the directions are"
                f" {', '.join(found.names)}"
            )

        def measured(images: Tensor) -> Tensor:
            return values_of(function, images)[1]

        return measured, ""
    home = folder if folder.is_dir() else folder.parent
    if not (home / "scorer.safetensors").is_file():
        raise DataError(
            f"{home} holds no scorer to rank real images by; 'truecue directions refine' trains"
            " one (with --set map=random the directions stay as they are), and --measure does"
            " without"
        )
    scorer = load_scorer(home)
    if scorer.k != len(found):
        raise DataError(
            f"the scorer in {home} knows {scorer.k} directions, and there are {len(found)}"
        )
    known = scorer.spec.get("extra", {}).get("directions", "")
    if known not in ("", found.digest()):
        raise DataError(
            f"the scorer in {home} is of other directions than those beside it; give the folder"
            " that 'truecue directions refine' wrote, or let it write both again"
        )
    return scorer.to(device.device).score, warning_of(guessed(scorer), scorer.k)


def _held_against(
    probed: Probe, generator: Generator, found: Directions, see: ClassifierView, data: Splits,
    part: str, score: Any, guesses: str, device: Device, k: int | None, seed: int, *, quiet: bool,
) -> Real:  # fmt: skip
    from truecue.directions import confirm as held
    from truecue.directions.directions import unit
    from truecue.directions.search import generated
    from truecue.engine.evaluate import apply, predictions
    from truecue.engine.progress import counter
    from truecue.errors import ConfigError, DataError
    from truecue.report.probe_page import Real

    parts = data.parts()
    if part not in parts:
        raise ConfigError(f"there are no {part} images; there are {', '.join(parts)}")
    images = parts[part]
    if images.encoded:
        raise DataError("directions change images; these are a frozen encoder's features")
    with counter("scoring", quiet=quiet) as tell:
        scores = apply(score, images, device, batch=250, progress=tell)
    pred = predictions(see.net, images, device)
    return Real(
        images,
        part,
        pred,
        scores,
        held.confirm(probed, scores, images.y, pred == images.y, k, seed=seed),
        held.drift(scores, generated(score, generator, seed=seed)),
        held.nearest(probed, generator, unit(found.matrix), see, data.train, images, device,
                     seed=seed),
        guesses,
    )  # fmt: skip


def _tell(probed: Probe, found: Directions, real: Real | None) -> None:
    from truecue.report.probe_page import headline, sentence

    for i in range(len(found)):
        typer.echo(sentence(i, probed, found.names, real))
    typer.echo(f"{headline(probed, real)[0]}.")
