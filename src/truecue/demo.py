"""The whole job on embedded data: train, audit, judge, repair, debias, and ask again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from truecue import api
from truecue.atomic import write_text
from truecue.audit.audit import Audit
from truecue.audit.make import make_audit
from truecue.audit.verdicts import Answer, Judgement
from truecue.auditing import audit
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.methods.denetdm import DeNetDM
from truecue.metrics.known import cue_auroc
from truecue.repair.repair import repair_audit
from truecue.report.repair_page import write_repair_page
from truecue.report.story_page import write_story

EPOCHS = 60
"""Epochs of each stage of DeNetDM, and of plain training: enough to see the point in a minute."""
CLEAR = 0.8
"""AUROC of a feature for the planted cue from which on the truth judges it spurious."""


def demo(
    out: Path, data: Splits, *, seed: int, device: Device, facts: Mapping[str, Any],
    fresh: bool = False, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run the story and write its page; cut off and called again, it goes on where it was.

    Args:
        out: folder; index.html tells the story, the pages of its parts lie below.
        data: splits with a bias label, which stands for a person's judgement and is used to
            measure; neither training nor auditing sees it.
        seed: of everything that is drawn.
        device: where to compute.
        facts: see `truecue.train`.
        fresh: start over where the folder holds a run.
        quiet: show no progress.

    Returns:
        What story.json holds.
    """
    began, worked = time.monotonic(), time.process_time()
    method = DeNetDM().override({"experts.epochs": EPOCHS, "plan.epochs": EPOCHS})
    given: dict[str, Any] = {
        "seed": seed, "device": device, "facts": facts, "fresh": fresh, "quiet": quiet,
    }  # fmt: skip
    trained = api.train(method, data, out=out / "train", **given)
    plain = trained.others["erm"]
    judged = judge_by_truth(make_audit(out / "audit", data, plain, **given), data)
    before = audit(out / "audit", data, plain, pictures=4, **given | {"fresh": False})
    repaired = repair_audit(
        before.audit, data, methods=("low", "random"), seeds=(seed,), device=device, facts=facts,
        quiet=quiet,
    )  # fmt: skip
    write_repair_page(repaired, before.audit.folder / "repair")
    after = audit(out / "audit-after", data, trained.net, pictures=0, **given)
    story = {
        "format": 1,
        "kind": "story",
        "seed": seed,
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - worked,
        "bias": data.bias,
        "models": {
            "plain": _right(trained.report["models"]["erm"]["test"]),
            "repaired": _right(repaired["methods"]["low"]["parts"]["test"]["groups"]),
            "denetdm": _right(trained.report["models"]["denetdm"]["test"]),
        },
        "cues": _hanging(before.cues, after.cues),
        "judged": judged,
        "gap": before.audit.gaps()["splits"]["test"]["verdicts"]["macro"],
        "repair_gap": {
            "before": repaired["before"]["test"]["gap"],
            "after": repaired["methods"]["low"]["parts"]["test"]["gap"],
            "epoch": repaired["methods"]["low"]["runs"][0]["chosen"],
        },
        "device": device.describe(),
        "pages": {
            "audit": "audit/index.html", "repair": "audit/repair/repair.html",
            "report": "train/report.html", "after": "audit-after/index.html",
        },
    }  # fmt: skip
    write_text(out / "story.json", json.dumps(story, indent=1) + "\n")
    write_story(story, before.cues or {}, data.test, before.audit, out)
    return story


def judge_by_truth(done: Audit, data: Splits) -> dict[str, int]:
    """Answer for a person: a feature is spurious that tells whether an image carries the cue.

    Args:
        done: the audit; answers are stored under the name `planted truth`.
        data: its splits, with the bias label.

    Returns:
        Numbers of features judged `spurious` and `core`.
    """
    assert data.bias is not None
    y, value = data.train.y, data.train.attributes[data.bias].values
    counts = torch.zeros(len(data.train.classes), int(value.max()) + 1)
    counts.index_put_((y, value), torch.ones(len(y)), accumulate=True)
    carries = counts.argmax(1)[y] == value  # the cue that usually comes with the class
    columns, verdicts = done.columns("train"), done.verdicts()
    said = {"spurious": 0, "core": 0}
    for feature in done.pairs():
        mine = (y == feature.class_index).nonzero().flatten()
        nothing = torch.zeros_like(mine)
        tells = float(cue_auroc(columns[mine, feature.slot], nothing, carries[mine], 1)[0])
        spurious = tells >= CLEAR  # nan, where all images of the class carry it, is no
        said["spurious" if spurious else "core"] += 1
        answer: Answer = "background" if spurious else "main_object"
        why = f"AUROC for the class's {data.bias}: {tells:.2f}"
        pair = feature.class_index, feature.feature
        verdicts.add(Judgement(*pair, "planted truth", answer, confidence=5, reason=why))
    return said


def _right(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("conflicting", "aligned")}


def _hanging(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Cues that raised an alarm before or after, with the accuracy that hangs on each."""
    found = [{c["name"]: c for c in (table or {"cues": []})["cues"]} for table in (before, after)]
    loud = [n for n in found[0] if any(t.get(n, {}).get("verdict") == "alarm" for t in found)]
    return [
        {
            "name": name,
            **{
                side: {"verdict": table[name]["verdict"], "used": table[name]["used"]}
                for side, table in zip(("before", "after"), found, strict=True)
            },
        }
        for name in loud
    ]
