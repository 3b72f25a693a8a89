"""Put the numbers of a demo run into docs/quickstart.md: `python docs/demo_numbers.py FOLDER`.

The picture in docs/images is taken by hand, of the top of the demo's page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("quickstart.md")
START, END = "<!-- demo: begin -->\n", "<!-- demo: end -->"
ROWS = {
    "conflicting": "colour does not match (`conflicting`)",
    "aligned": "colour matches (`aligned`)",
    "unbiased": "average over groups (`unbiased`)",
    "worst_group": "worst group",
    "worst_class": "worst class",
}


def table(report: dict[str, Any], story: dict[str, Any]) -> str:
    """The test accuracies before and after, with what they were measured on.

    Args:
        report: of the training.
        story: of the whole demo, whose time is told.
    """
    models = [report["models"][report[side]] for side in ("before", "after")]
    lines = ["| | plain training | DeNetDM |", "|---|---|---|"]
    for key, words in ROWS.items():
        lines.append(f"| {words} | {' | '.join(_cell(m['test'][key]) for m in models)} |")
    device, torch = report["device"], report["versions"]["torch"].partition("+")[0]
    whole, worked = (story[name] for name in ("seconds", "processor_seconds"))
    lines.append("")
    lines.append(
        f"`{report['command'].partition(' --out')[0]}`, seed {report['seed']},"
        f" {report['task']['sizes']['test']:,} test images; {device}, torch {torch}. The whole"
        f" story took {whole:.0f} seconds, {worked:.0f} of them processor time; the training in it"
        f" took {report['seconds']:.0f}."
    )
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, float]) -> str:
    value, low, high = (f"{100 * found[key]:.0f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


if __name__ == "__main__":
    files = (Path(sys.argv[1]) / name for name in ("train/report.json", "story.json"))
    made = table(*(json.loads(file.read_text(encoding="utf-8")) for file in files))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + START + made + END + rest.partition(END)[2], encoding="utf-8")
