"""Verdicts on cues, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from truecue.audit.asking import Used
from truecue.audit.candidates import Candidate
from truecue.audit.cue_table import Answer, CueFinding, Kind, OfClass, Verdict
from truecue.metrics.evidence import benjamini_hochberg


def rates(p: Mapping[int, float], candidates: Sequence[Candidate]) -> dict[int, float]:
    """q-values, of cues that may alarm and of those that may not each for themselves."""
    out: dict[int, float] = {}
    for alarming in (True, False):
        ids = [i for i in p if candidates[i].alarming == alarming]
        out |= zip(ids, benjamini_hochberg([p[i] for i in ids]), strict=True)
    return out


def constant(candidate: Candidate) -> CueFinding:
    """Of a cue that is the same in all training images."""
    return CueFinding(
        candidate.name, candidate.kind, candidate.about, "not judged",
        "all training images have the same value",
    )  # fmt: skip


def judged(
    candidate: Candidate, classes: tuple[str, ...], available: Answer, tells: tuple[float, ...],
    used: Answer | None, use: Used | None, q: float, level: float, least: float, *,
    chance: float,
) -> CueFinding:  # fmt: skip
    """The verdict on a cue.

    Args:
        candidate: the cue.
        classes: their names.
        available: answer to the first question.
        tells: accuracy of the cue alone, by class.
        used: answer to the second question; None: it was not asked.
        use: where that comes from.
        q: false-discovery rate of both together.
        level: the rate that is put up with.
        least: accuracy that must hang on the cue.
        chance: accuracy of guessing.
    """
    hangs = (None,) * len(classes) if use is None else use.by_class
    rows = tuple(
        OfClass(name, t, None if h is None or math.isnan(h) else h)
        for name, t, h in zip(classes, tells, hangs, strict=True)
    )
    right = f"{100 * available.effect.value:.0f} % ({100 * chance:.0f} % by chance)"
    alone = f"alone it tells the class in {right}"
    verdict: Verdict = "no evidence"
    if available.q > level:
        why = "it does not tell the class of training images better than chance"
    elif used is None or use is None:
        why = f"{alone}; whether it is used was not looked at"
    elif q > level:
        why = f"{alone}, but the model's answers do not go by it"
    elif used.effect.value < least:
        why = f"{alone}, but only {100 * used.effect.value:.1f} points of accuracy hang on it"
    else:
        how = (
            "exchanged for that of another class, it costs"
            if use.how == "exchanged"
            else "between images of a class where it speaks for and against the class lie"
        )
        why = f"{alone}; {how} {100 * used.effect.value:.0f} points of accuracy"
        if not candidate.alarming:
            verdict = "candidate"
        elif use.how == "as found":  # which may be the content's doing
            verdict = "suspect"
        else:
            verdict = "alarm"
    steps = _NEXT[candidate.kind] if verdict not in ("no evidence", "not judged") else ()
    if verdict == "suspect" and candidate.exchange is not None:
        steps = ("give the model, so that the cue can be exchanged in images", *steps)
    return CueFinding(
        candidate.name, candidate.kind, candidate.about, verdict, why, available, used,
        use and use.how, q, rows, steps,
    )  # fmt: skip


_TRAIN = (
    "train without bias labels: `truecue train lff DATA`, or with a picture of the cue: `truecue"
    " train sih DATA`, then `truecue show bias RUN`. They may cost accuracy where cue and class"
    " agree; the report shows it"
)
_LOOK = "look at the images at both ends: does what tells them apart belong to the class?"
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
    "score": (_LOOK, _TRAIN),
    "feature": (_LOOK,),
}
