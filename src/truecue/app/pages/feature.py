"""One feature of one class: pictures, verdict, votes, gaps, and where else it matters."""

from __future__ import annotations

from truecue.app.pages.base import Named, Number, State, View, named
from truecue.app.source import Source
from truecue.audit.attack import WARNING


class Cell(View):
    """One training image that the feature is shown with."""

    image: int
    value: float
    """Of the feature."""


class Vote(View):
    """One person's answer."""

    annotator: str
    answer: str | None
    """None: skipped."""
    confidence: int | None
    reason: str


class FeatureGap(View):
    """Accuracy at the two ends of the ranking by this feature alone."""

    split: str
    why: str
    """Why it was not measured; empty where it was."""
    k: int | None = None
    low: Number = Number()
    high: Number = Number()
    gap: Number = Number()
    p: float | None = None
    q: float | None = None


class FeaturePage(View):
    """The page."""

    class_index: int
    class_name: str
    feature: int
    name: str
    is_cue: bool
    is_component: bool
    rank: int | None
    share: float | None
    importance: float | None
    robust: bool
    top: list[Cell]
    least: list[Cell]
    state: State
    kind: str
    answers: int
    spurious_votes: int
    votes: list[Vote]
    gold: str | None
    gaps: list[FeatureGap]
    siblings: list[Named]
    """The other features of the class."""
    elsewhere: dict[State, list[Named]]
    """The same feature in other classes."""
    notes: list[str]


def feature_page(source: Source, c: int, f: int) -> FeaturePage:
    """Everything about a feature of a class.

    Raises:
        DataError: there is no such class or feature.
    """
    audit = source.audit
    found, shown, verdict = audit.feature(c, f), source.shown(c, f), None
    verdict = source.verdict(found)
    is_cue = source.is_cue(f)
    elsewhere: dict[State, list[Named]] = {}
    is_component = audit.is_component(found)  # of this class: those of others are other directions
    for other in () if is_component else audit.pairs():
        if other.feature == f and other.class_index != c:
            entry = named(source, other)
            elsewhere.setdefault(entry.state, []).append(entry)
    notes = []
    if is_component:
        notes.append("A component is a direction of all features: it has no heat maps")
    elif is_cue:
        notes.append("This cue is a number for each image, not a feature of the network: it has no"
                     " heat maps")  # fmt: skip
    elif not source.robust:
        notes.append(WARNING[0].upper() + WARNING[1:])
    return FeaturePage(
        class_index=c, class_name=source.classes[c], feature=f, name=found.name, is_cue=is_cue,
        is_component=is_component,
        rank=found.rank, share=found.share, importance=found.importance,
        robust=source.robust and not is_cue,
        top=[Cell(image=i, value=shown.values[i]) for i in shown.top],
        least=[Cell(image=i, value=shown.values[i]) for i in shown.least],
        state=verdict.verdict if verdict else "not judged",
        kind=verdict.kind if verdict else "",
        answers=verdict.answers if verdict else 0,
        spurious_votes=verdict.spurious_votes if verdict else 0,
        votes=[Vote(annotator=j.annotator, answer=j.answer, confidence=j.confidence,
                    reason=j.reason) for j in source.votes(c, f)],
        gold=source.gold().get((c, f)),
        gaps=[_gap(source, split, c, f) for split in audit.splits if split != "train"],
        siblings=[named(source, s, picture=True) for s in audit.features(c) if s.feature != f],
        elsewhere=elsewhere, notes=notes,
    )  # fmt: skip


def _gap(source: Source, split: str, c: int, f: int) -> FeatureGap:
    row = source.of_pairs(split).get((c, f), {"why": "not measured"})
    if "gap" not in row:
        return FeatureGap(split=split, why=row["why"])
    ends = {name: Number.of(row[name]) for name in ("low", "high", "gap")}
    return FeatureGap(split=split, why="", k=row["k"], p=row["p"], q=row.get("q"), **ends)
