"""Which cues tell the class, and which of them a classifier goes by; without bias labels.

Two questions are asked of every candidate. Is the cue *available*: does it, and nothing else,
predict the label of training images? Is it *used*: do the classifier's answers change when the cue
is exchanged, in held-out images, for that of another class?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from truecue.audit.asking import Told, Used, as_found, draw_pairs, exchange, halves, tell
from truecue.audit.candidates import Columns, CueColumn, Measured, candidates
from truecue.audit.cue_table import Answer, CueTable
from truecue.audit.judging import constant, judged, rates
from truecue.audit.regions import Box
from truecue.audit.telling import directed, fit_teller
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError
from truecue.seeds import derive

LEVEL = 0.1
"""Share of false ones among the alarms that is put up with."""
LEAST = 0.05
"""Accuracy that must hang on a cue for an alarm."""
FEWEST = 10
"""Images of a class, in training and held out, below which it is left out."""

_SAMPLE = 10_000  # images that are measured, of either kind; more where classes need them
_WIDE = 5_000_000  # scores held at a time
_ORDER = ("alarm", "suspect", "candidate", "no evidence", "not judged")


def find_cues(
    train: ImageSet,
    test: ImageSet,
    logits: Tensor,
    *,
    model: Callable[[Tensor], Tensor] | None = None,
    nuisance: Mapping[str, Box | Tensor] | None = None,
    columns: Mapping[str, CueColumn] | Columns | None = None,
    core: Collection[str] = (),
    images: int = 1000,
    level: float = LEVEL,
    least: float = LEAST,
    draws: int = 2000,
    seed: int = 0,
    device: Device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CueTable:
    """Ask of many cues whether they tell the class and whether a classifier goes by them.

    *Available*: half of the training images fit a small classifier that sees the cue alone; labels
    are shuffled among the other half. *Used*, for cues that can be exchanged (properties, regions):
    each of some held-out images is shown twice, with the cue of a training image of its own class
    and with that of one of another class, drawn at random. The difference in accuracy, mean over
    classes, is what hangs on the cue; signs are flipped for its p-value. For other cues, and
    without a model: whether, within each class, the log-odds of the class rise with the cue's
    strength for it; log-odds are shuffled within the class.

    An alarm needs both, at a false-discovery rate of `level` over cues, and `least` accuracy that
    hangs on the cue. It is raised only for cues that do not belong to a class (properties of the
    whole image, its edges, regions that the user declares) and that were exchanged; where they were
    not, as for file data, they are suspects. Others are candidates.

    Args:
        train: labelled training images, those that the model was trained on.
        test: held-out images of the same classes and shape.
        logits: float [n, c], the model's, of the held-out images as they are.
        model: from uint8 [b, c, h, w] to logits. None: nothing is exchanged, and properties and
            regions are suspects at most.
        nuisance: regions that the user knows not to matter, by name: a box (left, top, right,
            bottom, as shares of the image) or a mask bool [h, w].
        columns: further candidates, by name; or a function that makes them of the images that are
            measured, at most 10,000 of either kind (or 10 of each class), from their positions.
        core: names of properties and regions that may belong to the classes in this task, such as
            "hue" for kinds of fruit. They are candidates and raise no alarm.
        images: held-out images in which cues are exchanged, at most; two forward passes each for
            every cue that is available.
        level: false-discovery rate.
        least: accuracy that must hang on a cue for an alarm, in [0, 1).
        draws: permutations for each p-value.
        seed: of everything that is drawn.
        device: where the model computes; None: the best there is.
        progress: called with (cues exchanged, cues to exchange) after each.

    Raises:
        DataError: images, logits, regions or columns do not fit, or fewer than two classes have
            enough images.
        ConfigError: a setting is out of range.
    """
    _check(train, test, logits, images, level, least, draws)
    data = _sampled(train, test, logits, seed)
    cues, absent = candidates(data, nuisance or {}, columns or {}, core)
    k, y = len(train.classes), data.train.y
    first, second = halves(y, seed)
    fitted = {i: fit_teller(cue.train[first], y[first], k) for i, cue in enumerate(cues)}
    tellers = {i: teller for i, teller in fitted.items() if teller is not None}

    told: dict[int, Told] = {}
    step = max(1, _WIDE // (len(second) * k))
    for at in range(0, len(tellers), step):
        some = list(tellers)[at : at + step]
        seen = [(tellers[i], cues[i].train[second]) for i in some]
        told |= zip(some, tell(seen, y[second], k, draws, seed), strict=True)
    available = rates({i: t.p for i, t in told.items()}, cues)

    strengths = {i: directed(t.scores(cues[i].test), data.test.y) for i, t in tellers.items()}
    pairs = draw_pairs(data, images, seed)
    used: dict[int, Used] = {}
    looked = [i for i in tellers if model is None or cues[i].exchange is None]
    wanted = [i for i in tellers if i not in looked and available[i] <= level]
    if model is not None and wanted:
        on = device or Device()
        changed = {i: cues[i] for i in wanted}
        used |= exchange(changed, data, model, pairs, draws, seed, on, progress)
    if looked:
        used |= as_found({i: strengths[i] for i in looked}, data, draws, seed)
    used_q = rates({i: u.p for i, u in used.items()}, cues)
    both = rates({i: max(t.p, used[i].p) if i in used else 1.0 for i, t in told.items()}, cues)

    chance = 1 / len(data.test.y.unique())
    findings = []
    for i, cue in enumerate(cues):
        if i not in told:
            findings.append(constant(cue))
            continue
        findings.append(judged(
            cue, train.classes, Answer(told[i].accuracy, told[i].p, available[i]),
            told[i].by_class, Answer(used[i].gap, used[i].p, used_q[i]) if i in used else None,
            used.get(i), both[i], level, least, chance=chance,
        ))  # fmt: skip
    findings.sort(key=lambda f: (_ORDER.index(f.verdict), -(f.used.effect.value if f.used else -1)))
    whole = {cues[i].name: torch.full((len(test),), math.nan) for i in strengths}
    for i, strength in strengths.items():
        whole[cues[i].name][data.test_ids] = strength
    return CueTable(
        tuple(findings), train.classes, chance, level, least, draws,
        0 if model is None else len(pairs.ids), (*data.notes, *absent), whole,
    )  # fmt: skip


def _check(
    train: ImageSet, test: ImageSet, logits: Tensor, images: int, level: float, least: float,
    draws: int,
) -> None:  # fmt: skip
    if train.encoded or test.encoded:
        raise DataError("cues are looked for in images; these are features of a frozen encoder")
    if train.classes != test.classes or train.shape != test.shape:
        raise DataError(
            f"the held-out images have classes {test.classes} and shape {test.shape}, the training"
            f" images {train.classes} and {train.shape}"
        )
    if tuple(logits.shape) != (len(test), len(test.classes)):
        raise DataError(
            f"logits must be [images, classes] = {[len(test), len(test.classes)]}; got"
            f" {list(logits.shape)}"
        )
    if not bool(logits.isfinite().all()):
        raise DataError("logits hold numbers that are not finite")
    for what, value, ok in (
        ("images", images, images >= 1),
        ("draws", draws, draws >= 1),
        ("level", level, 0 < level < 1),
        ("least", least, 0 <= least < 1),
    ):
        if not ok:
            raise ConfigError(f"{what} is out of range: {value}")


def too_few(train: ImageSet, test: ImageSet) -> str | None:
    """Why cues cannot be looked for in so few images; None where they can."""
    n = int(_enough(train, test).sum())
    if n >= 2:
        return None
    return (
        f"cues can be looked for where two classes or more have {FEWEST} images, in training and"
        f" held out; {n} of {len(train.classes)} do"
    )


def _enough(train: ImageSet, test: ImageSet) -> Tensor:
    counts = [torch.bincount(part.y, minlength=len(train.classes)) for part in (train, test)]
    return (counts[0] >= FEWEST) & (counts[1] >= FEWEST)


def _first_of_each(y: Tensor) -> Tensor:
    """Which images are among the first `FEWEST` of their class: bool [n]."""
    by_class = y.argsort(stable=True)
    total = torch.bincount(y)
    place = torch.arange(len(y)) - (total.cumsum(0) - total)[y[by_class]]
    first = torch.empty(len(y), dtype=torch.bool)
    first[by_class] = place < FEWEST
    return first


def _sampled(train: ImageSet, test: ImageSet, logits: Tensor, seed: int) -> Measured:
    """Some images of each split, of classes that have enough in both.

    The fewest of each class that are enough, however rare it is, and others at random.
    """
    notes: list[str] = []
    enough = _enough(train, test)
    if (reason := too_few(train, test)) is not None:
        raise DataError(reason)
    if not bool(enough.all()):
        few = [name for name, ok in zip(train.classes, enough.tolist(), strict=True) if not ok]
        notes.append(f"left out, fewer than {FEWEST} images: {', '.join(few)}")
    ids = []
    for name, part in (("train", train), ("test", test)):
        usable = enough[part.y].nonzero().squeeze(1)
        rng = torch.Generator().manual_seed(derive(seed, "cues", name))
        order = usable[torch.randperm(len(usable), generator=rng)]
        first = _first_of_each(part.y[order])
        n = max(_SAMPLE, int(first.sum()))
        if len(order) > n:
            kind = {"train": "training", "test": "held-out"}[name]
            notes.append(f"measured: {n:,} of {len(part):,} {kind} images, drawn by the seed")
        order = order[first.argsort(descending=True, stable=True)]
        ids.append(order[:n].sort().values)
    kept, seen = train.select(ids[0]), test.select(ids[1])
    log_p = logits[ids[1]].double().log_softmax(1)
    own = log_p.gather(1, seen.y.unsqueeze(1)).squeeze(1)
    margin = own - torch.log1p(-own.exp().clamp(max=1 - 1e-12))
    hits = (logits[ids[1]].argmax(1) == seen.y).float()
    return Measured(
        kept, seen, hits, margin.float(), ids[0], ids[1], (len(train), len(test)), tuple(notes)
    )
