"""Which cues tell the class, and which of them a classifier goes by; without bias labels.

Two questions are asked of every candidate. Is the cue *available*: does it, and nothing else,
predict the label of training images? Is it *used*: do the classifier's answers change when the cue
is exchanged, in held-out images, for that of another class?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from truecue.audit.properties import PROPERTIES, changed, measured
from truecue.audit.regions import Box, all_regions, exchanged, looked_at
from truecue.audit.telling import Teller, directed, fit_teller
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.evaluate import apply
from truecue.errors import ConfigError, DataError
from truecue.metrics.evidence import (
    benjamini_hochberg,
    label_shuffles,
    rank_shuffles,
    sign_flips,
)
from truecue.metrics.intervals import Estimate, mean_of_cells
from truecue.seeds import derive

Kind = Literal["property", "region", "nuisance", "metadata", "score", "feature"]
Verdict = Literal["alarm", "suspect", "candidate", "no evidence", "not judged"]

LEVEL = 0.1
"""Share of false ones among the alarms that is put up with."""
LEAST = 0.05
"""Accuracy that must hang on a cue for an alarm."""
FEWEST = 10
"""Images of a class, in training and held out, below which it is left out."""

_ALARMING: frozenset[Kind] = frozenset(("property", "region", "nuisance", "metadata"))
_MAY_BE_CONTENT = frozenset(("margin",))  # an object's size may well belong to its class
_SAMPLE = 10_000  # images that are measured, of the training and of the held-out ones
_JUDGED = 2_500  # training images on which a cue's classifier is judged
_WIDE = 5_000_000  # scores held at a time


class Column(NamedTuple):
    """A candidate that is given as numbers: file data, a method's bias score, a feature."""

    train: Tensor
    """float [n] or [n, d], for each training image; nan where it is not known."""
    test: Tensor
    """The same for each held-out image."""
    kind: Literal["metadata", "score", "feature"] = "score"
    about: str = ""
    """What it is, in words."""


class Answer(NamedTuple):
    """The answer to one question about one cue."""

    effect: Estimate
    """Available: accuracy, mean over classes, of a classifier that sees only the cue. Used:
    accuracy that hangs on the cue, mean over classes."""
    p: float
    """Chance of such an effect where there is none, by permutation."""
    q: float
    """The same as a false-discovery rate among all cues that may alarm (or all that may not)."""


class OfClass(NamedTuple):
    """What holds for the images of one class."""

    name: str
    tells: float
    """Share of the class's training images that the cue alone puts into it."""
    hangs: float | None
    """Accuracy that hangs on the cue. Difficulty that has nothing to do with classes cancels in the
    mean over classes only, so read it beside the others."""


@dataclass(frozen=True)
class Finding:
    """One cue."""

    name: str
    kind: Kind
    about: str
    verdict: Verdict
    why: str
    """The verdict in a sentence."""
    available: Answer | None = None
    used: Answer | None = None
    how: Literal["exchanged", "as found"] | None = None
    """How `used` was found out: by exchanging the cue, or by looking at images as they are."""
    q: float | None = None
    """False-discovery rate of the claim that the cue is both available and used."""
    by_class: tuple[OfClass, ...] = ()
    next: tuple[str, ...] = ()
    """What to do next, and what it may cost."""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values, for JSON; None where a number is not defined."""
        return {
            "name": self.name,
            "kind": self.kind,
            "about": self.about,
            "verdict": self.verdict,
            "why": self.why,
            "available": self.available and _plain(self.available),
            "used": self.used and _plain(self.used),
            "how": self.how,
            "q": self.q,
            "classes": [c._asdict() for c in self.by_class],
            "next": list(self.next),
        }


@dataclass(frozen=True)
class CueTable:
    """All candidates, judged."""

    findings: tuple[Finding, ...]
    """Alarms first, then by how much accuracy hangs on the cue."""
    classes: tuple[str, ...]
    level: float
    least: float
    draws: int
    """Permutations behind each p-value; the least that it can be is 1 / (draws + 1)."""
    pairs: int
    """Held-out images in which cues were exchanged; 0 without a model."""
    notes: tuple[str, ...] = ()
    strengths: Mapping[str, Tensor] = field(default_factory=dict)
    """For each cue that was judged, float32 [n]: how much it speaks for each held-out image's own
    class against the others; nan for images that were not measured. Not part of the JSON."""

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The cues that raised an alarm."""
        return tuple(f for f in self.findings if f.verdict == "alarm")

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values, for JSON."""
        return {
            "format": 1,
            "kind": "cues",
            "verdict": "alarm" if self.alarms else "no evidence",
            "classes": list(self.classes),
            "level": self.level,
            "least": self.least,
            "draws": self.draws,
            "pairs": self.pairs,
            "notes": list(self.notes),
            "cues": [finding.to_dict() for finding in self.findings],
        }

    def text(self) -> str:
        """The table for a terminal: a row for each cue, then what to do about the alarms."""
        rows = [("cue", "tells the class", "accuracy that hangs on it", "q", "verdict")]
        for f in self.findings:
            rows.append(
                (
                    f.name,
                    _percent(f.available),
                    _percent(f.used) + (" (as found)" if f.how == "as found" else ""),
                    "-" if f.q is None else f"{f.q:.3f}",
                    f.verdict,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip()
                 for row in rows]  # fmt: skip
        lines += ["", f"chance of the class: {1 / len(self.classes):.1%}", *self.notes]
        for f in self.alarms:
            lines += ["", f"{f.name}: {f.why}", *(f"  - {step}" for step in f.next)]
        if not self.alarms:
            lines += ["", f"No evidence of a cue among these at a false-discovery rate of"
                          f" {self.level:g}. That is no proof that there is none."]  # fmt: skip
        return "\n".join(lines)


class _Candidate(NamedTuple):
    name: str
    kind: Kind
    about: str
    train: Tensor
    """float [n, d], of the training images that are measured."""
    test: Tensor
    exchange: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    """From held-out images, training images and their positions among the measured ones to held-out
    images with the cue of the training images."""


class _Data(NamedTuple):
    """The images that are measured, of the classes that have enough of them."""

    train: ImageSet
    test: ImageSet
    hits: Tensor
    """float32 [n], whether the model is right about each held-out image."""
    margin: Tensor
    """float32 [n], log-odds of its own class."""
    train_ids: Tensor
    test_ids: Tensor
    notes: tuple[str, ...]


def find_cues(
    train: ImageSet,
    test: ImageSet,
    logits: Tensor,
    *,
    model: Callable[[Tensor], Tensor] | None = None,
    nuisance: Mapping[str, Box | Tensor] | None = None,
    columns: Mapping[str, Column] | None = None,
    images: int = 1000,
    level: float = LEVEL,
    least: float = LEAST,
    draws: int = 2000,
    seed: int = 0,
    device: Device | None = None,
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
    hangs on the cue. It is raised only for cues that do not belong to a class: properties of the
    whole image, its edges, file data, and regions that the user declares. Others are candidates.

    Args:
        train: labelled training images, those that the model was trained on.
        test: held-out images of the same classes and shape.
        logits: float [n, c], the model's, of the held-out images as they are.
        model: from uint8 [b, c, h, w] to logits. None: nothing is exchanged, and properties and
            regions are suspects at most.
        nuisance: regions that the user knows not to matter, by name: a box (left, top, right,
            bottom, as shares of the image) or a mask bool [h, w].
        columns: further candidates, by name.
        images: held-out images in which cues are exchanged, at most; two forward passes each for
            every cue that is available.
        level: false-discovery rate.
        least: accuracy that must hang on a cue for an alarm, in [0, 1).
        draws: permutations for each p-value.
        seed: of everything that is drawn.
        device: where the model computes; None: the best there is.

    Raises:
        DataError: images, logits, regions or columns do not fit, or fewer than two classes have
            enough images.
        ConfigError: a setting is out of range.
    """
    _check(train, test, logits, images, level, least, draws)
    data = _sampled(train, test, logits, seed)
    candidates, absent = _candidates(data, nuisance or {}, columns or {})
    k = len(train.classes)
    first, second = _halves(data.train.y, seed)
    fitted = [fit_teller(c.train[first], data.train.y[first], k) for c in candidates]

    judged = [i for i, teller in enumerate(fitted) if teller is not None]
    answers: dict[int, _Told] = {}
    step = max(1, _WIDE // (len(second) * k))
    for at in range(0, len(judged), step):
        some = judged[at : at + step]
        tellers = [t for i in some if (t := fitted[i]) is not None]
        parts = [candidates[i].train[second] for i in some]
        answers |= zip(some, _told(tellers, parts, data.train.y[second], k, draws, seed),
                       strict=True)  # fmt: skip

    strengths = {i: directed(t.scores(candidates[i].test), data.test.y)
                 for i in judged if (t := fitted[i]) is not None}  # fmt: skip
    available = _rates({i: answers[i].p for i in judged}, candidates)
    used: dict[int, _Used] = {}
    exchanging = [i for i in judged if model is not None and candidates[i].exchange is not None]
    wanted = [i for i in exchanging if available[i] <= level]
    pairs = _pairs(data, images, seed)
    if model is not None and wanted:
        used |= _exchanged(wanted, candidates, data, model, pairs, draws, seed, device or Device())
    looked = [i for i in judged if i not in set(exchanging)]
    if looked:
        used |= _as_found(looked, strengths, data, draws, seed)

    both = _rates({i: max(answers[i].p, used[i].p) if i in used else 1.0 for i in judged},
                  candidates)  # fmt: skip
    used_q = _rates({i: u.p for i, u in used.items()}, candidates)
    findings = []
    for i, candidate in enumerate(candidates):
        if i not in answers:
            findings.append(_constant(candidate))
            continue
        told, use = answers[i], used.get(i)
        findings.append(_judged(
            candidate, train.classes, Answer(told.accuracy, told.p, available[i]), told.by_class,
            use and Answer(use.gap, use.p, used_q[i]), use, both[i], level, least,
            chance=1 / _present(data), with_model=model is not None,
        ))  # fmt: skip
    order = {"alarm": 0, "suspect": 1, "candidate": 2, "no evidence": 3, "not judged": 4}
    findings.sort(key=lambda f: (order[f.verdict], -(f.used.effect.value if f.used else -1)))
    whole = {}
    for i, strength in strengths.items():
        whole[candidates[i].name] = torch.full((len(test),), math.nan)
        whole[candidates[i].name][data.test_ids] = strength
    return CueTable(
        tuple(findings), train.classes, level, least, draws,
        len(pairs.ids) if model is not None else 0, (*data.notes, *absent), whole,
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


def _sampled(train: ImageSet, test: ImageSet, logits: Tensor, seed: int) -> _Data:
    """At most so many images of each split, of classes that have enough in both."""
    k, notes = len(train.classes), []
    counts = [torch.bincount(part.y, minlength=k) for part in (train, test)]
    enough = (counts[0] >= FEWEST) & (counts[1] >= FEWEST)
    if int(enough.sum()) < 2:
        raise DataError(
            f"cues can be looked for where two classes or more have {FEWEST} images, in training"
            f" and held out; {int(enough.sum())} of {k} do"
        )
    if not bool(enough.all()):
        few = [name for name, ok in zip(train.classes, enough.tolist(), strict=True) if not ok]
        notes.append(f"left out, fewer than {FEWEST} images: {', '.join(few)}")
    ids = []
    for name, part in (("train", train), ("test", test)):
        usable = enough[part.y].nonzero().squeeze(1)
        rng = torch.Generator().manual_seed(derive(seed, "cues", name))
        order = usable[torch.randperm(len(usable), generator=rng)]
        if len(order) > _SAMPLE:
            kind = {"train": "training", "test": "held-out"}[name]
            notes.append(f"measured: {_SAMPLE:,} of {len(part):,} {kind} images, drawn by the seed")
        ids.append(order[:_SAMPLE].sort().values)
    kept, seen = train.select(ids[0]), test.select(ids[1])
    log_p = logits[ids[1]].double().log_softmax(1)
    own = log_p.gather(1, seen.y.unsqueeze(1)).squeeze(1)
    margin = own - torch.log1p(-own.exp().clamp(max=1 - 1e-12))
    hits = (logits[ids[1]].argmax(1) == seen.y).float()
    return _Data(kept, seen, hits, margin.float(), ids[0], ids[1], tuple(notes))


def _candidates(
    data: _Data, nuisance: Mapping[str, Box | Tensor], columns: Mapping[str, Column]
) -> tuple[list[_Candidate], tuple[str, ...]]:
    """All candidates, and notes on what cannot be measured here."""
    first, second = data.train.images[:], data.test.images[:]
    channels, height, width = data.train.shape
    found, notes = [], []
    for name, prop in PROPERTIES.items():
        if prop.coloured and channels != 3:
            continue
        values = measured(name, first)
        found.append(_Candidate(
            name, "property", prop.about, values, measured(name, second),
            None if prop.change is None else _giving(name, values),
        ))  # fmt: skip
    if channels != 3:
        notes.append("colours: not available, the images have not three channels")
    for name, mask in all_regions(nuisance, height, width).items():
        kind: Kind = "nuisance" if name in nuisance else "region"
        about = "declared not to matter" if name in nuisance else "what its pixels look like"
        found.append(_Candidate(
            name, kind, about, looked_at(first, mask), looked_at(second, mask),
            lambda x, other, _, mask=mask: exchanged(x, mask, other),
        ))  # fmt: skip
    if not any(column.kind == "metadata" for column in columns.values()):
        notes.append("file data (format, size, compression): not available, none was given")
    taken = {candidate.name for candidate in found}
    for name, column in columns.items():
        if name in taken:
            raise DataError(f"there is already a cue '{name}'; call yours something else")
        found.append(_Candidate(
            name, column.kind, column.about,
            _picked(name, "training", column.train, data.train_ids),
            _picked(name, "held-out", column.test, data.test_ids), None,
        ))  # fmt: skip
        if found[-1].train.shape[1] != found[-1].test.shape[1]:
            raise DataError(f"column '{name}' has not as many numbers held out as in training")
    return found, tuple(notes)


def _giving(name: str, values: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, _, donors: changed(name, x, values[donors])


def _picked(name: str, which: str, values: Tensor, ids: Tensor) -> Tensor:
    if values.dim() not in {1, 2} or len(values) <= int(ids.max()):
        raise DataError(
            f"column '{name}' must have one row for each {which} image; got {list(values.shape)}"
        )
    values = values[ids].float()
    if bool(values.isinf().any()):
        raise DataError(f"column '{name}' is infinite somewhere; use nan for what is not known")
    return values.unsqueeze(1) if values.dim() == 1 else values


def _halves(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Positions for fitting and for judging: half of each class (at least one) and the others."""
    rng = torch.Generator().manual_seed(derive(seed, "cues", "halves"))
    order = torch.randperm(len(y), generator=rng)
    order = order[y[order].argsort(stable=True)]
    place = torch.arange(len(y))
    fit, judge = order[place % 2 == 0], order[place % 2 == 1]
    keep = torch.randperm(len(judge), generator=rng)[:_JUDGED]
    return fit, judge[keep]


class _Told(NamedTuple):
    accuracy: Estimate
    p: float
    by_class: tuple[float, ...]


def _told(
    tellers: list[Teller], columns: list[Tensor], y: Tensor, k: int, draws: int, seed: int
) -> list[_Told]:
    """How well each cue alone tells the class."""
    scores = torch.stack([t.scores(x) for t, x in zip(tellers, columns, strict=True)])
    p = label_shuffles(scores, y, draws=draws, seed=derive(seed, "cues", "labels")).tolist()
    total = torch.bincount(y, minlength=k)
    out = []
    present = total > 0
    for i, guess in enumerate(scores.masked_fill(~present, -math.inf).argmax(2)):
        hits = torch.bincount(y[guess == y], minlength=k)
        shares = (hits / total.clamp(min=1)).tolist()
        out.append(_Told(mean_of_cells(hits, total), p[i], tuple(shares)))
    return out


class _Used(NamedTuple):
    gap: Estimate
    p: float
    by_class: tuple[float, ...]
    how: Literal["exchanged", "as found"]


class _Pairs(NamedTuple):
    """Held-out images and the training images that give their cues."""

    ids: Tensor
    own: Tensor
    other: Tensor


def _pairs(data: _Data, images: int, seed: int) -> _Pairs:
    """Equally many images of each class, as far as there are; other classes equally often."""
    rng = torch.Generator().manual_seed(derive(seed, "cues", "pairs"))
    present = data.test.y.unique()
    each = max(1, images // len(present))
    members = {int(c): (data.train.y == c).nonzero().squeeze(1) for c in present}
    ids, own, other = [], [], []
    for c in present.tolist():
        mine = (data.test.y == c).nonzero().squeeze(1)
        mine = mine[torch.randperm(len(mine), generator=rng)[:each]]
        rest = present[present != c]
        turns = torch.randperm(len(rest), generator=rng)
        which = rest[turns[torch.arange(len(mine)) % len(rest)]]
        ids.append(mine)
        own.append(_drawn(members[c], len(mine), rng))
        chosen = torch.empty_like(mine)
        for j in rest.tolist():
            at = which == j
            chosen[at] = _drawn(members[j], int(at.sum()), rng)
        other.append(chosen)
    return _Pairs(torch.cat(ids), torch.cat(own), torch.cat(other))


def _drawn(of: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n of some positions, each as often as any other (give or take one)."""
    rounds = -(-n // len(of))
    order = [of[torch.randperm(len(of), generator=rng)] for _ in range(rounds)]
    return torch.cat([*order, of[:0]])[:n]


def _exchanged(
    wanted: list[int], candidates: list[_Candidate], data: _Data,
    model: Callable[[Tensor], Tensor], pairs: _Pairs, draws: int, seed: int, device: Device,
) -> dict[int, _Used]:  # fmt: skip
    """How the accuracy changes when cues are exchanged for those of other classes."""
    chosen = data.test.select(pairs.ids)
    x = chosen.images[:]
    givers = [(ids, data.train.images[ids]) for ids in (pairs.own, pairs.other)]
    total = torch.bincount(chosen.y, minlength=len(chosen.classes))
    share = 1 / (total[chosen.y] * int((total > 0).sum()))
    differences = []
    for i in wanted:
        exchange = candidates[i].exchange
        assert exchange is not None
        right = []
        for ids, donors in givers:
            shown = ImageSet(exchange(x, donors, ids), chosen.y, chosen.classes)
            right.append((apply(model, shown, device).argmax(1) == chosen.y).float())
        differences.append(right[0] - right[1])
    d = torch.stack(differences, 1)
    p = sign_flips(d, share, draws=draws, seed=derive(seed, "cues", "signs")).tolist()
    found = {}
    for at, i in enumerate(wanted):
        means, errors = _by_class(d[:, at], chosen.y, total)
        found[i] = _Used(_normal(means, errors, len(x)), p[at], tuple(means.tolist()), "exchanged")
    return found


def _by_class(values: Tensor, y: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and squared standard error in every class, float64; nan where there is no image."""
    k, values = len(total), values.double()
    sums = torch.zeros(k, dtype=torch.float64).index_add_(0, y, values)
    squares = torch.zeros(k, dtype=torch.float64).index_add_(0, y, values.square())
    means = sums / total
    return means, (squares / total - means.square()).clamp(min=0) / (total - 1).clamp(min=1)


def _normal(means: Tensor, errors: Tensor, n: int) -> Estimate:
    """The mean over classes with its normal 95 % interval."""
    known = ~means.isnan()
    mean = float(means[known].mean())
    half = 1.96 * float(errors[known].sum().sqrt()) / int(known.sum())
    return Estimate(mean, mean - half, mean + half, n)


def _as_found(
    looked: list[int], strengths: Mapping[int, Tensor], data: _Data, draws: int, seed: int
) -> dict[int, _Used]:
    """Whether images of a class do better where the cue speaks for it: its upper against its lower
    third."""
    y, k = data.test.y, len(data.test.classes)
    x = torch.stack([strengths[i] for i in looked], 1)
    seed = derive(seed, "cues", "within")
    p = rank_shuffles(x, data.margin, y, draws=draws, seed=seed).tolist()
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(len(y), generator=rng)  # so that ties do not follow the order of files
    found = {}
    for at, i in enumerate(looked):
        means = torch.full((k,), math.nan, dtype=torch.float64)
        errors = means.clone()
        for c in y.unique().tolist():
            mine = mixed[y[mixed] == c]
            mine = mine[x[mine, at].argsort(stable=True)]
            third = max(1, len(mine) // 3)
            low, high = data.hits[mine[:third]].double(), data.hits[mine[-third:]].double()
            means[c] = high.mean() - low.mean()
            errors[c] = (low.var(correction=0) + high.var(correction=0)) / max(1, third - 1)
        found[i] = _Used(_normal(means, errors, len(y)), p[at], tuple(means.tolist()), "as found")
    return found


def _rates(p: Mapping[int, float], candidates: list[_Candidate]) -> dict[int, float]:
    """q-values, of cues that may alarm and of those that may not each for themselves."""
    out: dict[int, float] = {}
    for alarming in (True, False):
        ids = [i for i in p if _may_alarm(candidates[i]) == alarming]
        out |= zip(ids, benjamini_hochberg([p[i] for i in ids]), strict=True)
    return out


def _may_alarm(candidate: _Candidate) -> bool:
    return candidate.kind in _ALARMING and candidate.name not in _MAY_BE_CONTENT


def _present(data: _Data) -> int:
    return len(data.test.y.unique())


def _constant(candidate: _Candidate) -> Finding:
    return Finding(
        candidate.name, candidate.kind, candidate.about, "not judged",
        "all training images have the same value",
    )  # fmt: skip


def _judged(
    candidate: _Candidate, classes: tuple[str, ...], available: Answer, tells: tuple[float, ...],
    used: Answer | None, use: _Used | None, q: float, level: float, least: float, *,
    chance: float, with_model: bool,
) -> Finding:  # fmt: skip
    """The verdict."""
    hangs = (None,) * len(classes) if use is None else use.by_class
    rows = tuple(
        OfClass(name, t, None if h is None or math.isnan(h) else h)
        for name, t, h in zip(classes, tells, hangs, strict=True)
    )
    alone = f"alone it tells the class in {available.effect.value:.0%} ({chance:.0%} by chance)"
    verdict: Verdict = "no evidence"
    if available.q > level:
        why = "it does not tell the class of training images better than chance"
    elif used is None or use is None:
        why = f"{alone}; whether it is used was not looked at"
    elif q > level:
        why = f"{alone}, but the model's answers do not go by it"
    elif used.effect.value < least:
        why = f"{alone}, but only {used.effect.value:.1%} accuracy hangs on it"
    else:
        how = (
            "exchanged for that of another class, it costs"
            if use.how == "exchanged"
            else "between images of a class where it speaks for and against the class lie"
        )
        why = f"{alone}; {how} {100 * used.effect.value:.0f} points of accuracy"
        could = candidate.exchange is not None or candidate.name in _MAY_BE_CONTENT
        if not _may_alarm(candidate):
            verdict = "candidate"
        else:
            verdict = "suspect" if could and use.how == "as found" else "alarm"
    steps = _NEXT[candidate.kind] if verdict not in ("no evidence", "not judged") else ()
    if verdict == "suspect" and not with_model:
        steps = ("give the model, so that the cue can be exchanged in images", *steps)
    return Finding(
        candidate.name, candidate.kind, candidate.about, verdict, why, available, used,
        use and use.how, q, rows, steps,
    )  # fmt: skip


_TRAIN = (
    "train without bias labels: `truecue train lff DATA`, or with a picture of the cue: `truecue"
    " train sih DATA`, then `truecue show bias RUN`. They may cost accuracy where cue and class"
    " agree; the report shows it"
)
_NEXT: dict[Kind, tuple[str, ...]] = {
    "property": (
        "make the cue useless: `truecue train erm DATA --set 'plan.augment=[\"jitter\"]'` for"
        " brightness, contrast and colours. What is real in them is lost, too",
        _TRAIN,
    ),
    "region": (
        "cut or cover the region in all images, and train again. It costs what is real in it",
        _TRAIN,
    ),
    "nuisance": (
        "cut or cover the region in all images, and train again. It costs nothing, if the region"
        " does not matter",
        _TRAIN,
    ),
    "metadata": (
        "prepare all files in one way (size, format, compression), then `truecue data check DATA`"
        " and train again. It costs detail where images are brought down to the coarsest",
        _TRAIN,
    ),
    "score": ("look at the images at both ends before you believe it", _TRAIN),
    "feature": ("look at the images at both ends and judge whether it belongs to the class",),
}


def _plain(answer: Answer) -> dict[str, Any]:
    return answer.effect.to_dict() | {"p": answer.p, "q": answer.q}


def _percent(answer: Answer | None) -> str:
    if answer is None:
        return "-"
    value, low, high, _ = answer.effect
    return f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
