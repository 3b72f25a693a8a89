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
    """What to do next; a report's own `next` (a list of text and command) goes first if present."""
    if report.get("next"):
        return [Step(str(step["text"]), step.get("command")) for step in report["next"]]
    before, after = sides(report)
    task, steps = report.get("task") or {}, []
    if report.get("suspects"):
        steps.append(
            Step("Look through the suspected images above: are they rare cases, or wrong labels?")
        )
    if after is not None:
        method = str(after.model.get("method") or after.name)
        data = shlex.quote(str(task.get("data") or "DATA"))
        seed = int(report.get("seed") or 0) + 1
        again = f"truecue train {shlex.quote(method)} {data} --seed {seed}"
        steps.append(Step("Train again with other seeds; one run can be lucky or unlucky:", again))
    if before is not None and verdict(report).tone in ("bad", "unclear"):
        steps.append(Step("Try another method; this lists them:", "truecue methods"))
    steps.append(Step("Measure a trained model on other images:", "truecue evaluate --help"))
    return steps
