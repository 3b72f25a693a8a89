"""Sentences: what a report's numbers say, in words that need no training to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from truecue.report.view import (
    Change,
    Measure,
    Side,
    compare,
    difference,
    known_bias,
    measure,
    percent,
    sides,
)

CLEAR = 0.05
"""Differences below this share are called small."""
PRICE = 0.10
"""A loss on aligned images from this share on is part of the headline."""


UNKNOWN = (
    "A shortcut is something that usually comes with a class, such as a colour or a background, and"
    " that a model can go by instead of the class itself. Bias labels say which of these each image"
    " shows; with them for the test images, this page would show how often a model is misled."
)


class Verdict(NamedTuple):
    """What came out: one sentence, how it should be taken, and what belongs to it."""

    headline: str
    tone: Literal["good", "bad", "unclear", "plain"]
    details: list[str]


def verdict(report: Mapping[str, Any]) -> Verdict:
    """The verdict on a report's models, as far as its numbers carry one."""
    before, after = sides(report)
    bias = known_bias(report)
    if after is None or after.measure("average").value is None:
        return Verdict("This report holds no test results.", "plain", [])
    if bias is None:
        return _without_bias(before, after)
    if after.measure("conflicting").value is None:
        return _by_groups(before, after, bias)
    if before is None or before.measure("conflicting").value is None:
        headline = f"{_diagnosis(after, bias)}: {_conflicting(after, bias)}."
        return Verdict(headline, "plain", [_gap(after, bias), *_chance(report)])
    return _with_bias(report, before, after, bias)


def _with_bias(report: Mapping[str, Any], before: Side, after: Side, bias: str) -> Verdict:
    pair = before.measure("conflicting"), after.measure("conflicting")
    change, gain = compare(*pair), difference(*pair) or 0.0
    start = f"{_diagnosis(before, bias)}: {_conflicting(before, bias)}"
    value = percent(pair[1].value)
    if change == "up":
        little = "only a little more often, " if gain < CLEAR else ""
        end = f"{after.short} was right {little}on {value}"
    elif change == "down":
        end = f"{after.short} made this worse: it was right on {value}"
    else:
        end = f"{after.short} was right on {value}, which is {_unclear(*pair)}"
    aligned = before.measure("aligned"), after.measure("aligned")
    lost = -(difference(*aligned) or 0.0) if compare(*aligned) == "down" else 0.0
    if lost >= PRICE:
        end += f". {_price(*aligned, bias)}"
    if added := _added(report, after):
        end += f". {added}"
    details = [_gap(after, bias), *_overall(before, after), *_chance(report)]
    if 0 < lost < PRICE:
        details.insert(1, f"{_price(*aligned, bias)}.")
    worse = compare(before.measure("unbiased"), after.measure("unbiased")) == "down"
    return Verdict(f"{start}; {end}.", _tone(change, worse), details)


def _added(report: Mapping[str, Any], after: Side) -> str:
    """Where drawing errors more often gains nothing over the plain classifier: that it does not."""
    found = report.get("lowrank") or {}
    rows = [row for row in found.get("table") or [] if row["name"].startswith("plain")]
    if not rows:
        return ""
    pair = measure(rows[0]["test"], "conflicting"), after.measure("conflicting")
    gain = difference(*pair)
    if gain is None or compare(*pair) == "up":
        return ""
    other, what = "A plain last layer on the same encoder", "drawing errors more often"
    if found["variant"] == "supervised":
        other = "The same network, trained plainly,"
    elif found["variant"] == "semi":
        what = "training the whole network with errors drawn more often"
    nothing = "nothing" if gain <= 0 else "nothing that is beyond chance"
    return f"{other} was right on {percent(pair[0].value)}: {what} added {nothing}"


def _tone(change: Change, worse: bool) -> Literal["good", "bad", "unclear"]:
    if change == "up":
        return "unclear" if worse else "good"
    return "bad" if change == "down" else "unclear"


def _by_groups(before: Side | None, after: Side, bias: str) -> Verdict:
    """Groups are known, but not which of them are aligned."""
    worst = after.measure("worst_group")
    where = f"in the group (class and {bias}) it handles worst"
    if before is None or before.measure("worst_group").value is None:
        text = f"{after.short} was right on {percent(worst.value)} of the images {where}."
        return Verdict(text, "plain", [])
    pair = before.measure("worst_group"), worst
    text = f"{before.short} was right on {percent(pair[0].value)} of the images {where};"
    text += f" {after.short} on {percent(worst.value)} in its own worst group"
    change = compare(*pair)
    text += f", which is {_unclear(*pair)}." if change == "unclear" else "."
    worse = compare(before.measure("unbiased"), after.measure("unbiased")) == "down"
    return Verdict(text, _tone(change, worse), _overall(before, after))


def _without_bias(before: Side | None, after: Side) -> Verdict:
    average, details = after.measure("average"), []
    text = f"{after.short} was right on {percent(average.value)} of the test images"
    if before is not None and before.measure("average").value is not None:
        pair = before.measure("average"), average
        text = f"{before.short} was right on {percent(pair[0].value)} of the test images,"
        text += f" {after.short} on {percent(average.value)}"
        text += f", which is {_unclear(*pair)}" if compare(*pair) == "unclear" else ""
        worst = before.measure("worst_class"), after.measure("worst_class")
        if worst[0].value is not None and worst[1].value is not None:
            what = {"up": "improved", "down": "got worse", "unclear": "did not clearly change"}
            details.append(
                f"The hardest class {what[compare(*worst)]}: {percent(worst[0].value)}"
                f" before, {percent(worst[1].value)} after."
            )
    details.append(UNKNOWN)
    headline = f"{text}. Whether a shortcut was used cannot be told: there are no bias labels."
    return Verdict(headline, "plain", details)


def _diagnosis(side: Side, bias: str) -> str:
    """How much a model went by the bias, judged by the gap between its two kinds of images."""
    aligned, conflicting = side.measure("aligned"), side.measure("conflicting")
    if not _depends(side):
        return f"{side.short} did not visibly depend on the {bias}"
    assert aligned.value is not None
    mostly = conflicting.value is not None and conflicting.value < aligned.value / 2
    return f"{side.short} {'mostly looked at' if mostly else 'leaned on'} the {bias}"


def _depends(side: Side) -> bool:
    """Whether a model is right more often where the bias matches, beyond chance."""
    aligned, conflicting = side.measure("aligned"), side.measure("conflicting")
    gap = difference(conflicting, aligned) or 0.0
    beyond = compare(conflicting, aligned) == "up" or aligned.low is None
    return gap >= CLEAR and beyond


def _conflicting(side: Side, bias: str) -> str:
    value = percent(side.measure("conflicting").value)
    return f"on images whose {bias} does not match, it was right on {value} of them"


def _gap(side: Side, bias: str) -> str:
    aligned, conflicting = side.measure("aligned"), side.measure("conflicting")
    numbers = f"{percent(aligned.value)} right where the {bias} matches"
    numbers += f", {percent(conflicting.value)} where it does not"
    if not _depends(side):
        return (
            f"With {side.short} it makes little difference whether the {bias} matches: {numbers}."
        )
    assert conflicting.value is not None
    assert aligned.value is not None
    if conflicting.value < aligned.value / 2:
        return f"{side.short} itself goes mostly by the {bias}: {numbers}."
    return f"With {side.short} a gap is left: {numbers}."


def _price(before: Measure, after: Measure, bias: str) -> str:
    return (
        f"The price: where the {bias} does match, it fell from {percent(before.value)} to"
        f" {percent(after.value)}"
    )


def _overall(before: Side, after: Side) -> list[str]:
    pair = before.measure("unbiased"), after.measure("unbiased")
    if pair[0].value is None or pair[1].value is None:
        return []
    change = compare(*pair)
    what = {
        "up": "it improved",
        "down": "it got worse",
        "unclear": f"the result is {_unclear(*pair)}",
    }
    return [
        f"With every group of images counting the same, {what[change]}: {percent(pair[0].value)}"
        f" before, {percent(pair[1].value)} after."
    ]


def _unclear(before: Measure, after: Measure) -> str:
    if None in (before.low, after.low):
        return "no proof of a difference (no intervals are known)"
    return "too close to call (the 95\u00a0% intervals overlap)"


def _chance(report: Mapping[str, Any]) -> list[str]:
    classes = (report.get("task") or {}).get("classes") or []
    if len(classes) < 2:
        return []
    share = percent(1 / len(classes))
    return [f"Guessing among the {len(classes)} classes would be right on about {share}."]
