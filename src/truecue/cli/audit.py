"""`truecue audit`: the features that a model may go by, and how far it goes by each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Sequence

    from truecue.audit.automatic import MaskJudged
    from truecue.auditing import Audited
    from truecue.data.sets import ImageSet, Splits
    from truecue.nets.classifier import Classifier

ROWS = 15
"""Candidates on the terminal; gaps.json has all."""


def audit(
    data: o.Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="The audit's folder; default: audits/DATA.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="A model.safetensors, or a run's folder; default: a small one is trained.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Another network to look at the features of: weights, or a run's folder.",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="Architecture of --encoder, or of the model that is trained."),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm", help="How --encoder wants pixels: unit, half, cifar, imagenet or clip."
        ),
    ] = None,
    verdicts: Annotated[
        Path | None,
        typer.Option("--verdicts", help="Add the answers of a CSV file before measuring."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            help="Judge features automatically, by object masks: a folder of PNG files with the"
            " images' names, or an .npz file. People's answers come first.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", min=1, help="Images in each end; default: a fifth of each class."),
    ] = None,
    stats_from: Annotated[
        str,
        typer.Option(
            "--stats-from", help="own or train: whose mean and deviation features are scaled by."
        ),
    ] = "own",
    cues: Annotated[
        bool,
        typer.Option(
            "--cues/--no-cues", help="Ask about colours, blur, borders, corners, files, too."
        ),
    ] = True,
    core: Annotated[
        list[str] | None,
        typer.Option("--core", help="A cue that may belong to the classes; it raises no alarm."),
    ] = None,
    nuisance: Annotated[
        list[str] | None,
        typer.Option(
            "--nuisance",
            help="A region that must not matter: NAME=LEFT,TOP,RIGHT,BOTTOM, shares of the image.",
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores",
            help="The folder of a run of lff, jtt, denetdm, sih ... on the same images: what its"
            " biased network says of each image is a candidate cue, too.",
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, help="Features that are drawn on the page.")
    ] = 12,
    robust: Annotated[
        bool,
        typer.Option("--robust", help="The encoder is adversarially robust: amplify features."),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of splits and training; default: that of the model's training, or 0."
        ),
    ] = None,
    sets: o.Sets = None,
    root: o.Root = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start over where the folder holds another audit."),
    ] = False,
    skip_unreadable: o.Skip = False,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit and gaps as JSON.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Find the features that a model may go by, rank the images by each, measure the gaps.

    Encodes all images, lists for each class the features that contribute most to its logit, ranks
    its images by them, and measures how much more accurate the model is where a feature is strong
    than where it is weak. Without --model, a small classifier is trained first (settings: plan.*);
    with --encoder alone, the model is the encoder with a new last layer. A feature is a candidate
    until a person has judged it. Cut off and started again, it goes on where it was.
    """
    from truecue import auditing
    from truecue.audit.make import AuditSettings
    from truecue.config import parse_assignments
    from truecue.errors import ConfigError
    from truecue.methods.erm import ERM
    from truecue.nets.classifier import load_classifier

    if stats_from not in {"own", "train"}:
        raise ConfigError(f"--stats-from is own or train; got '{stats_from}'")
    own, given = o.divide(parse_assignments(sets or []))
    plan = {name: value for name, value in own.items() if name.split(".")[0] == "plan"}
    settings = AuditSettings().override({n: v for n, v in own.items() if n not in plan})
    trains = model is None and encoder is None
    if plan and not trains:
        raise ConfigError(
            f"'{next(iter(plan))}' is about training a model, and none is trained with"
            f" {'--model' if model else '--encoder'}"
        )
    if encoder is None and norm is not None:
        raise ConfigError("--norm is about the weights of --encoder; give --encoder")
    if not cues and (core or nuisance or scores):
        raise ConfigError("--core, --nuisance and --scores are about cues; leave out --no-cues")
    regions = _regions(nuisance or [])
    ERM().override(plan)
    if model is not None and encoder is None and arch is not None:
        raise ConfigError("--arch is about --encoder or a model to train; --model has its own")
    if skip_unreadable:
        given["skip_unreadable"] = True
    net = None
    if model is None:
        suite, lent = o.open_suite(data, given), 0
    else:
        net = load_classifier(model)
        suite, lent = o.suite_of_model(data, given, model, net)
    seed = lent if seed is None else seed
    splits = o.load(suite, root, seed, quiet=quiet or as_json)
    compute = o.open_device(device, threads=threads)
    facts = o.facts(data, suite)
    out = out or Path("audits") / facts["data"]
    silent = quiet or as_json
    auditing.check_asked(
        out, splits, verdicts=verdicts, masks=masks, core=core or (), nuisance=regions
    )
    biased = _biased(scores or [], splits)
    eyes = None if encoder is None else _encoder(encoder, arch, norm, splits.train, root)
    if trains:
        net, facts["trained"] = _trained(
            plan, splits, out / "training", seed, arch, compute, fresh, silent, facts
        )
    asked = auditing.audit(
        out, splits, net, encoder=eyes, settings=settings, verdicts=verdicts, masks=masks,
        k=k, stats_from="train" if stats_from == "train" else "own", cues=cues, core=core or (),
        nuisance=regions, scores=biased, files=_files(suite), pictures=pictures,
        robust=robust, seed=seed, device=compute, facts=facts, fresh=fresh, quiet=silent,
    )  # fmt: skip
    if as_json:
        told = {"audit": asked.audit.facts, "gaps": asked.gaps, "cues": asked.cues}
        typer.echo(json.dumps(told, indent=1))
    elif not quiet:
        _show(asked)


def _regions(given: list[str]) -> dict[str, tuple[float, ...]]:
    """Regions as `NAME=LEFT,TOP,RIGHT,BOTTOM`."""
    from truecue.errors import ConfigError

    found: dict[str, tuple[float, ...]] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        try:
            box = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            box = ()
        if not name or len(box) != 4:
            raise ConfigError(
                "--nuisance wants NAME=LEFT,TOP,RIGHT,BOTTOM, such as banner=0,0.9,1,1; got"
                f" '{text}'"
            )
        found[name] = box
    return found


def _biased(runs: list[Path], splits: Splits) -> dict[str, Classifier]:
    """The biased networks of runs on the same images, by what they are called in the table."""
    from truecue import api
    from truecue.audit.scores import biased_networks
    from truecue.cli.rank import names
    from truecue.config import read_toml
    from truecue.errors import DataError

    found: dict[str, Classifier] = {}
    for name, run in zip(names(runs) if runs else [], runs, strict=True):
        nets = biased_networks(run)
        asked = read_toml(run / "run.toml").get("asked", {})
        if asked.get("images") != api.digest(splits):
            raise DataError(
                f"{run} was trained on other images than these: data, settings or seed differ, so"
                " that held-out images may be among those that it knows. It was trained with seed"
                f" {asked.get('seed')}"
            )
        found |= {f"{branch} network of {name}": net for branch, net in nets.items()}
    return found


def _files(suite: Any) -> Path | None:
    """The folder that the names of a user's own images are in."""
    from truecue.data.suites.folder import Folder

    if not isinstance(suite, Folder):
        return None
    place = Path(suite.place())
    return place if place.is_dir() else place.parent


def _encoder(
    path: str, arch: str | None, norm: str | None, images: ImageSet, root: Path | None
) -> Classifier:
    """The network that `--encoder` names; with its own head where it knows the same classes."""
    from truecue.nets.classifier import load_classifier, read_card
    from truecue.nets.pretrained import Pretrained

    weights = Pretrained(**{"weights": path, "arch": arch or "", "norm": norm})
    file = weights.path(root)
    card = file.with_suffix(".json")
    if arch is None and norm is None and card.is_file():
        known = read_card(card).get("extra", {}).get("classes")
        if known is not None and tuple(known) == images.classes:
            return load_classifier(file)
    channels, height, width = images.shape
    return weights.load(channels, max(height, width), root)


def _trained(
    plan: dict[str, Any], splits: Splits, folder: Path, seed: int, arch: str | None, compute: Any,
    fresh: bool, quiet: bool, facts: dict[str, Any],
) -> tuple[Classifier, dict[str, Any]]:  # fmt: skip
    """A small classifier, or the one that an earlier call trained or began."""
    from truecue.errors import RunMismatch
    from truecue.small_model import train_small

    audit = folder.parent
    if (audit / "run.toml").is_file() and not (folder / "run.toml").is_file() and not fresh:
        raise RunMismatch(
            f"{audit} holds an audit of a model that was given, and now none is: give it with"
            " --model, name another folder with --out, or --fresh to start over"
        )

    def tell(text: str) -> None:
        if not quiet:
            typer.echo(f"{text}.", err=True)

    return train_small(
        splits, folder, plan=plan, arch=arch, seed=seed, device=compute, facts=facts, fresh=fresh,
        quiet=quiet, tell=tell,
    )  # fmt: skip


def _show(asked: Audited) -> None:
    """The strongest candidates, what the verdicts say, and where everything is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from truecue.audit.measure import candidates_by_gap
    from truecue.report.audit_page import place

    audit, cues = asked.audit, asked.cues
    console = Console(highlight=False)
    measured = asked.gaps["splits"]
    order = candidates_by_gap(audit)
    judged = audit.verdicts().aggregate().pairs
    said = "validation" if "val" in measured else "test"
    title = f"Candidates, the largest {said} gap first; gaps in points"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("feature")
    last = list(measured)[-1]
    for name in ("share", *(f"{split} gap" for split in measured), f"q, {last}"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for f, by_split, verdict in order[:ROWS]:
        rows = list(by_split.values())
        gaps_shown = [_gap(row, whole=row is rows[-1]) for row in rows]
        table.add_row(
            escape(audit.classes[f.class_index]), escape(f.name.removeprefix("feature ")),
            "–" if f.share is None else f"{f.share:.0%}", *gaps_shown,
            _chance(rows[-1]), verdict or "–",
        )  # fmt: skip
    console.print(table)
    if len(order) > ROWS:
        console.print(f"and {len(order) - ROWS} more in gaps.json")
    for split, found in measured.items():
        by = found["verdicts"]
        if by is not None and by["macro"]["value"] is not None:
            gap, null = by["macro"], by["null"]
            console.print(
                f"By the verdicts, {split}: accuracy {by['low']:.1%} without the cues,"
                f" {by['high']:.1%} with them; gap {100 * gap['value']:+.1f} points"
                f" ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}) over {gap['n']} classes;"
                f" random orders give {100 * null['low']:+.1f} to {100 * null['high']:+.1f}",
                soft_wrap=True,
            )
    if not any(found.verdict == "spurious" for found in judged.values()):
        console.print(
            "Nothing has been judged spurious. A candidate may as well be part of the object: a"
            " person has to look at its images.",
            soft_wrap=True,
        )
    if asked.masked is not None:
        _show_masked(asked.masked, console)
    for note in audit.facts["notes"]:
        console.print(f"Note: {escape(note)}.", soft_wrap=True)
    if cues is not None:
        _show_cues(cues, console, place(audit))
    console.print(f"Page: {asked.page}", soft_wrap=True, markup=False)
    console.print(f"Numbers: {audit.folder} (audit.json, gaps.json, cues.json)", soft_wrap=True,
                  markup=False)  # fmt: skip
    if any(found.verdict == "spurious" for found in judged.values()):
        step = f"Repair the model: truecue repair {audit.folder}"
    else:
        step = f"Judge the candidates: truecue app {audit.folder}"
    console.print(step, soft_wrap=True, markup=False)


def _show_masked(masked: Sequence[MaskJudged], console: Any) -> None:
    """What the masks said, and how far they could."""
    spurious = sum(bool(j.spurious) for j in masked)
    left = sum(j.spurious is None for j in masked)
    console.print(
        f"Automatic, by object masks: {spurious} of {len(masked)} features are mostly outside the"
        f" object, {left} not judged (masks of fewer than half of their images show an object)."
        " People's answers come first. Numbers: masks.json.",
        soft_wrap=True,
    )


def _show_cues(cues: dict[str, Any], console: Any, name: str) -> None:
    """Alarms and what to do about them, or that there is none."""
    from rich.markup import escape

    loud = [c for c in cues["cues"] if c["verdict"] == "alarm"]
    for cue in loud:
        said = f"[bold]Alarm, {escape(cue['name'])}:[/] {escape(cue['why'])}"
        console.print(said, soft_wrap=True)
    for step in dict.fromkeys(step for cue in loud for step in cue["next"]):
        console.print(f"  - {step.replace('DATA', name)}", soft_wrap=True, markup=False)
    for cue in cues["cues"]:
        if cue["verdict"] == "candidate" and cue["kind"] in {"score", "feature"}:
            console.print(
                f"Candidate, {cue['name']}: {cue['why']}. A person has to look at its images.",
                soft_wrap=True, markup=False,
            )  # fmt: skip
    for note in cues["notes"] if not cues["cues"] else ():
        console.print(f"Cues were not asked about: {note}.", soft_wrap=True, markup=False)
    if cues["cues"] and not loud:
        console.print(
            f"Cues that should not matter: no alarm among {len(cues['cues'])}"
            f" (false-discovery rate {cues['level']:g}). That is no proof that there is none.",
            soft_wrap=True,
        )


def _chance(row: Mapping[str, Any]) -> str:
    if "q" not in row:
        return "–"
    return f"{row['q']:.3f}" if row["q"] >= 0.001 else "<0.001"


def _gap(row: Mapping[str, Any], *, whole: bool) -> str:
    """A gap in points, with its interval where it is wanted whole."""
    if "gap" not in row:
        return "–"
    gap = row["gap"]
    value, low, high = (f"{round(100 * gap[name]):+d}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if whole else value
