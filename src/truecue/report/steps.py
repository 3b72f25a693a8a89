"""What to do after reading a report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from truecue.report.view import sides
from truecue.report.words import verdict


class Step(NamedTuple):
    """Something to do next, with the command that does it where there is one."""

    text: str
    command: str | None = None


def next_steps(report: Mapping[str, Any]) -> list[Step]:
    """What to do next; a report's own `next` (a list of text and command) replaces it all."""
    if report.get("next"):
        return [Step(str(step["text"]), step.get("command")) for step in report["next"]]
    before, after = sides(report)
    steps = []
    if report.get("suspects") or report.get("lowrank"):
        steps.append(
            Step("Look through the suspected images above: are they rare cases, or wrong labels?")
        )
    if after is not None and after.model.get("method"):
        again = _again(report, str(after.model["method"]))
        steps.append(Step("Train again with other seeds; one run can be lucky or unlucky:", again))
    if before is not None and verdict(report).tone in ("bad", "unclear"):
        steps.append(Step("Try another method; this lists them:", "truecue methods"))
    where = " (model.safetensors lies beside this page)" if report.get("kind") == "train" else ""
    text = f"Measure the model on other images, a folder or table of your own{where}:"
    steps.append(Step(text, "truecue evaluate model.safetensors DATA"))
    return steps


def _again(report: Mapping[str, Any], method: str) -> str:
    """The command for the same training with the next seed, its other settings kept."""
    seed = ["--seed", str(int(report.get("seed") or 0) + 1)]
    try:
        words = shlex.split(str(report.get("command") or ""))
    except ValueError:
        words = []
    if words[:2] != ["truecue", "train"]:
        data = str((report.get("task") or {}).get("data") or "DATA")
        return shlex.join(["truecue", "train", method, data, *seed])
    kept, skip = [], False
    for word in words:
        # the folder must be another one, too; without --out it is named by the seed
        own = word.partition("=")[0] in ("--seed", "--out")
        if not own and not skip and word != "--fresh":
            kept.append(word)
        skip = own and "=" not in word
    return shlex.join([*kept, *seed])
