"""`truecue directions`: directions in a generator's latent space, from finding to searching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from truecue.data.sets import ImageSet
    from truecue.directions.directions import Directions
    from truecue.directions.search import Index
    from truecue.engine.device import Device
    from truecue.nets.generator import Generator

app = typer.Typer(
    help="Find, refine, look at and use directions in a generator's latent space.",
    no_args_is_help=True,
)
_REFINED = ("scorer.safetensors", "scorer.json", "refined.json")
"""What 'refine' writes that goes with its directions alone."""
MOST_PIXELS = 100_000
"""Images up to which a search is compared with neighbours by pixels."""
Which = Annotated[
    str,
    typer.Argument(
        metavar="GENERATOR",
        help="shapes, mnist-dcgan, mnist-gan, mnist-vae, a file of their weights, a run of SiH, or"
        " a function of one's own: file.py:function.",
    ),
]
Where = Annotated[
    Path,
    typer.Argument(metavar="DIRECTIONS", help="The folder that 'find' or 'refine' wrote."),
]
Target = Annotated[Path, typer.Option("--out", help="Folder for all that is written.")]
Draws = Annotated[int, typer.Option("--seed", help="Of codes, steps and initialisation.")]
Reach = Annotated[
    float,
    typer.Option("--step", help="The longest step in the pictures."),
]
Columns = Annotated[int, typer.Option("--columns", min=3, help="Pictures in a row, odd.")]
Starts = Annotated[int, typer.Option("--starts", min=1, help="Codes to begin from.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over where the folder holds another run.")
]
Part = Annotated[str, typer.Option("--part", help="train, val or test.")]


@app.callback()
def directions() -> None:
    """Find, refine, look at and use directions in a generator's latent space."""


@app.command()
def find(
    generator: Which,
    out: Target,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="sefa, sefa-raw, ganspace, jacobian, random, voynov (trained), or a function of"
            " one's own that measures images: file.py:function.",
        ),
    ] = "sefa",
    k: Annotated[
        int, typer.Option("--k", min=1, help="Directions; a function says itself how many.")
    ] = 10,
    sets: o.Sets = None,
    seed: Draws = 0,
    fresh: Fresh = False,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Find directions; writes directions.safetensors and directions.json.

    SeFa, GANSpace and Jacobians need no training. 'voynov' trains directions that a network can
    tell apart; its settings are given by --set, and cut off, it goes on where it was. A function
    takes images, uint8 [n, c, h, w], and returns values by name, {"name": tensor [n]}: there is a
    direction for each, along which the value rises fastest. Directions that change no pixel by half
    a grey level, from a step of -3 to 3, are named.
    """
    from truecue.config import parse_assignments
    from truecue.directions.discover import Discover, discover
    from truecue.directions.find import find_directions
    from truecue.directions.measured import measured_directions
    from truecue.directions.traverse import effects
    from truecue.errors import ConfigError
    from truecue.nets.load_generator import load_function

    changes = parse_assignments(sets or [])
    _refuse_refined(out, trains=by == "voynov", fresh=fresh)
    made, compute = _open(generator, root, device, threads)
    if by == "voynov":
        settings = Discover(k=k).override(changes)
        found = discover(made, settings, seed=seed, out=out, device=compute, fresh=fresh,
                         quiet=quiet)  # fmt: skip
        result = found.directions
        _write(out / "discovered.json", found.report)
        if not quiet:
            typer.echo(f"The reconstructor tells {found.accuracy:.1%} of fresh images rightly.")
    else:
        if changes:
            raise ConfigError(f"'{by}' has no settings; --set is for --by voynov")
        if ":" in by:
            result = measured_directions(made, load_function(by), seed=seed)
        else:
            result = find_directions(by, made, k, seed)  # type: ignore[arg-type]
    seen = effects(made, result.matrix, made.codes(8, seed, "effects"), 3.0, seed).visible
    if (out / "refined.json").is_file():  # the page beside it is about what is gone now
        (out / "index.html").unlink(missing_ok=True)
    for name in _REFINED if by == "voynov" else ("run.toml", *_REFINED):
        (out / name).unlink(missing_ok=True)
    result.save(out)
    if not quiet:
        for name, strength in zip(result.names, result.strengths, strict=False):
            typer.echo(f"{name:>4}  {strength:.4g}")
        _warn_of_hidden(result.names, seen)
        typer.echo(f"{len(result)} directions ({result.found_by}): {out}")


@app.command()
def refine(
    generator: Which,
    start: Annotated[
        str,
        typer.Argument(
            metavar="DIRECTIONS",
            help="The folder that 'find' wrote, or a number: so many, from the map's own start.",
        ),
    ],
    out: Target,
    sets: o.Sets = None,
    seed: Draws = 0,
    step: Reach = 3.0,
    columns: Columns = 7,
    starts: Starts = 3,
    fresh: Fresh = False,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Refine directions with a scale ranking estimator (SRE), and train its scorer.

    Writes directions and scorer, refined.json, and index.html with pictures before and after. Cut
    off and started again, it goes on at the exact step. Settings by --set, e.g. --set steps=2000.
    """
    from truecue.config import parse_assignments
    from truecue.directions import sre
    from truecue.directions.directions import load_directions
    from truecue.errors import ConfigError
    from truecue.nets.scorer import save_scorer
    from truecue.report.directions import write_refined
    from truecue.report.report import check_page

    check_page(out, "refined.json")
    settings = sre.SRE().override(parse_assignments(sets or []))
    home = Path(start).parent if start.endswith(".safetensors") else Path(start)
    if not start.isdigit() and out.resolve() == home.resolve():
        raise ConfigError(
            f"{out} holds the directions to begin with, which would be lost; give another folder"
        )
    made, compute = _open(generator, root, device, threads)
    begun = int(start) if start.isdigit() else load_directions(Path(start))
    found = sre.refine(
        made, begun, settings, seed=seed, out=out, device=compute, fresh=fresh, quiet=quiet
    )
    if not compute.first:
        return
    found.directions.save(out)
    save_scorer(found.scorer, out)
    best_first = found.measured.accuracy.argsort(descending=True, stable=True)
    said = [f"{a:.0%} ordered" for a in found.measured.accuracy[best_first].tolist()]
    first, second = (
        _traversal(made, d.select(best_first), step, columns, starts, seed, about)
        for d, about in ((found.before, [""] * len(said)), (found.directions, said))
    )
    reach = f"{found.report['step']:.3g} in training, {step:g} in the pictures"
    facts = _facts(made, found.directions, compute, seed) | {"step": reach}
    page = write_refined(first, second, found.report, out, facts)
    if not quiet:
        for row in found.report["directions"]:
            typer.echo(
                f"{row['name']:>4}  {row['ranked_right']:6.1%} of pairs ordered, image change"
                f" {row['change']:.3f}, turned by {row['turned']:.1f} degrees"
            )
        for line in found.warnings:
            typer.echo(f"Warning: {line}.")
        typer.echo(f"Pictures: {page}")


@app.command()
def traverse(
    generator: Which,
    chosen: Where,
    out: Target,
    step: Reach = 3.0,
    columns: Columns = 9,
    starts: Starts = 3,
    seed: Draws = 0,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Show what each direction does to images; writes index.html, traversal.json and pictures.

    Refined directions come in order of how often the scorer orders pairs along them rightly.
    """
    import torch

    from truecue.directions.directions import check_fit, load_directions
    from truecue.directions.traverse import effects
    from truecue.report.directions import write_traversal
    from truecue.report.report import check_page

    check_page(out, "traversal.json")
    made, compute = _open(generator, root, device, threads)
    found = load_directions(chosen)
    check_fit(found, made)
    order = torch.arange(len(found))
    if found.ranked_right:
        order = torch.tensor(found.ranked_right).argsort(descending=True, stable=True)
    found = found.select(order)
    change, visible = effects(made, found.matrix, made.codes(32, seed, "effects"), step, seed)
    said = []
    for i, k in enumerate(order.tolist()):
        known = [] if found.names[i] == str(k) else [f"number {k}"]
        if found.ranked_right:
            known.append(f"{found.ranked_right[i]:.0%} ordered")
        known.append(f"change {change[i]:.2f}" if visible[i] else "invisible")
        if found.strengths:
            known.append(f"strength {found.strengths[i]:.3g}")
        said.append(", ".join(known))
    shown = _traversal(made, found, step, columns, starts, seed, said)
    values = {"index": order.tolist(), "change": change.tolist(), "visible": visible.tolist(),
              **found.to_dict()}  # fmt: skip
    facts = _facts(made, found, compute, seed) | {"step": step}
    page = write_traversal(shown, out, facts, values)
    if not quiet:
        _warn_of_hidden(found.names, visible)
        typer.echo(f"Pictures: {page}")


@app.command()
def score(
    scorer: Annotated[
        Path, typer.Argument(metavar="SCORER", help="The folder that 'refine' wrote.")
    ],
    data: o.Data,
    out: Target,
    part: Part = "test",
    sets: o.Sets = None,
    seed: o.DataSeed = 0,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Score real images by each direction; writes scores.npy, scores.json and extremes.png.

    The picture shows, for each direction, the images with the lowest and the highest scores.
    """
    import torch

    from truecue.atomic import atomic
    from truecue.directions import search as searching
    from truecue.engine.progress import counter
    from truecue.nets.scorer import load_scorer
    from truecue.report.sheet import sheet

    images = _images(data, part, sets, seed, root, quiet=quiet)
    net, compute = load_scorer(scorer), o.open_device(device, threads=threads)
    with counter("scoring", quiet=quiet) as tell:
        index = searching.score(net.to(compute.device), images, compute, progress=tell)
    order = index.scores.argsort(dim=0, stable=True)[:, :20]
    n = min(5, len(order) // 2)
    ends = torch.cat([order[:n], order[len(order) - n :]]).T
    pictures = torch.stack([images.images[row] for row in ends])
    columns = [*(["lowest"] * n), *(["highest"] * n)]
    index.save(out)
    with atomic(out / "extremes.png") as temporary:
        rows = [f"{n} (chance)" if n in index.guessed else n for n in index.names[:20]]
        temporary.write_bytes(sheet(pictures, rows, columns))
    _warn(index)
    if not quiet:
        typer.echo(f"{len(index.scores):,} images scored: {out}")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The folder 'score' wrote.")],
    data: o.Data,
    query: Annotated[
        list[int] | None,
        typer.Option(
            "--query",
            min=0,
            help="Position of an image among those scored; default: measure how"
            " often the images found are of the query's class.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", help="Name of a direction; default: all that the scorer does not just guess."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Images to find, query included.")] = 6,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for what is written; default: INDEX.")
    ] = None,
    part: Part = "test",
    sets: o.Sets = None,
    seed: o.DataSeed = 0,
    root: o.Root = None,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Find images that are alike by some directions; writes search.json and search.png.

    DATA and --part must be what the index was made of. Without --query, up to 500 images are used
    as queries, and precision at 5 and average precision of their class are compared with chance
    and with neighbours by pixels.
    """
    from truecue.atomic import atomic
    from truecue.directions import search as searching
    from truecue.errors import DataError
    from truecue.report.sheet import sheet

    compute = o.open_device("cpu", threads=threads)
    known = searching.load_index(index)
    images = _images(data, part, sets, seed, root, quiet=quiet)
    known.check_images(images)
    out = out or index
    names = by or list(known.known() if query else known.names)
    columns = known.columns(names)
    _warn(known)
    if not query:
        few = len(images) <= MOST_PIXELS
        pixels = searching.small_pixels(images, compute) if few else None
        told = searching.by_class(known, columns, images.y, pixels, seed)
        _write(out / "search.json", told)
        if not quiet:
            for row in told["directions"]:
                typer.echo(
                    f"{row['name']:>8}  precision at 5 {row['precision']:.3f}, average precision"
                    f" {row['average_precision']:.3f}"
                    f"{' (the scorer is at chance)' if row['at_chance'] else ''}"
                )
            typer.echo(f"A random order: {told['chance']:.3f}")
        return
    if max(query) >= len(images):
        raise DataError(f"there is no image {max(query)}; there are {len(images):,}")
    import torch

    pool = known.calibrated
    order, distance = searching.retrieve(pool, pool[torch.tensor(query)], columns, top)
    label = [images.classes[i] for i in images.y.tolist()]
    rows = [
        {"query": q, "class": label[q], "by": names, "found": [
            {"image": i, "class": label[i], "distance": d}
            for i, d in zip(ids.tolist(), apart.tolist(), strict=True)]}
        for q, ids, apart in zip(query, order, distance, strict=True)
    ]  # fmt: skip
    _write(out / "search.json", {"searches": rows})
    pictures = torch.stack([images.images[ids] for ids in order])
    with atomic(out / "search.png") as temporary:
        titles = [str(i + 1) for i in range(pictures.shape[1])]
        temporary.write_bytes(sheet(pictures, [f"query {q}" for q in query], titles))
    if not quiet:
        for row in rows:
            found = ", ".join(f"{f['image']} ({f['class']})" for f in row["found"])
            typer.echo(f"{row['query']} ({row['class']}): {found}")
        typer.echo(f"Picture: {out / 'search.png'}")


@app.command()
def metrics(
    generator: Which,
    chosen: Where,
    out: Target,
    sets: o.Sets = None,
    votes: Annotated[
        int, typer.Option("--votes", min=10, help="Of BetaVAE and FactorVAE; images of DCI.")
    ] = 5000,
    seed: Draws = 0,
    fresh: Fresh = False,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Measure how well directions match known factors; for generators that know theirs (shapes).

    An encoder learns, from generated images, where codes lie along the directions; its codes of all
    images on the grid of factors are held against the factors: BetaVAE, FactorVAE, MIG, DCI, SAP.
    Writes metrics.html with a map of which direction follows which factor, and metrics.json.
    Settings of the encoder by --set, e.g. --set epochs=10.
    """
    from truecue.config import parse_assignments
    from truecue.directions.directions import load_directions
    from truecue.directions.encode import Encode
    from truecue.directions.known import known_factors
    from truecue.report.factors import write_factors

    made, compute = _open(generator, root, device, threads)
    found = load_directions(chosen)
    settings = Encode().override(parse_assignments(sets or []))
    told = known_factors(
        made, found, compute, settings, votes=votes, seed=seed, out=out, fresh=fresh, quiet=quiet
    )  # fmt: skip
    page = write_factors(told, out, _facts(made, found, compute, seed))
    if not quiet:
        for name, value in told["metrics"].items():
            typer.echo(f"{name:22} {value:.3f}")
        typer.echo(f"Page: {page}")


def _refuse_refined(out: Path, *, trains: bool, fresh: bool) -> None:
    """Keep directions that a run or a scorer goes with from being written over.

    Args:
        out: the folder.
        trains: whether the finder trains, and compares `run.toml` with its own settings.
        fresh: whether the user said so.

    Raises:
        ConfigError: the folder holds such directions, and this is no fresh start.
    """
    from truecue.errors import ConfigError

    marks = ("scorer.safetensors",) if trains else ("run.toml", "scorer.safetensors")
    held = [name for name in marks if (out / name).exists()]
    if held and not fresh:
        raise ConfigError(
            f"{out} holds directions that a run goes with ({', '.join(held)}); others would take"
            " their place. Use another folder, or --fresh to start over"
        )


def _warn_of_hidden(names: Sequence[str], visible: Tensor) -> None:
    """Say which directions change nothing that can be seen."""
    hidden = [n for n, seen in zip(names, visible.tolist(), strict=True) if not seen]
    if hidden:
        typer.echo(f"Warning: no visible effect: {', '.join(hidden)}.")


def _warn(index: Index) -> None:
    """Say which scores mean nothing."""
    from truecue.directions.judge import warning_of

    if line := warning_of(index.guessed, len(index.names)):
        typer.echo(f"Warning: {line}.", err=True)


def _open(
    what: str, root: Path | None, accelerator: str, threads: int | None
) -> tuple[Generator, Device]:
    """The generator on the device, once it has been looked at."""
    from truecue.nets.generator import check_generator
    from truecue.nets.load_generator import load_generator

    made, compute = load_generator(what, root), o.open_device(accelerator, threads=threads)
    made.to(compute.device)
    check_generator(made)
    return made, compute


def _images(
    data: str, part: str, sets: list[str] | None, seed: int, root: Path | None, *, quiet: bool
) -> ImageSet:
    from truecue.config import parse_assignments
    from truecue.errors import ConfigError

    own, given = o.divide(parse_assignments(sets or []))
    if own:
        raise ConfigError(
            f"there is no setting '{next(iter(own))}'; settings of the data begin with 'data.'"
        )
    parts = o.load(o.open_suite(data, given), root, seed, quiet=quiet).parts()
    if part not in parts:
        raise ConfigError(f"there are no {part} images; there are {', '.join(parts)}")
    return parts[part]


def _traversal(
    generator: Generator, directions: Directions, reach: float, columns: int, starts: int,
    seed: int, about: Sequence[str],
) -> Any:  # fmt: skip
    import torch

    from truecue.directions import traverse as moving
    from truecue.report.directions import SHOWN, Traversal

    steps = moving.symmetric(reach, columns)
    codes = torch.cat([generator.codes(1, seed, "start", i) for i in range(starts)])
    images = moving.traverse(generator, directions.matrix[:SHOWN], codes, steps, seed)
    return Traversal(images, steps, directions.names[:SHOWN], list(about)[:SHOWN])


def _facts(
    generator: Generator, directions: Directions, device: Device, seed: int
) -> dict[str, Any]:
    from truecue.report.parts import circumstances

    return circumstances(device, seed, {"command": o.command()}) | {
        "generator": f"{generator.title} ({generator.digest()})",
        "found_by": directions.found_by,
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    from truecue.atomic import write_text
    from truecue.report.report import sound, twin_of

    write_text(path, sound(twin_of(values)))
