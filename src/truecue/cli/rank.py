"""`truecue rank`: how many directions a model's features use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.data.sets import Splits
    from truecue.nets.classifier import Classifier


def rank(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Runs' folders or .safetensors files, one or more; then DATA.",
        ),
    ] = None,
    *,
    data: o.Data,
    out: o.Out = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
    n: Annotated[
        int | None,
        typer.Option("--n", min=2, help="Images; default: twice the features, at least 512."),
    ] = None,
    center: Annotated[
        bool, typer.Option("--center", help="Subtract the features' mean first.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the splits; default: that of each training.")
    ] = None,
    sets: o.Sets = None,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Show how many directions models' features use: effective rank, spectrum, correlations.

    A run's folder that was trained on DATA is looked at with its own settings of the data, so that
    runs with different shares of conflicting images can be compared.
    """
    from truecue.audit.rank import Subject, compare_ranks
    from truecue.config import parse_assignments
    from truecue.errors import ConfigError
    from truecue.nets.classifier import load_classifier
    from truecue.report.parts import circumstances
    from truecue.report.rank_page import headline, write_rank_page
    from truecue.report.report import check_page

    models = models or []
    _check(models, data)
    own, given = o.divide(parse_assignments(sets or []))
    if own:
        raise ConfigError(
            f"rank has no setting '{next(iter(own))}'; settings of the data begin with 'data.'"
        )
    if split not in {"train", "val", "test"}:
        raise ConfigError(f"--split is train, val or test; got '{split}'")
    if out is not None:
        check_page(out, "rank.json")
    compute = o.open_device(device, threads=threads)
    loaded: dict[str, Splits] = {}
    subjects = []
    for name, path in zip(names(models), models, strict=True):
        net = load_classifier(path)
        images = _data(path, net, data, given, seed, root, loaded, quiet=quiet)
        subjects.append(Subject(name, net, images, _trained_on(path, net, data, given)))
    found = compare_ranks(subjects, split=split, n=n, center=center, device=compute)
    numbers = found.to_dict()
    page = None
    if out is not None:
        about: dict[str, Any] = {"data": o.name_of(data), "models": [str(path) for path in models]}
        about |= circumstances(compute, seed, {"command": o.command()})
        page = write_rank_page(found, out, about)
    if not quiet:
        typer.echo(f"{headline(numbers)}.")
        _show(numbers)
    if page is not None:
        typer.echo(f"Page: {page}")


def _check(models: list[Path], data: str) -> None:
    """Refuse a command that lacks DATA or MODEL; the last argument was taken for DATA."""
    from truecue.errors import ConfigError

    last = Path(data)
    if last.suffix == ".safetensors" or (last / "model.safetensors").is_file():
        given = " ".join(map(str, (*models, data)))
        raise ConfigError(
            f"DATA is missing: '{data}' is a model. Give the images last: truecue rank {given}"
            f" {o.asked_of(last).get('data') or 'DATA'}"
        )
    if not models:
        raise ConfigError(
            "MODEL is missing. Give a run's folder or a .safetensors file before DATA: truecue rank"
            f" MODEL {data}"
        )


def names(paths: list[Path]) -> list[str]:
    """Names that tell paths apart: their last parts, as many as it takes."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        short = ["/".join(path.parts[-parts:]).removesuffix(".safetensors") for path in paths]
        if len(set(short)) == len(paths):
            return short
    return [f"{path} ({k})" for k, path in enumerate(paths, 1)]


def _data(
    path: Path, net: Classifier, data: str, given: dict[str, Any], seed: int | None,
    root: Path | None, loaded: dict[str, Splits], *, quiet: bool,
) -> Splits:  # fmt: skip
    """The images that a model is looked at with; the same settings are loaded once."""
    suite, own_seed = o.suite_of_model(data, given, path, net)
    chosen = own_seed if seed is None else seed
    key = f"{suite.to_toml()} {chosen}"
    if key not in loaded:
        loaded[key] = o.load(suite, root, chosen, quiet=quiet)
    return loaded[key]


def _trained_on(path: Path, net: Classifier, data: str, given: dict[str, Any]) -> bool:
    """Whether a model is that of a run on DATA, and looked at with the run's own settings of it."""
    own, _ = o.suite_of_model(data, {}, path, net)
    seen, _ = o.suite_of_model(data, given, path, net)
    return o.asked_of(path).get("data") == o.name_of(data) and own == seen


def _show(numbers: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from truecue.report.rank_page import rows

    centred = "centred" if numbers["center"] else "not centred"
    table = Table(
        title=f"Features of {numbers['n']:,} images ({numbers['split']}), {centred}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    cells = list(zip(HEADS, zip(*rows(numbers), strict=True), strict=True))
    kept = [(name, column) for name, column in cells if set(column) != {"–"}]
    for k, (name, _) in enumerate(kept):
        if k:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")  # names differ at their ends, too
    for row in zip(*(column for _, column in kept), strict=True):
        table.add_row(*map(escape, row))  # paths may have brackets
    if any("confl." in name for name, _ in kept):
        table.caption = "Share of conflicting training images; accuracy on test images."
        table.caption_justify = "left"
    Console(highlight=False).print(table)


HEADS = (
    "model", "H", "exp(H)", "features", "L_reg", "confl.\nshare", "strength",
    "acc.,\naligned", "acc.,\nconfl.",
)  # fmt: skip
"""Of a terminal's table, which must fit into 80 columns."""
