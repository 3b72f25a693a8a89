"""Images that may be labelled wrongly, or show several things, for review."""

from __future__ import annotations

from truecue.app.pages.base import View
from truecue.app.pictures import core_features
from truecue.app.source import Source

FINDINGS = {
    "label_wrong": "label wrong",
    "several_objects": "several objects",
    "fine": "fine",
}
MOST = 40
"""Images of a class that are shown."""


class Suspect(View):
    """One image."""

    image: int
    predicted: int
    says: str
    """The class that the model prefers."""
    agrees: bool
    """Whether the model predicts the label."""
    mine: str
    """What this person has said about it."""
    said: dict[str, int]
    """How often each answer was given."""


class SuspectClass(View):
    """A class whose gap is negative."""

    index: int
    name: str
    gap: float
    images: list[Suspect]
    more: int
    """Images that are not shown."""
    crops: bool
    """Whether a crop around the class's core features can be shown."""


class LabelsPage(View):
    """The page."""

    split: str
    splits: list[str]
    measured: bool
    classes: list[SuspectClass]
    reviewed: int
    stale: bool


def labels_page(source: Source, split: str, annotator: str) -> LabelsPage:
    """The most spurious images of classes with a negative gap."""
    split = source.measured(split)
    found = source.by_verdicts(split)
    said: dict[int, dict[str, str]] = {}
    for review in source.reviews.all():
        if review.split == split:
            said.setdefault(review.image, {})[review.annotator] = review.finding
    classes = []
    for entry in (found or {}).get("suspects", []):
        c = entry["class"]
        images = [_suspect(source, c, row, said.get(row["image"], {}), annotator)
                  for row in entry["images"][:MOST]]  # fmt: skip
        classes.append(SuspectClass(
            index=c, name=source.classes[c], gap=entry["gap"], images=images,
            more=max(0, len(entry["images"]) - MOST), crops=bool(core_features(source, c)),
        ))  # fmt: skip
    return LabelsPage(
        split=split, splits=[s for s in source.audit.splits if s != "train"],
        measured=found is not None, classes=classes, reviewed=len(said), stale=source.is_stale(),
    )  # fmt: skip


def suspect_ids(source: Source, split: str) -> dict[int, int]:
    """Images that are up for review, with their class."""
    found = source.by_verdicts(split) or {}
    return {row["image"]: entry["class"]
            for entry in found.get("suspects", []) for row in entry["images"]}  # fmt: skip


def _suspect(
    source: Source, c: int, row: dict[str, int], said: dict[str, str], annotator: str
) -> Suspect:
    counts = {kind: list(said.values()).count(kind) for kind in FINDINGS}
    return Suspect(
        image=row["image"],
        predicted=row["predicted"],
        says=source.classes[row["predicted"]],
        agrees=row["predicted"] == c,
        mine=said.get(annotator, ""),
        said={kind: n for kind, n in counts.items() if n},
    )
