"""The images of a class in order of a cue: both ends, and any part in between."""

from __future__ import annotations

from truecue.app.pages.base import Named, View, named
from truecue.app.source import Source
from truecue.audit.audit import Page
from truecue.metrics.ranking import end_sizes, is_small

ENDS = 8
PER_PAGE = 60


class Ranked(View):
    """One image of a ranking."""

    image: int
    rank: int
    """1: the cue is weakest."""
    score: float
    predicted: int
    says: str
    """The class that the model predicts."""
    right: bool


class Strip(View):
    """The page."""

    class_index: int
    class_name: str
    split: str
    splits: list[str]
    by: int | None
    """The feature whose ranking it is; None: by spuriosity."""
    by_name: str
    features: list[Named]
    ranked: bool
    """Whether there is a ranking by the verdicts."""
    total: int
    k: int
    """Images at either end that gaps are measured on."""
    small: bool
    """Too few images for ends that mean something."""
    low: list[Ranked]
    high: list[Ranked]
    start: int
    count: int
    images: list[Ranked]
    stale: bool


def strip(source: Source, c: int, split: str, by: int | None, start: int) -> Strip:
    """Some images of a class's ranking, and its two ends.

    Raises:
        DataError: there is no such class, feature or split.
    """
    k = source.gaps()["k"]  # first: rankings are read anew where somebody has measured since
    audit = source.audit
    features = [named(source, f) for f in audit.features(c)]
    split = split or source.measured()
    source.part(split)
    spurious = [f for f in features if f.state == "spurious"]
    applied = (audit.folder / split / "ranking.npy").is_file()
    has = by is not None or (bool(spurious) and applied)
    page = audit.page(split, c, by, start=start, count=PER_PAGE) if has else None
    total = page.total if page else 0
    start = max(0, min(start, total - 1)) if start >= 0 else max(0, total + start)
    few = min(ENDS, total // 2)

    def part(first: int, count: int) -> list[Ranked]:
        if not total or not count:
            return []
        return _ranked(source, split, c, audit.page(split, c, by, start=first, count=count), first)

    size = 0
    if total >= 2:
        import torch

        size = int(end_sizes(torch.tensor([total]), k)[0])
    return Strip(
        class_index=c, class_name=source.classes[c], split=split, splits=list(audit.splits), by=by,
        by_name="spuriosity" if by is None else audit.feature(c, by).name, features=features,
        ranked=bool(total), total=total, k=size, small=is_small(total),
        low=part(0, few), high=part(total - few, few), start=start, count=PER_PAGE,
        images=part(start, PER_PAGE), stale=by is None and source.is_stale(),
    )  # fmt: skip


def _ranked(source: Source, split: str, c: int, page: Page, first: int) -> list[Ranked]:
    says = source.audit._array(split, "predicted")[page.ids].tolist()
    rows = zip(page.ids.tolist(), page.scores.tolist(), says, strict=True)
    return [
        Ranked(image=i, rank=first + at + 1, score=score, predicted=p, says=source.classes[p],
               right=p == c)
        for at, (i, score, p) in enumerate(rows)
    ]  # fmt: skip
