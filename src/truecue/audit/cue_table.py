"""The table of cues: what was asked of each, what was found, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from truecue.metrics.intervals import Estimate

Kind = Literal["property", "region", "nuisance", "metadata", "score", "feature"]
Verdict = Literal["alarm", "suspect", "candidate", "no evidence", "not judged"]
How = Literal["exchanged", "as found"]


class Answer(NamedTuple):
    """The answer to one question about one cue."""

    effect: Estimate
    """Available: accuracy, mean over classes, of a classifier that sees only the cue. Used:
    accuracy that hangs on the cue, mean over classes."""
    p: float
    """Chance of such an effect where there is none, by permutation."""
    q: float
    """The same as a false-discovery rate among all cues that may alarm (or all that may not)."""


class OfClass(NamedTuple):
    """What holds for the images of one class."""

    name: str
    tells: float
    """Share of the class's training images that the cue alone puts into it."""
    hangs: float | None
    """Accuracy that hangs on the cue. Difficulty that has nothing to do with classes cancels in the
    mean over classes only, so read it beside the others."""


@dataclass(frozen=True)
class CueFinding:
    """One cue."""

    name: str
    kind: Kind
    about: str
    verdict: Verdict
    why: str
    """The verdict in a sentence."""
    available: Answer | None = None
    used: Answer | None = None
    how: Literal["exchanged", "as found"] | None = None
    """How `used` was found out: by exchanging the cue, or by looking at images as they are."""
    q: float | None = None
    """False-discovery rate of the claim that the cue is both available and used."""
    by_class: tuple[OfClass, ...] = ()
    next: tuple[str, ...] = ()
    """What to do next, and what it may cost."""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values, for JSON; None where a number is not defined."""
        return {
            "name": self.name,
            "kind": self.kind,
            "about": self.about,
            "verdict": self.verdict,
            "why": self.why,
            "available": self.available and _plain(self.available),
            "used": self.used and _plain(self.used),
            "how": self.how,
            "q": self.q,
            "classes": [c._asdict() for c in self.by_class],
            "next": list(self.next),
        }


@dataclass(frozen=True)
class CueTable:
    """All candidates, judged."""

    findings: tuple[CueFinding, ...]
    """Alarms first, then by how much accuracy hangs on the cue."""
    classes: tuple[str, ...]
    chance: float
    """Accuracy, mean over classes, of guessing."""
    level: float
    """The false-discovery rate that was put up with."""
    least: float
    """Accuracy that had to hang on a cue for an alarm."""
    draws: int
    """Permutations behind each p-value; the least that it can be is 1 / (draws + 1)."""
    pairs: int
    """Held-out images in which cues were exchanged; 0 without a model."""
    notes: tuple[str, ...] = ()
    strengths: Mapping[str, Tensor] = field(default_factory=dict)
    """For each cue that was judged, float32 [n]: how much it speaks for each held-out image's own
    class against the others; nan for images that were not measured. Not part of the JSON."""

    @property
    def alarms(self) -> tuple[CueFinding, ...]:
        """The cues that raised an alarm."""
        return tuple(f for f in self.findings if f.verdict == "alarm")

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values, for JSON."""
        return {
            "format": 1,
            "kind": "cues",
            "verdict": "alarm" if self.alarms else "no evidence",
            "classes": list(self.classes),
            "chance": self.chance,
            "level": self.level,
            "least": self.least,
            "draws": self.draws,
            "pairs": self.pairs,
            "notes": list(self.notes),
            "cues": [finding.to_dict() for finding in self.findings],
        }

    def text(self) -> str:
        """The table for a terminal: a row for each cue, then what to do about the alarms."""
        rows = [("cue", "tells the class", "accuracy that hangs on it", "q", "verdict")]
        for f in self.findings:
            rows.append(
                (
                    f.name,
                    _percent(f.available),
                    _percent(f.used) + (" (as found)" if f.how == "as found" else ""),
                    "-" if f.q is None else f"{f.q:.3f}",
                    f.verdict,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip()
                 for row in rows]  # fmt: skip
        lines += ["", f"chance of the class: {self.chance:.1%}", *self.notes]
        for f in self.alarms:
            lines += ["", f"{f.name}: {f.why}", *(f"  - {step}" for step in f.next)]
        if not self.alarms:
            lines += ["", f"No evidence of a cue among these at a false-discovery rate of"
                          f" {self.level:g}. That is no proof that there is none."]  # fmt: skip
        return "\n".join(lines)


def _plain(answer: Answer) -> dict[str, Any]:
    return answer.effect.to_dict() | {"p": answer.p, "q": answer.q}


def _percent(answer: Answer | None) -> str:
    if answer is None:
        return "-"
    value, low, high, _ = answer.effect
    return f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
