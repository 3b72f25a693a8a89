"""What a repair came to, in words, and what to do after it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from truecue.report.steps import Step

TUNED = ("low", "random", "error")
SMALL = 0.03
"""Losses of other classes below this share are not mentioned."""


def signed(value: float | None) -> str:
    """A difference of shares in points, with its sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def between(found: Mapping[str, Any]) -> str:
    """An interval of a difference of shares in points; empty where it is not known."""
    if found.get("low") is None or found.get("high") is None:
        return ""
    return f"{signed(found['low'])} to {signed(found['high'])}"


def headline(told: Mapping[str, Any]) -> tuple[str, str]:
    """One sentence on the repair that was meant, and how to take it: good, bad or unclear.

    Args:
        told: what repair.json holds.
    """
    name = told["first"]
    found = told["methods"][name]
    before, after = (p["val"] for p in (told["before"], found["parts"]))
    old, new = before["gap"]["value"], after["gap"]["value"]
    run = found["runs"][0]
    if name in TUNED and run["chosen"] == 0:
        if run["reached"]:
            target, gap = told["settings"]["target"], signed(run["log"][0]["gap"])
            said = f"the gap by which epochs are chosen, {gap} points, is within {100 * target:g}"
            if abs(old) <= target:
                return f"Nothing to repair: {said} already, and the model is as it was", "good"
            return (
                f"The model is as it was: {said}, but on images that nothing was chosen by it is"
                f" {signed(old)}"
            ), "unclear"
        return (
            f"{found['title']} found no epoch with a smaller gap that keeps the accuracy; the model"
            " is as it was"
        ), "bad"
    moved = found["change"]["val"]
    said = f"{found['title']} changed the gap from {signed(old)} to {signed(new)} points"
    if moved["gap"]["low"] <= 0 <= moved["gap"]["high"]:
        return f"{said}, which is too close to call", "unclear"
    if abs(new) >= abs(old):
        return said, "bad"
    if (rival := better_at_random(told)) is not None:
        return f"{said}, but {rival} did as well", "unclear"
    cost = moved["accuracy"]
    if cost["high"] < 0:
        return f"{said}, at {signed(cost['value'])} points of accuracy", "good"
    return said, "good"


def better_at_random(told: Mapping[str, Any]) -> str | None:
    """Random tuning, where it leaves no larger gap than low-spuriosity tuning does.

    Means over seeds are compared, where there are several.
    """
    methods = told["methods"]
    if told["first"] != "low" or "random" not in methods or not methods["low"]["runs"][0]["chosen"]:
        return None
    low, random = (
        abs(((found["over_seeds"] or found["parts"])["val"]["gap"])["value"])
        for found in (methods["low"], methods["random"])
    )
    return "random tuning" if random <= low else None


def next_steps(told: Mapping[str, Any]) -> list[Step]:
    """What to do after reading the page.

    Args:
        told: what repair.json holds.
    """
    name, folder = told["first"], str(told["audit"])
    found, settings = told["methods"][name], told["settings"]
    run = found["runs"][0]
    again = ["truecue", "repair", folder]
    steps = []
    if better_at_random(told):
        steps.append(
            Step(
                "Random images narrow the gap as far, so that it is not the images without the cue"
                " that help. Look at the rankings and the verdicts again."
            )
        )
    kept = name in TUNED and run["chosen"] == 0
    if kept and run["reached"]:
        steps.append(
            Step(
                "Few images decide about the gap by which epochs are chosen. Tune all the same, for"
                " the smallest gap, and see whether the other images agree:",
                shlex.join([*again, "--set", "target=0"]),
            )
        )
    if name in TUNED and not run["reached"]:
        more = {"tol": min(1.0, round(2 * settings["tol"], 6)), "epochs": 5 * settings["epochs"]}
        words = [w for k, v in more.items() for w in ("--set", f"{k}={v:g}")]
        steps.append(
            Step(
                "The gap is larger than was asked for. If it matters more than accuracy on images"
                " that mostly show the cue, allow a larger loss and more epochs:",
                shlex.join([*again, *words]),
            )
        )
    old, new = (p["val"]["untouched"]["value"] for p in (told["before"], found["parts"]))
    if old is not None and new < old - SMALL:
        steps.append(
            Step(
                f"Classes that were not repaired lost {100 * (old - new):.1f} points; tune on some"
                " of their images, too:",
                shlex.join([*again, "--replay", str(settings["k"])]),
            )
        )
    if "spufix" not in told["methods"]:
        steps.append(
            Step("Compare with SpuFix, which trains nothing:",
                 shlex.join([*again, "--method", "low", "--method", "spufix"]))
        )  # fmt: skip
    settings = told["facts"].get("settings") or {}
    place = settings.get("table") or settings.get("root") or told["facts"].get("data")
    data, model = str(place or "DATA"), f"{told['folder']}/{found['model']}"
    if kept:
        return steps
    steps.append(
        Step(
            "Audit the repaired model: without this cue it may go by another one:",
            shlex.join(["truecue", "audit", data, "--model", model, "--out", f"{folder}-repaired"]),
        )
    )
    steps.append(
        Step("Measure it on other images:", shlex.join(["truecue", "evaluate", model, data]))
    )
    return steps
