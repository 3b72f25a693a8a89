"""Whether the people who judge agree, and with answers that are known."""

from __future__ import annotations

from truecue.app.pages.base import Named, View, finite, named
from truecue.app.source import Source
from truecue.metrics.intervals import wilson

MOST = 100
"""Rows of a table."""


class Person(View):
    """One annotator."""

    name: str
    answered: int
    skipped: int
    gold_right: int
    gold_answered: int
    gold_low: float | None
    """Lower end of Wilson's interval of the share that is right."""


class Two(View):
    """Two annotators."""

    a: str
    b: str
    kappa: float | None


class Split(View):
    """A pair that people do not agree on."""

    feature: Named
    answers: int
    spurious_votes: int
    agreement: float


class Gold(View):
    """A pair whose answer is known."""

    feature: Named
    answer: str


class AgreementPage(View):
    """The page."""

    people: list[Person]
    fleiss: float | None
    two: list[Two]
    """Those who agree least come first."""
    more: int
    """Pairs of annotators that are not listed."""
    shared: int
    """Pairs with two answers or more."""
    disputed: list[Split]
    gold: list[Gold]
    counts: dict[str, int]
    """Pairs by verdict."""


def agreement_page(source: Source) -> AgreementPage:
    """Annotators, kappas, disputed pairs and gold items."""
    judged, gold = source.judged(), source.gold()
    known = {(f.class_index, f.feature): f for f in source.audit.pairs()}
    people = []
    for name, n, skipped in source.people():
        right, of = judged.gold.get(name, (0, 0))
        low = wilson(right, of).low if of else None
        people.append(Person(name=name, answered=n, skipped=skipped, gold_right=right,
                             gold_answered=of, gold_low=low))  # fmt: skip
    pairs = {p: v for p, v in judged.pairs.items() if p in known}
    disputed = [
        Split(feature=named(source, known[p]), answers=v.answers, spurious_votes=v.spurious_votes,
              agreement=v.agreement)
        for p, v in sorted(pairs.items(), key=lambda item: item[1].agreement)
        if v.agreement < 1
    ]  # fmt: skip
    kinds = [v.verdict for v in pairs.values()]
    two = [Two(a=a, b=b, kappa=finite(k)) for (a, b), k in judged.cohen.items()]
    two.sort(key=lambda t: 2.0 if t.kappa is None else t.kappa)  # many workers are many pairs
    return AgreementPage(
        people=people, fleiss=finite(judged.fleiss),
        two=two[:MOST], more=max(0, len(two) - MOST),
        shared=sum(v.answers > 1 for v in pairs.values()), disputed=disputed[:MOST],
        gold=[Gold(feature=named(source, known[p]), answer=a) for p, a in gold.items()
              if p in known],
        counts={kind: kinds.count(kind) for kind in ("core", "spurious", "undecided")},
    )  # fmt: skip
