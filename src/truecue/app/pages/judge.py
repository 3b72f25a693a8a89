"""Judging features: what to ask next, what is shown, and what an answer must have."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Literal

from truecue.app.pages.base import View
from truecue.app.source import Source
from truecue.audit.verdicts import Judgement
from truecue.seeds import derive

LONGEST_NAME, LONGEST_REASON = 60, 2000
GOLD_EVERY = 10
"""One in so many questions has a known answer, as long as there are such."""
_EXAMPLES = 5
ANSWERS = {
    "background": ("B", "the background of the main object",
                   "Water around a fish, snow under a sledge, a tinted backdrop."),
    "separate_object": ("S", "another object that is not part of it",
                        "The hand that holds a fish, a flower under a bee, a mark in a corner."),
    "main_object": ("M", "some part of the main object",
                    "The fins of a fish, the stroke of a digit, the whole bird."),
}  # fmt: skip
"""For each answer its key, its wording, and examples."""
CONFIDENCE = ("not at all", "slightly", "somewhat", "fairly", "completely")


class Progress(View):
    """How far a person is."""

    answered: int
    skipped: int
    total: int


class Form(View):
    """What has been filled in."""

    answer: str = ""
    confidence: str = ""
    reason: str = ""
    started: float = 0.0


class Question(View):
    """The page: blind to importance, to gaps and to anybody's answers."""

    class_index: int
    class_name: str
    about: dict[str, str]
    """Group, definition and link of the class, where the folder has them."""
    feature: int
    is_cue: bool
    robust: bool
    top: list[int]
    least: list[int]
    examples: list[int]
    """Some images of the class, of the split `examples_of`."""
    examples_of: str
    original: bool
    """Whether the rows are those of the study, without the least activating images."""
    progress: Progress
    form: Form
    missing: list[str]
    """What an answer that was refused lacks."""
    next_heat: list[tuple[int, int, int]]
    """Class, feature and images of the next question, so that its pictures can be fetched."""


def clean_name(name: str) -> str:
    """A person's name without what cannot be seen; empty where nothing is left."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", name).strip()[:LONGEST_NAME].strip()


def queue(source: Source, annotator: str) -> tuple[tuple[int, int], ...]:
    """All pairs in the order in which a person is asked about them.

    Class by class, those of which features explain most first, so that what a class looks like need
    not be learned twice. Within a class the order is drawn for each person: the order of importance
    would give it away. Pairs whose answer is known are spread among the others.
    """
    return _queue(source, annotator, tuple(source.gold()))


@lru_cache(64)
def _queue(
    source: Source, annotator: str, known: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    classes = sorted(
        range(len(source.classes)),
        key=lambda c: (-sum(f.share or 0.0 for f in source.audit.features(c)), c),
    )
    order = []
    for c in classes:
        pairs = [(c, f.feature) for f in source.audit.features(c)]
        order += sorted(pairs, key=lambda p: derive(0, "judge", annotator, *p))
    gold = [pair for pair in order if pair in known]
    mixed: list[tuple[int, int]] = []
    for at, pair in enumerate(pair for pair in order if pair not in known):
        mixed.append(pair)
        if gold and at % (GOLD_EVERY - 1) == (GOLD_EVERY - 1) // 2:
            mixed.append(gold.pop(0))
    return (*mixed, *gold)


def next_pair(
    source: Source, annotator: str, *, skipped: bool = False, after: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """The next pair that a person has not answered, or, of those skipped, the first.

    Args:
        source: the audit.
        annotator: the person.
        skipped: whether to ask again about what was skipped.
        after: a pair to leave out, because it is on the screen.
    """
    given = source.given(annotator)
    for pair in queue(source, annotator):
        open_ = given[pair].answer is None if skipped and pair in given else pair not in given
        if open_ and pair != after:
            return pair
    return None


def progress(source: Source, annotator: str) -> Progress:
    """How far a person is."""
    known = {(f.class_index, f.feature) for f in source.audit.pairs()}
    given = [g for pair, g in source.given(annotator).items() if pair in known]
    answered = sum(g.answer is not None for g in given)
    return Progress(answered=answered, skipped=len(given) - answered, total=len(known))


def question(
    source: Source, annotator: str, c: int, f: int, *, original: bool = False,
    form: Form | None = None, missing: list[str] | None = None,
) -> Question:  # fmt: skip
    """The screen for one pair.

    Raises:
        DataError: there is no such class or feature.
    """
    source.audit.feature(c, f)
    shown = source.shown(c, f)
    of = "val" if "val" in source.audit.splits else "test"
    examples = _examples(source, of, c, f)
    ahead = next_pair(source, annotator, after=(c, f))
    heat = [] if ahead is None or source.is_cue(ahead[1]) else [
        (*ahead, i) for i in source.shown(*ahead).top
    ]  # fmt: skip
    return Question(
        class_index=c, class_name=source.classes[c], about=source.about(c), feature=f,
        is_cue=source.is_cue(f), robust=source.robust and not source.is_cue(f),
        top=list(shown.top), least=list(shown.least), examples=examples, examples_of=of,
        original=original, progress=progress(source, annotator),
        form=form or Form(started=time.time()), missing=missing or [], next_heat=heat,
    )  # fmt: skip


def _examples(source: Source, split: str, c: int, f: int) -> list[int]:
    """Images of a class, from all parts of its ranking by a feature; in the order of the split."""
    total = source.audit.page(split, c, f, count=0).total
    at = [total * i // _EXAMPLES for i in range(min(_EXAMPLES, total))]
    return sorted(int(source.audit.page(split, c, f, start=i, count=1).ids[0]) for i in at)


def lacks(form: Form) -> list[str]:
    """What an answer still needs, in words; empty where it is complete."""
    missing = []
    if form.answer not in ANSWERS:
        missing.append("where the red region mainly is")
    if form.confidence not in {"1", "2", "3", "4", "5"}:
        missing.append("how confident you are")
    if not form.reason.strip():
        missing.append("what is highlighted, in a few words")
    return missing


def judgement(
    source: Source, annotator: str, c: int, f: int, form: Form, action: Literal["submit", "skip"]
) -> Judgement:
    """An answer to be stored, with what was shown.

    Raises:
        DataError: there is no such class or feature.
    """
    found, shown = source.audit.feature(c, f), source.shown(c, f)
    skip = action == "skip"
    return Judgement(
        class_index=c, feature=f, annotator=annotator,
        answer=None if skip else form.answer,  # type: ignore[arg-type]
        confidence=None if skip else int(form.confidence),
        reason="" if skip else form.reason.strip()[:LONGEST_REASON],
        class_name=source.classes[c], rank=found.rank,
        group_rule=str(source.audit.facts["table"][c]["rule"]),
        images=(*shown.top, *shown.least), started=form.started or None, submitted=time.time(),
    )  # fmt: skip
