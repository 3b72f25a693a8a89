"""How far plain training goes by each planted cue; the table of docs/suites/planted.md.

python benchmarks/planted.py [--seeds 3]        # writes benchmarks/results/planted.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from truecue import ERM, Device, Plan, Planted, train
from truecue.data.cues import CUES
from truecue.metrics.intervals import student_t

RESULT = Path(__file__).resolve().parent / "results" / "planted.json"
METHOD = ERM(plan=Plan(epochs=8, batch_size=64))
ARCH = "conv3"


def run(cue: str, visibility: float, seeds: int) -> dict:
    row: dict = {"cue": cue, "visibility": visibility, "seeds": []}
    for seed in range(seeds):
        data = Planted(cues=(cue,), visibility=visibility).load(seed=seed)
        report = train(METHOD, data, seed=seed, arch=ARCH, device=Device("cpu")).report
        test = report["models"]["erm"]["test"]
        row["seeds"].append({k: test[k]["value"] for k in ("aligned", "conflicting", "average")})
        row["seeds"][-1]["seconds"] = report["seconds"]
    for key in ("aligned", "conflicting"):
        row[key] = student_t([seed[key] for seed in row["seeds"]]).to_dict()
    print(f"{cue} {visibility:g}: {row['aligned']['value']:.1%} {row['conflicting']['value']:.1%}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [run(cue, 1.0, options.seeds) for cue in CUES]
    rows.append(run("patch", 0.0, options.seeds))
    about = {"method": METHOD.to_dict(), "arch": ARCH, "torch": torch.__version__.partition("+")[0]}
    RESULT.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
