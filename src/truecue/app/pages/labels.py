"""Images that may be labelled wrongly, or show several things, for review."""

from __future__ import annotations

import shlex

from truecue.app.pages.base import Next, View
from truecue.app.pictures import core_features
from truecue.app.source import Source
from truecue.report.audit_page import place

FINDINGS = {
    "label_wrong": "label wrong",
    "several_objects": "several objects",
    "fine": "fine",
}
PER_PAGE = 40
"""Images on a page; those of a class may go on on the next one."""


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
    """Those on this page."""
    total: int
    """Images of the class that are up for review."""
    crops: bool
    """Whether a crop around the class's core features can be shown."""


class LabelsPage(View):
    """The page."""

    split: str
    splits: list[str]
    measured: bool
    classes: list[SuspectClass]
    reviewed: int
    start: int
    """How many images come before those on this page."""
    count: int
    """Images on a page, at most."""
    total: int
    """Images of all classes that are up for review."""
    stale: bool
    next: list[Next]


def labels_page(source: Source, split: str, annotator: str, start: int) -> LabelsPage:
    """The most spurious images of classes with a negative gap, a page of them."""
    split = source.measured(split)
    found = source.by_verdicts(split)
    said: dict[int, dict[str, str]] = {}
    for review in source.reviews.all():
        if review.split == split:
            said.setdefault(review.image, {})[review.annotator] = review.finding
    entries = (found or {}).get("suspects", [])
    total = sum(len(entry["images"]) for entry in entries)
    start = page_of(max(0, min(start, total - 1)))
    classes, before = [], 0
    for entry in entries:
        c, first = entry["class"], max(0, start - before)
        rows = entry["images"][first : max(0, start + PER_PAGE - before)]
        before += len(entry["images"])
        if rows:
            classes.append(SuspectClass(
                index=c, name=source.classes[c], gap=entry["gap"], total=len(entry["images"]),
                images=[_suspect(source, c, row, said.get(row["image"], {}), annotator)
                        for row in rows],
                crops=bool(core_features(source, c)),
            ))  # fmt: skip
    return LabelsPage(
        split=split, splits=[s for s in source.audit.splits if s != "train"],
        measured=found is not None, classes=classes, reviewed=len(said), start=start,
        count=PER_PAGE, total=total, stale=source.is_stale(),
        next=_next(source) if classes else [],
    )  # fmt: skip


def _next(source: Source) -> list[Next]:
    """What to do with the answers."""
    folder = source.audit.folder
    model, out = (shlex.quote(str(path)) for path in
                  (folder / "model.safetensors", f"{folder}-relabelled"))  # fmt: skip
    return [
        Next(
            text="Save the answers as CSV (above): the number of an image is its place in its"
            " split. Mend wrong labels in your data, and leave out or crop images that show several"
            " things."
        ),
        Next(
            text="Audit the same model on the mended images: the gaps of these classes may have"
            " been labels. It encodes images that have changed, and forgets no verdict of this"
            " audit:",
            command=f"truecue audit {place(source.audit)} --model {model} --out {out}",
        ),
    ]


def page_of(place: int) -> int:
    """Where the page begins that an image is on, by its place among those up for review."""
    return place // PER_PAGE * PER_PAGE


def suspect_ids(source: Source, split: str) -> dict[int, int]:
    """Images that are up for review, in their order, with their class."""
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
