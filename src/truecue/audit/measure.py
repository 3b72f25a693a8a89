"""Gaps of an audit: of every feature as if it alone were spurious, and by the verdicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truecue.atomic import write_text
from truecue.audit.audit import Audit, Feature
from truecue.audit.make import write_array
from truecue.audit.verdicts import Aggregate
from truecue.metrics.agreement import null_gap
from truecue.metrics.evidence import benjamini_hochberg
from truecue.metrics.intervals import Estimate
from truecue.metrics.ranking import (
    Gap,
    Ranking,
    class_gaps,
    collisions,
    end_hits,
    is_small,
    rank,
    rank_correlation,
    spurious_gap,
    suspects,
)
from truecue.metrics.spurious import Moments, StatsFrom, class_stats, scores, statistics, varies
from truecue.seeds import derive

SUSPECTS = 0.1
"""Share of a class's images that are listed for review where its gap is negative."""


def measure_gaps(
    audit: Audit, *, k: int | None = None, stats_from: StatsFrom = "own", seed: int = 0
) -> dict[str, Any]:
    """Measure a model's gaps on validation and test images, and write gaps.json.

    Every pair of a class and a feature gets the gap of the ranking by that feature alone, with the
    chance of such a gap in a random order. Where features have been judged spurious, rankings by
    spuriosity are written for all splits, and gaps by class and over classes.

    Args:
        audit: opened.
        k: images in each end; None: a fifth of each class. Never more than half of a class.
        stats_from: by which images' statistics features are standardised where several are
            spurious; classes of fewer than 30 images always take those of the training images.
        seed: of the bootstrap and of random orders.

    Returns:
        What gaps.json holds.

    Raises:
        ConfigError: k is below 1.
        StorageError: a file could not be written.

    Source: Moayeri et al. 2023 (arXiv 2212.02648), sections 3 and 4.
    """
    judged = audit.verdicts().aggregate()
    spurious = judged.spurious()
    chosen = torch.zeros(len(audit.classes), audit.width, dtype=torch.bool)
    for feature in audit.pairs():
        chosen[feature.class_index, feature.slot] = feature.feature in spurious.get(
            feature.class_index, ()
        )
    train = _moments(audit, "train")
    found: dict[str, Any] = {}
    for split in audit.splits:
        own = train if split == "train" else _moments(audit, split)
        if spurious:
            _rank(audit, split, statistics(own, train, stats_from), chosen)
        else:
            for name in ("spuriosity", "ranking"):
                (audit.folder / split / f"{name}.npy").unlink(missing_ok=True)
        audit.forget()
        if split != "train":
            entry: dict[str, Any] = {"pairs": _pairs(audit, split, own, k)}
            entry["verdicts"] = _by_verdicts(audit, split, k, seed) if spurious else None
            found[split] = entry
    told = {
        "format": 1,
        "kind": "gaps",
        "k": k,
        "stats_from": stats_from,
        "seed": seed,
        "answers": _answers(judged),
        "splits": found,
    }
    write_text(audit.folder / "gaps.json", json.dumps(told, indent=1) + "\n")
    return told


class Candidate(NamedTuple):
    """A feature of a class with its gaps."""

    feature: Feature
    gaps: dict[str, Mapping[str, Any]]
    """By split, its row in gaps.json."""
    said: str
    """What the verdict is called; empty where there is none."""


def candidates_by_gap(audit: Audit) -> list[Candidate]:
    """All features of all classes, the largest gap on validation images first.

    On test images where there are no validation images; features without a gap come last.

    Raises:
        DataError: nothing has been measured.
    """
    splits = audit.gaps()["splits"]
    rows = {
        split: {(row["class"], row["feature"]): row for row in found["pairs"]}
        for split, found in splits.items()
    }
    first = "val" if "val" in splits else "test"
    judged = audit.verdicts().aggregate().pairs

    def size(candidate: Candidate) -> tuple[float, float]:
        row = candidate.gaps[first]
        return (row["gap"]["value"] if "gap" in row else -2.0, candidate.feature.share or 0.0)

    found = []
    for f in audit.pairs():
        pair = f.class_index, f.feature
        said = judged[pair].said if pair in judged else ""
        found.append(Candidate(f, {split: of[pair] for split, of in rows.items()}, said))
    return sorted(found, key=size, reverse=True)


def _moments(audit: Audit, split: str) -> Moments:
    return class_stats(audit.columns(split), audit.labels(split), len(audit.classes))


def _rank(audit: Audit, split: str, stats: Moments, chosen: Tensor) -> None:
    """Write a split's spuriosity, and its order; classes without a score keep their places."""
    y = audit.labels(split)
    s = scores(audit.columns(split), y, stats, chosen)
    order = rank(s.nan_to_num(nan=0.0), y, len(audit.classes)).order
    write_array(audit.folder / split / "spuriosity.npy", s.numpy())
    write_array(audit.folder / split / "ranking.npy", order.int().numpy())


def _pairs(audit: Audit, split: str, own: Moments, k: int | None) -> list[dict[str, Any]]:
    """The gap of each pair, in the order of `Audit.pairs`."""
    y, columns = audit.labels(split), audit.columns(split)
    right = audit.predicted(split) == y
    n = torch.bincount(y, minlength=len(audit.classes)).tolist()
    hits = torch.bincount(y[right], minlength=len(audit.classes)).tolist()
    moving = varies(own)
    ends: dict[tuple[int, int], tuple[int, int, int]] = {}
    for slot in range(audit.width):
        at = end_hits(right, audit.ranking(split, slot), k)
        rows = (t.tolist() for t in (at.classes, at.k, at.low, at.high))
        ends |= {(c, slot): (low, high, size) for c, size, low, high in zip(*rows, strict=True)}
    found: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    counts: list[tuple[int, ...]] = []
    for f in audit.pairs():
        c, slot = f.class_index, f.slot
        row: dict[str, Any] = {"class": c, "feature": f.feature, "name": f.name, "n": n[c]}
        found.append(row)
        if (c, slot) not in ends or not bool(moving[c, slot]):
            row["why"] = "it does not vary" if (c, slot) in ends else "too few images"
            continue
        measured.append(row)
        counts.append((*ends[c, slot], hits[c], n[c]))
        if is_small(n[c]):
            mine = y == c
            row["correlation"] = _finite(rank_correlation(columns[mine, slot], right[mine]))
    gaps = class_gaps(*torch.tensor(counts).reshape(-1, 5).T)
    adjusted = benjamini_hochberg([gap.p for gap in gaps])
    for row, gap, q in zip(measured, gaps, adjusted, strict=True):
        row.update(_plain(gap), q=q)
    return found


def _by_verdicts(audit: Audit, split: str, k: int | None, seed: int) -> dict[str, Any]:
    y, pred = audit.labels(split), audit.predicted(split)
    right, ranking = pred == y, audit.ranking(split)
    gaps = spurious_gap(right, ranking, k, seed=derive(seed, "audit", split))
    null = _null(right, ranking, k, derive(seed, "audit", split, "null"))
    names, s = audit.classes, audit.spuriosity(split)
    rows = []
    for c, gap in gaps.by_class.items():
        ids = ranking.of(c)
        row = {"class": c, "name": names[c], "n": len(ids)} | _plain(gap)
        if is_small(len(ids)):
            row["correlation"] = _finite(rank_correlation(s[ids], right[ids]))
        rows.append(row)
    by_class = torch.tensor([[gap.gap.value for gap in gaps.by_class.values()]])
    negative = collisions(by_class, torch.tensor(list(gaps.by_class))) if rows else []
    return {
        "classes": rows,
        "macro": gaps.macro.to_dict(),
        "pooled": gaps.pooled.to_dict(),
        "null": null,
        "low": _mean(gaps.by_class, "low"),
        "high": _mean(gaps.by_class, "high"),
        "missing": [c for c in range(len(names)) if c not in gaps.by_class],
        "suspects": [
            {"class": c, "gap": gap, "images": [
                {"image": i, "predicted": p} for i, p in suspects(ranking, pred, c, SUSPECTS)
            ]}
            for c, gap in negative
        ],
    }  # fmt: skip


def _null(right: Tensor, ranking: Ranking, k: int | None, seed: int) -> dict[str, float | None]:
    null = null_gap(right, ranking, k, seed=seed)
    names = ("mean", "low", "high")
    return {name: _finite(float(v)) for name, v in zip(names, null.band("gap"), strict=True)}


def _plain(gap: Gap) -> dict[str, Any]:
    return {
        "k": gap.gap.n,
        "low": gap.low.to_dict(),
        "high": gap.high.to_dict(),
        "gap": gap.gap.to_dict(),
        "p": gap.p,
        "null": list(gap.null),
    }


def _mean(gaps: dict[int, Gap], end: str) -> float | None:
    values: list[Estimate] = [getattr(gap, end) for gap in gaps.values()]
    return sum(v.value for v in values) / len(values) if values else None


def _answers(judged: Aggregate) -> dict[str, Any]:
    """What the gaps rest on: how many verdicts of each kind, and a short text that tells them."""
    kinds = [pair.verdict for pair in judged.pairs.values()]
    return {
        "pairs": len(kinds),
        **{kind: kinds.count(kind) for kind in ("core", "spurious", "undecided")},
        "automatic": sum(pair.automatic for pair in judged.pairs.values()),
        "fleiss": _finite(judged.fleiss),
        "digest": verdicts_digest(judged),
    }


def verdicts_digest(judged: Aggregate) -> str:
    """A short text that changes when what is spurious does."""
    told = json.dumps(sorted((c, sorted(f)) for c, f in judged.spurious().items()))
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _finite(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124
