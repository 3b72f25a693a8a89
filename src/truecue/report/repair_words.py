"""What a repair came to, in words, and what to do after it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truecue.repair.earlier import UNTUNED
from truecue.repair.repair import DEFAULT
from truecue.repair.tune import TuneSettings
from truecue.report.steps import Step

TUNED = ("low", "random", "error")
SMALL = 0.03
"""Losses of other classes below this share are not mentioned."""
_OPTIONS = ("k", "replay")  # settings that have an option of their own
_SEEDS = 3  # how many, unless said
_MOST_EPOCHS, _MOST_LR = 500, 0.1  # beyond these no further tuning is suggested


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
    if signed(old) == signed(new):
        said = f"{found['title']} did not change the gap of {signed(old)} points"
        tested = found["change"]["test"]["gap"]
        if tested["low"] is not None and (tested["low"] > 0 or tested["high"] < 0):
            gaps = [signed(p["test"]["gap"]["value"]) for p in (told["before"], found["parts"])]
            said += f" on validation images; on test images it went from {' to '.join(gaps)}"
        return said, "bad"
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
    """Random tuning, where low-spuriosity tuning narrows the gap and it does so as far.

    Means over seeds are compared, where there are several.
    """
    methods = told["methods"]
    if told["first"] != "low" or "random" not in methods or not methods["low"]["runs"][0]["chosen"]:
        return None
    low, random = (
        abs(((found["over_seeds"] or found["parts"])["val"]["gap"])["value"])
        for found in (methods["low"], methods["random"])
    )
    narrowed = low < abs(told["before"]["val"]["gap"]["value"])
    return "random tuning" if narrowed and random <= low else None


def next_steps(told: Mapping[str, Any]) -> list[Step]:
    """What to do after reading the page.

    Args:
        told: what repair.json holds.
    """
    name, folder = told["first"], str(told["audit"])
    found, settings = told["methods"][name], told["settings"]
    steps = []
    if better_at_random(told):
        steps.append(
            Step(
                "Random images narrow the gap as far, so that it is not the images without the cue"
                " that help. Look at the rankings and the verdicts again:",
                shlex.join(["truecue", "app", folder]),
            )
        )
    if name in TUNED:
        steps += _tune_on(told)
    old, new = (p["val"]["untouched"]["value"] for p in (told["before"], found["parts"]))
    if old is not None and new < old - SMALL and settings.get("replay", 0) < settings["k"]:
        steps.append(
            Step(
                f"Classes that were not repaired lost {100 * (old - new):.1f} points; tune on some"
                " of their images, too:",
                again(told, replay=settings["k"]),
            )
        )
    others = {"low": "low-spuriosity tuning", "spufix": "SpuFix, which trains nothing"}
    for other, said in others.items():
        if other not in told["methods"]:
            steps.append(Step(f"Compare with {said}:", again(told, method=other)))
    if unmoved(told):
        text = "See whether another candidate is what the model goes by, and judge it:"
        return [*steps, Step(text, shlex.join(["truecue", "app", folder]))]
    about = told["facts"].get("settings") or {}
    place = about.get("table") or about.get("root") or told["facts"].get("data")
    data, model = str(place or "DATA"), f"{told['folder']}/{found['model']}"
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


def outcome(told: Mapping[str, Any], name: str) -> str:
    """Which epoch of a method's first run is kept, and whether its gap is small enough."""
    run = told["methods"][name]["runs"][0]
    if name not in TUNED:
        return "nothing is trained, and nothing chosen"
    target = f"within {100 * told['settings']['target']:g} points"
    kept = f"epoch {run['chosen']} is kept" if run["chosen"] else "the model is as it was"
    near = f"the gap is {target}" if run["reached"] else (
        f"the gap never came {target} at this accuracy"
    )  # fmt: skip
    return f"{kept}; {near}; {run['images']:,} images"


def settings_in_words(told: Mapping[str, Any]) -> str:
    """The settings of the tuning, one after the other."""
    return ", ".join(f"{name} {value:g}" for name, value in told["settings"].items())


def commands(told: Mapping[str, Any]) -> str:
    """The commands that made the repairs, each once."""
    made = [found.get("command") for found in told["methods"].values()]
    return "; ".join(dict.fromkeys(filter(None, [*made, told["facts"].get("command")])))


def moved(told: Mapping[str, Any], part: str) -> bool:
    """Whether any repair changed the accuracy or the gap on a part of the images."""
    before = told["before"][part]
    return any(
        found["parts"][part][key]["value"] != before[key]["value"]
        for found in told["methods"].values()
        for key in ("accuracy", "gap")
    )


def unmoved(told: Mapping[str, Any]) -> bool:
    """Whether the repair that was meant left the model, or all that is measured, as it was."""
    found = told["methods"][told["first"]]
    if told["first"] in TUNED and found["runs"][0]["chosen"] == 0:
        return True
    moved = found["change"]["val"]
    return all(moved[key]["value"] == moved[key]["low"] == moved[key]["high"] == 0 for key in moved)


def again(told: Mapping[str, Any], method: str | None = None, **changes: float) -> str:
    """The command of a repair with its own settings, some changed.

    Args:
        told: what repair.json holds.
        method: the one to do; None: all that were tuned.
        changes: settings by name.
    """
    words = ["truecue", "repair", str(told["audit"])]
    if Path(told["folder"]) != Path(told["audit"]) / "repair":
        words += ["--out", str(told["folder"])]
    tuned = [n for n in told["methods"] if n in TUNED]
    methods = [method] if method else [] if tuned == list(DEFAULT) else tuned
    words += [w for n in methods for w in ("--method", n)]
    usual, settings = TuneSettings().to_dict(), told["settings"] | changes
    if method in UNTUNED:
        settings = {name: value for name, value in settings.items() if name == "ends"}
    for name, value in settings.items():
        if value != usual.get(name):
            words += [f"--{name}"] if name in _OPTIONS else ["--set"]
            words += [f"{value:g}"] if name in _OPTIONS else [f"{name}={value:g}"]
    seeds = told["seeds"]
    words += ["--seed", str(seeds[0])] if seeds[0] else []
    words += ["--seeds", str(len(seeds))] if len(seeds) != _SEEDS and method not in UNTUNED else []
    return shlex.join(words)


def _tune_on(told: Mapping[str, Any]) -> list[Step]:
    """How to tune further, by what the epochs of the run that was meant show; or that it ends."""
    run, settings = told["methods"][told["first"]]["runs"][0], told["settings"]
    log, chosen = run["log"], run["chosen"]
    if run["reached"]:
        if chosen or settings["target"] == 0:
            return []
        return [
            Step(
                "Few images decide about the gap by which epochs are chosen. Tune all the same, for"
                " the smallest gap, and see whether the other images agree:",
                again(told, target=0),
            )
        ]
    refused = [e for e in log if abs(e["gap"]) < abs(log[chosen]["gap"])]
    if refused and settings["tol"] < 1:
        return [
            Step(
                "An epoch with a smaller gap costs more accuracy than is allowed. If the gap"
                " matters more than accuracy on images that mostly show the cue, allow a larger"
                " loss:",
                again(told, tol=min(1.0, round(2 * settings["tol"], 6)) or 0.01),
            )
        ]
    falling = chosen and abs(log[-1]["gap"]) <= abs(log[chosen]["gap"])
    if falling and settings["epochs"] < _MOST_EPOCHS:
        return [
            Step(
                "The gap was still smallest after the last epoch. Tune for longer:",
                again(told, epochs=min(_MOST_EPOCHS, 5 * settings["epochs"])),
            )
        ]
    still = all(e[key] == log[0][key] for e in log for key in ("accuracy", "low", "high"))
    nothing = "Nothing is left to try with the last layer"
    if still and run.get("wrong") == 0:
        title = told["methods"][told["first"]]["title"]
        nothing += (
            f": the model is right on all {run['images']:,} images that it was tuned on, and no"
            f" epoch changed an answer. {title} cannot move it"
        )
    elif settings["lr"] < _MOST_LR:
        return [
            Step(
                f"No {'later ' if chosen else ''}epoch had a smaller gap. Tune with a larger"
                " learning rate:",
                again(told, lr=min(_MOST_LR, round(10 * settings["lr"], 9))),
            )
        ]
    return [
        Step(
            f"{nothing}. What remains is training on, below the last layer, by a method that goes"
            " against the cue, or validation and training images that lack the cue. The methods:",
            "truecue methods",
        )
    ]
