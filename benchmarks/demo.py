"""Run `truecue demo` for several seeds and write what came out.

python benchmarks/demo.py [--seeds 5]        # writes benchmarks/results/demo.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from truecue.metrics.intervals import student_t

RESULT = Path(__file__).resolve().parent / "results" / "demo.json"


def run(seed: int, folder: str) -> dict:
    out = Path(folder) / str(seed)
    command = [sys.executable, "-m", "truecue.cli.main", "demo", "--out", str(out), "--quiet"]
    subprocess.run([*command, "--seed", str(seed)], check=True)
    report = json.loads((out / "train" / "report.json").read_text())
    story = json.loads((out / "story.json").read_text())
    row = {"seed": seed, "device": report["device"], "training_seconds": report["seconds"]}
    row |= {name: round(story[name], 2) for name in ("seconds", "processor_seconds")}
    for name, model in report["models"].items():
        row[name] = {
            k: model["test"][k]["value"] for k in ("conflicting", "aligned", "worst_class")
        }
        row[name]["warnings"] = model["warnings"]
    row["gain"] = row["denetdm"]["conflicting"] - row["erm"]["conflicting"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(seed, folder) for seed in range(options.seeds)]
    gain = student_t([row["gain"] for row in rows])
    RESULT.write_text(json.dumps({"gain": gain.to_dict(), "seeds": rows}, indent=1) + "\n")
    for row in rows:
        print(
            f"seed {row['seed']}: conflicting {row['erm']['conflicting']:.1%} ->"
            f" {row['denetdm']['conflicting']:.1%}, {row['seconds']:.0f} s"
            f" ({row['processor_seconds']:.0f} s of processor time)"
        )
    print(f"gain {gain.value:.1%} ({gain.low:.1%} to {gain.high:.1%})")


if __name__ == "__main__":
    main()
