"""The page of a classifier along directions, and its twin in JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from truecue.directions import confirm as held
from truecue.directions.directions import unit
from truecue.directions.probe import LEVEL, table
from truecue.directions.traverse import traverse
from truecue.engine.features import digest_of
from truecue.report import facts
from truecue.report import probe_figures as draw
from truecue.report.bias import plain_tiles
from truecue.report.directions import SHOWN, signed
from truecue.report.page import environment
from truecue.report.rank_figures import COLOURS
from truecue.report.report import twin_of, write_page
from truecue.report.sheet import Caption, sheet
from truecue.report.svg import data_address
from truecue.report.view import percent

if TYPE_CHECKING:
    from torch import Tensor

    from truecue.data.sets import ImageSet
    from truecue.directions.directions import Directions
    from truecue.directions.probe import Probe
    from truecue.directions.view import ClassifierView
    from truecue.nets.generator import Generator

STARTS, EACH, REAL = 3, 6, 3
"""Of a direction: rows of pictures, real images of each end, and classes of real images."""
ENTANGLED = (
    "The generator was trained on biased images, too, and may change the class together with the"
    " cue: then logits move for a good reason. Look at the pictures before you call a cue spurious"
)
UNSEEN = "Cues that the generator never learned cannot be found here"


class Real(NamedTuple):
    """What real images say."""

    images: ImageSet
    part: str
    """Which part of the data they are."""
    pred: Tensor
    """int64 [n], the classifier's predictions."""
    scores: Tensor
    """float [n, k], the scorer's."""
    found: held.Confirmed
    drift: held.Drift
    nearest: Tensor
    """float [k, m], see `truecue.directions.confirm.nearest`."""
    guesses: str = ""
    """Of which directions the scorer knows nothing (without a full stop); empty: of none."""


def write_probe(
    found: Probe, generator: Generator, directions: Directions, see: ClassifierView,
    classes: Sequence[str], real: Real | None, out: Path, about: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write `index.html`, `probe.json` and pictures of each direction into a folder.

    Args:
        found: what the classifier does.
        generator: for the pictures.
        directions: of the generator.
        see: the classifier.
        classes: their names.
        real: what real images say; None: they were not asked.
        out: the folder; made if it does not exist.
        about: how it was made, for page and JSON file.

    Returns:
        The path of the page.

    Raises:
        StorageError: a file could not be written.
    """
    warned = caveats(found, directions, see, real)
    shown = _order(found)[:SHOWN]
    parts = [_direction(k, found, generator, directions, see, classes, real) for k in shown]
    files = dict(file for part in parts for file in part["files"])
    twin = twin_of({
        "about": dict(about),
        "steps": found.steps,
        "codes": len(found.codes),
        "random": {"directions": len(found.null.flips), "visible": len(found.null_per_change),
                   "flips": float(found.null.flips.mean())},
        "images": see.said,
        "level": LEVEL,
        "caveats": warned,
        "directions": table(found, directions.names, classes),
        "real": None if real is None else _real_numbers(real, directions.names, classes),
        "to_judge": {"shown": shown} | _to_judge(found, generator, directions, see, about),
    })  # fmt: skip
    page = environment().get_template("probe.html.j2").render(
        headline=headline(found, real),
        created=facts.moment(about.get("created")),
        caveats=warned,
        bars=_bars(found, directions.names),
        n=len(found.codes),
        null=len(found.null_per_change),
        level=percent(LEVEL),
        columns=[signed(s) for s in found.steps],
        parts=parts,
        facts=_facts(about, directions),
        folder=quote(str(out)),
    )  # fmt: skip
    return write_page(out / "index.html", page, "probe.json", twin, files)


def headline(found: Probe, real: Real | None) -> tuple[str, str]:
    """The finding in a sentence (without a full stop), and its tone."""
    flagged = found.flagged
    some, k = int(flagged.sum()), len(flagged)
    text = f"{some} of {k} directions move the classifier more than random ones do"
    if real is None:
        return f"{text}; real images were not asked", "unclear" if some else "good"
    cues = len({gap.direction for gap in real.found.gaps if gap.confirmed})
    mattering = len({k for k, t in real.found.together.items() if t.gap > t.null[1]})
    if some:
        text += f"; {cues} of them {'is' if cues == 1 else 'are'} confirmed on real images"
    elif mattering:
        text += f", but along {mattering} of them real images at the far end are classified better"
    return text, "bad" if cues else "unclear" if some or mattering else "good"


def sentence(k: int, found: Probe, names: Sequence[str], real: Real | None) -> str:
    """One direction in one line."""
    if not bool(found.moves.visible[k]):
        return f"{names[k]:>4}  no visible effect"
    text = f"{names[k]:>4}  flips {percent(float(found.moves.flips[k]))} of predictions;"
    text += f" travel {float(found.moves.travel[k]):.3g}, q {float(found.q[k]):.3f}"
    flagged = bool(found.flagged[k])
    text += "; more than random directions" if flagged else "; like a random direction"
    if real is None:
        return text
    mine = [gap for gap in real.found.gaps if gap.direction == k]
    sure = [gap for gap in mine if gap.confirmed]
    if k not in real.found.together:
        return f"{text}; no real images to compare"
    mean, (low, high) = real.found.together[k]
    text += f"; real gap {_points(mean)} (random orders {_points(low)} to {_points(high)})"
    return f"{text}; confirmed for {len(sure)} of {len(mine)} classes" if flagged else text


def caveats(
    found: Probe, directions: Directions, see: ClassifierView, real: Real | None
) -> list[str]:
    """What to be careful about, a sentence (without a full stop) each."""
    said = []
    if (tests := len(directions)) > LEVEL * (1 + len(found.null_per_change)):
        said.append(
            f"With {len(found.null_per_change)} random directions, one of {tests} directions alone"
            f" cannot be flagged, however much it moves the classifier; ask for {20 * tests} or"
            " more"
        )
    hidden = [directions.names[k] for k in (~found.moves.visible).nonzero().squeeze(1).tolist()]
    if hidden:
        said.append(f"No visible effect: {', '.join(hidden)}")
    said += [f"{line[0].upper()}{line[1:]}" for line in see.said]
    said.append(ENTANGLED)
    if real is None:
        said.append(
            "How far pictures lie from training images, and whether real images with more of a cue"
            " are classified differently, is not known: no data was given"
        )
    else:
        said += _of_real(found, directions.names, real)
    return [*said, UNSEEN]


def _of_real(found: Probe, names: Sequence[str], real: Real) -> list[str]:
    said = []
    middle = float(real.nearest[:, len(found.steps) // 2].median())
    far = (real.nearest[:, [0, -1]].amax(1) >= held.FAR).nonzero().squeeze(1).tolist()
    said.append(
        f"At the start, pictures are {middle:.2f} times as far from the nearest training image as"
        " fresh real images are (median)"
    )
    if far:
        listed = ", ".join(f"{names[k]} ({float(real.nearest[k].max()):.2f})" for k in far)
        said.append(
            f"At the ends of the movement, it is {held.FAR:g} times or more along {listed}: such"
            " pictures are unlike what the classifier was trained on; a smaller step may do"
        )
    drifted = real.drift.drifted.nonzero().squeeze(1).tolist()
    if drifted:
        listed = ", ".join(
            f"{names[k]} (mean {float(real.drift.shift[k]):+.1f} deviations, spread times"
            f" {float(real.drift.ratio[k]):.2g})"
            for k in drifted
        )
        said.append(
            f"Scores of real images differ from those of generated ones along {listed}; their order"
            " may mean something else"
        )
    if real.guesses:
        said.append(real.guesses)
    if real.part == "train":
        said.append("Real images are training images: accuracy at both ends is too good")
    return said


def _real_numbers(real: Real, names: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    drift = real.drift
    return {
        "part": real.part,
        "images": len(real.images),
        "accuracy": float((real.pred == real.images.y).double().mean()),
        "gaps": held.to_dict(real.found, names, classes),
        "together": [
            {"direction": names[k], "gap": t.gap, "null": list(t.null)}
            for k, t in real.found.together.items()
        ],
        "drift": [
            {"direction": name, "shift": float(drift.shift[k]), "ratio": float(drift.ratio[k]),
             "edges": drift.edges[k].tolist(), "real": drift.real[k].tolist(),
             "generated": drift.generated[k].tolist()}
            for k, name in enumerate(names)
        ],
        "nearest": [
            {"direction": name, "times": real.nearest[k].tolist()} for k, name in enumerate(names)
        ],
    }  # fmt: skip


def _to_judge(
    found: Probe, generator: Generator, directions: Directions, see: ClassifierView,
    about: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What it takes to show a direction again, and to keep what somebody says of it."""
    rows = unit(directions.matrix)
    return {
        "answers": ["core", "spurious", "unclear"],
        "generator": generator.digest(),
        "classifier": digest_of(see.net, head=True),
        "directions": directions.digest(),
        "space": directions.space,
        "seed": about.get("seed"),
        "codes": len(found.codes),
        "steps": [found.steps[0], found.steps[-1], len(found.steps)],
        "vectors": dict(zip(directions.names, rows.tolist(), strict=True)),
    }


def _order(found: Probe) -> list[int]:
    """Directions, those that move the classifier most first."""
    travel = found.moves.travel.nan_to_num(-1)
    return travel.argsort(descending=True, stable=True).tolist()


def _bars(found: Probe, names: Sequence[str]) -> str:
    order = _order(found)[:SHOWN]
    drawn = found.null.travel[found.null.visible]
    ends = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return draw.travels(
        [names[k] for k in order],
        found.moves.travel[order].tolist(),
        (float(ends[0]), float(ends[1])),
        found.flagged[order].tolist(),
    )


def _direction(
    k: int, found: Probe, generator: Generator, directions: Directions, see: ClassifierView,
    classes: Sequence[str], real: Real | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that the page shows of one direction."""
    moves = found.moves
    images = traverse(generator, unit(directions.matrix[k : k + 1]), found.codes[:STARTS],
                      found.steps)[:, 0]  # fmt: skip
    p = see(images.flatten(0, 1)).softmax(1).unflatten(0, images.shape[:2])
    sure, label = p.max(2)
    rows = [f"start {i + 1}" for i in range(len(images))]
    captions = [
        [f"{classes[c]} {s:.0%}" for c, s in zip(*row, strict=True)]
        for row in zip(label, sure, strict=True)
    ]
    size = found.per_change[k].abs().nan_to_num(0)
    shown = size.argsort(descending=True, stable=True)[: draw.LINES].tolist()
    return {
        "name": directions.names[k],
        "flagged": bool(found.flagged[k]),
        "visible": bool(moves.visible[k]),
        "travel": f"{float(moves.travel[k]):.3g}",
        "p": f"{float(found.p[k]):.2g}",
        "q": f"{float(found.q[k]):.2g}",
        "flips": percent(float(moves.flips[k])),
        "change": f"{float(moves.change[k]):.3f}",
        "strips": [
            (name, plain_tiles("probe", row, tuple(said)))
            for name, row, said in zip(rows, images, captions, strict=True)
        ],
        "files": [
            (f"direction{k}.png", _sheet(images, rows, found.steps, captions)),
            (f"logits{k}.svg", draw.logits(found.steps, moves.mean[k], moves.spread[k], shown,
                                           [classes[c] for c in shown])),
        ],
        "chart": data_address(draw.logits(found.steps, moves.mean[k], moves.spread[k], shown)),
        "legend": [(classes[c], COLOURS[place]) for place, c in enumerate(shown)],
        "others": len(classes) > len(shown),
        "histogram": None
        if real is None
        else draw.histograms(real.drift.edges[k], real.drift.real[k], real.drift.generated[k]),
        "rows": [
            (classes[c], _signed(moves.slope[k, c], moves.slope_se[k, c]),
             _signed(moves.margin[k, c], moves.margin_se[k, c]),
             _minus(f"{float(moves.monotone[k, c]):+.2f}"),
             _minus(f"{float(found.per_change[k, c]):+.3g}"),
             f"{float(found.class_p[k, c]):.2g}", f"{float(found.class_q[k, c]):.2g}",
             bool(found.one_way[k, c]))
            for c in found.class_p[k].nan_to_num(2).argsort(stable=True).tolist()[:10]
        ],
        "real": [] if real is None else [_real_row(g, real, classes) for g in _shown(k, real)],
        "together": None if real is None or k not in real.found.together
        else _together(real.found.together[k]),
    }  # fmt: skip


def _sheet(
    images: Tensor, rows: Sequence[str], steps: Sequence[float], captions: Sequence[Sequence[str]]
) -> bytes:
    """Images [starts, steps, c, h, w] of one direction as a PNG file, the start of each framed."""
    framed = torch.zeros(images.shape[:2], dtype=torch.bool)
    framed[:, len(steps) // 2] = True
    below = [[Caption((said,)) for said in row] for row in captions]
    return sheet(images, rows, [signed(s) for s in steps], framed, below)


def _shown(k: int, real: Real) -> list[held.RealGap]:
    """The classes that differ most."""
    mine = [gap for gap in real.found.gaps if gap.direction == k]
    return sorted(mine, key=lambda g: (g.gap.p, -g.gap.gap.value))[:REAL]


def _together(found: held.Together) -> str:
    low, high = found.null
    return (
        f"Mean gap of all classes: {_points(found.gap)}; 95 % of random orders of the same images"
        f" give {_points(low)} to {_points(high)}"
    )


def _real_row(gap: held.RealGap, real: Real, classes: Sequence[str]) -> dict[str, Any]:
    """One class's real images at both ends."""
    ends = []
    for name, ids, estimate in (
        ("least of the cue", gap.low[:EACH], gap.gap.low),
        ("most of the cue", gap.high[-EACH:], gap.gap.high),
    ):
        chosen = torch.tensor(ids)
        said = tuple(classes[c] for c in real.pred[chosen].tolist())
        tiles = plain_tiles("probe", real.images.images[chosen], said)
        ends.append((name, percent(estimate.value), tiles))
    low, high = gap.gap.null
    return {
        "class": classes[gap.label],
        "ends": ends,
        "k": gap.gap.low.n,
        "gap": _points(gap.gap.gap.value),
        "null": f"{_points(low)} to {_points(high)}",
        "q": f"{gap.q:.2g}",
        "state": "confirmed"
        if gap.confirmed
        else "real images only"
        if gap.differs
        else "not confirmed"
        if gap.flagged
        else "no difference",
    }


def _signed(value: Tensor, error: Tensor) -> str:
    """A slope with as many places as two digits of its error take, e.g. −0.74 ± 0.11."""
    e = float(error)
    places = max(0, 1 - math.floor(math.log10(e))) if 0 < e < math.inf else 2
    return _minus(f"{float(value):+.{places}f} ± {e:.{places}f}")


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def _points(share: float) -> str:
    return _minus(f"{100 * share:+.0f} points")


def _facts(about: Mapping[str, Any], directions: Directions) -> list[tuple[str, str]]:
    names = {"generator": "Generator", "model": "Classifier", "data": "Real images",
             "measure": "Ranked by",
             "seed": "Seed", "command": "Command", "device": "Device",
             "truecue": "truecue"}  # fmt: skip
    said = [(name, str(about[key])) for key, name in names.items() if about.get(key) is not None]
    return [*said, ("Directions", f"{directions.found_by} ({directions.digest()})")]
