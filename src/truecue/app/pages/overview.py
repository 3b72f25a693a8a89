"""All classes: how many of their features are judged and spurious, and what that costs."""

from __future__ import annotations

from typing import Literal

from truecue.app.pages.base import Named, Number, View, named
from truecue.app.source import Source

Sort = Literal["spurious", "gap", "candidate", "name", "index"]
SORTS: dict[Sort, str] = {
    "spurious": "spurious features",
    "gap": "spurious gap",
    "candidate": "largest gap of a feature",
    "name": "name",
    "index": "number",
}
PER_PAGE = 50
_THUMBS = 5


class ClassRow(View):
    """One class."""

    index: int
    name: str
    n: dict[str, int]
    """Images by split."""
    state: Literal["not annotated", "in part", "annotated"]
    judged: int
    spurious: int
    features: list[Named]
    more: int
    """Features that are not listed."""
    gap: Number
    """By the verdicts."""
    why: str
    """Why there is no gap; empty where there is one."""
    candidate: Named | None
    """The feature whose ranking alone has the largest gap."""
    candidate_gap: Number


class Overview(View):
    """The page."""

    rows: list[ClassRow]
    found: int
    """Classes that fit the search."""
    total: int
    q: str
    sort: Sort
    start: int
    split: str
    """Whose gaps are shown."""
    splits: list[str]
    pairs: int
    judged: int
    """Pairs that somebody has answered."""
    spurious: int
    macro: Number
    stale: bool
    """Verdicts have changed since gaps were measured."""
    notes: list[str]


def overview(source: Source, q: str, sort: Sort, start: int, split: str) -> Overview:
    """The classes that fit a search by name or number, sorted, a page of them."""
    audit, split = source.audit, source.measured(split)
    judged = source.judged().pairs
    by_verdicts, stale = source.by_verdicts(split), source.is_stale()
    gaps = {row["class"]: row for row in (by_verdicts or {}).get("classes", [])}
    of_pairs = source.of_pairs(split)
    spurious = source.judged().spurious()
    largest: dict[int, tuple[float, int]] = {}
    for (c, f), row in of_pairs.items():
        if "gap" in row and row["gap"]["value"] > largest.get(c, (-2.0, 0))[0]:
            largest[c] = row["gap"]["value"], f
    wanted = q.strip().lower()
    found = [c for c, name in enumerate(source.classes)
             if wanted in name.lower() or wanted == str(c)]  # fmt: skip
    lowest = -2.0
    keys = {
        "spurious": lambda c: (-len(spurious.get(c, ())), -_value(gaps.get(c), lowest), c),
        "gap": lambda c: (-_value(gaps.get(c), lowest), c),
        "candidate": lambda c: (-largest.get(c, (lowest, 0))[0], c),
        "name": lambda c: (source.classes[c].lower(), c),
        "index": lambda c: (c,),
    }
    found.sort(key=keys[sort])
    start = max(0, min(start, len(found) - 1)) // PER_PAGE * PER_PAGE
    rows = []
    for c in found[start : start + PER_PAGE]:
        features = audit.features(c)
        answered = [f for f in features if (c, f.feature) in judged]
        # what is spurious comes first, then in order of importance
        order = sorted(features, key=lambda f: f.feature not in spurious.get(f.class_index, ()))
        gap = gaps.get(c)
        why = ""
        if gap is None:
            why = "nothing to rank" if not spurious.get(c) else "too few images"
            if not answered:
                why = "not annotated"
            elif stale and spurious.get(c):
                why = "not measured yet"
        best = largest.get(c)
        rows.append(ClassRow(
            index=c,
            name=source.classes[c],
            n=audit.facts["table"][c]["n"],
            state="annotated" if len(answered) == len(features) and features
            else "in part" if answered else "not annotated",
            judged=len(answered),
            spurious=len(spurious.get(c, ())),
            features=[named(source, f, picture=True) for f in order[:_THUMBS]],
            more=max(0, len(features) - _THUMBS),
            gap=Number.of(gap and gap["gap"]),
            why=why,
            candidate=named(source, audit.feature(c, best[1])) if best else None,
            candidate_gap=Number.of(of_pairs[c, best[1]]["gap"]) if best else Number(),
        ))  # fmt: skip
    known = {(f.class_index, f.feature) for f in audit.pairs()}
    return Overview(
        rows=rows, found=len(found), total=len(source.classes), q=q, sort=sort, start=start,
        split=split, splits=[s for s in audit.splits if s != "train"], pairs=len(known),
        judged=len(known & judged.keys()), spurious=sum(map(len, spurious.values())),
        macro=Number.of(by_verdicts and by_verdicts["macro"]), stale=stale,
        notes=audit.facts["notes"],
    )  # fmt: skip


def _value(row: dict[str, dict[str, float]] | None, absent: float) -> float:
    return absent if row is None else row["gap"]["value"]
