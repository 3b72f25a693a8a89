"""Directions of a generator, along which a classifier was watched: judged one by one."""

from __future__ import annotations

from collections.abc import Mapping

from truecue.app.pages.base import View, finite
from truecue.app.probed import Probed
from truecue.app.source import Source
from truecue.audit.direction_answers import ANSWERS, DirectionJudgement, verdict_of
from truecue.audit.verdicts import Verdict
from truecue.errors import DataError

WORDS = {
    "core": ("C", "part of the class"),
    "spurious": ("S", "not part of it"),
    "unclear": ("N", "the pictures do not say"),
}
"""For each answer its key, and what it says of what changes along the direction."""
LONGEST_NOTE = 2000


class Said(View):
    """One person's answer."""

    name: str
    answer: str
    note: str


class Row(View):
    """One direction."""

    k: int
    """Its position among those that were probed."""
    key: str
    """Hash of name, generator and vector: what answers are kept by."""
    name: str
    flagged: bool
    """Whether it moves the classifier more than random directions do."""
    visible: bool
    flips: float | None
    """Share of predictions that differ between both ends."""
    change: float | None
    """Of the image, between both ends."""
    q: float | None
    """False-discovery rate, against random directions."""
    gap: float | None
    """Mean gap of real images, as a share of 1."""
    null: list[float]
    """Between these lie 95 % of the gaps of random orders."""
    mine: str
    """What this person has said."""
    note: str
    """This person's words."""
    said: list[Said]
    """All answers."""
    verdict: Verdict | None
    """What they say together; None: nobody has answered."""
    current: bool
    """Whether it is the first that this person has not answered."""


class DirectionsPage(View):
    """The page."""

    probes: list[str]
    """Names of the folders that can be looked at."""
    probe: int
    """Which of them this is."""
    classifier: str
    """Where the classifier was that was probed."""
    own: bool
    """Whether it is the model of the audit."""
    steps: tuple[float, float]
    rows: list[Row]
    total: int
    """Directions that were probed, with those that have no pictures."""
    answered: int
    """Rows that this person has answered."""


def directions_page(source: Source, probe: int, annotator: str) -> DirectionsPage:
    """The directions of one folder, those that move the classifier most first.

    Raises:
        DataError: there is no such folder.
    """
    probes = [p.folder.resolve().name for p in source.probes]
    if not probes and probe == 0:
        return DirectionsPage(probes=[], probe=0, classifier="", own=False, steps=(0, 0), rows=[],
                              total=0, answered=0)  # fmt: skip
    found = source.probed(probe)
    given: dict[str, list[DirectionJudgement]] = {}
    for judgement in source.directions.all():
        given.setdefault(judgement.direction.key, []).append(judgement)
    rows = [_row(found, k, given, annotator) for k in found.shown]
    waiting = next((i for i, row in enumerate(rows) if not row.mine), None)
    if waiting is not None:
        rows[waiting] = rows[waiting].model_copy(update={"current": True})
    return DirectionsPage(
        probes=probes, probe=probe, classifier=str(found.about.get("model") or ""),
        own=found.classifier == source.audit.facts["model"]["digest"], steps=found.ends, rows=rows,
        total=len(found.rows), answered=sum(bool(row.mine) for row in rows),
    )  # fmt: skip


def _row(
    probed: Probed, k: int, given: Mapping[str, list[DirectionJudgement]], annotator: str
) -> Row:
    row, direction = probed.rows[k], probed.directions[k]
    gap = probed.gaps.get(direction.name, {})
    said = given.get(direction.key, [])
    mine = next((j for j in said if j.annotator == annotator), None)
    return Row(
        k=k, key=direction.key, name=direction.name, flagged=bool(row["flagged"]),
        visible=bool(row["visible"]), flips=finite(row["flips"]), change=finite(row["change"]),
        q=finite(row["q"]), gap=finite(gap.get("gap")), null=list(gap.get("null") or []),
        mine=mine.answer if mine else "", note=mine.note if mine else "",
        said=[Said(name=j.annotator, answer=j.answer, note=j.note) for j in said],
        verdict=verdict_of([j.answer for j in said]) if said else None, current=False,
    )  # fmt: skip


def check_answer(source: Source, probe: int, k: int, answer: str) -> Probed:
    """The folder of a direction that an answer is about.

    Raises:
        DataError: there is no such direction to judge, or no such answer.
    """
    found = source.probed(probe)
    if k not in found.shown:
        raise DataError(f"there is no direction {k} to judge")
    if answer not in ANSWERS:
        raise DataError(f"say {', '.join(ANSWERS[:-1])} or {ANSWERS[-1]}; got '{answer}'")
    return found
