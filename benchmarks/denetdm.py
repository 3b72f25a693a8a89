"""Measure DeNetDM and plain training on Colored MNIST: published setting, seeds, remedies, depths.

    python benchmarks/denetdm.py run NAME... [--jobs 3] [--root FOLDER]   # see EXPERIMENTS
    python benchmarks/denetdm.py tables                  # Markdown from the results

Every cell is one `truecue train` in a process of its own with one thread. A cell that is cut off
goes on where it was; a finished one is not run again. Results are small JSON files in
benchmarks/results/denetdm; runs are kept in runs/bench-denetdm.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "denetdm"
RUNS = HERE.parent / "runs" / "bench-denetdm"

Cell = tuple[str, list[str]]
"""A name, and the arguments of `truecue train` beside --out, --root and --threads."""


def cell(name: str, method: str, seed: int, ratio: float, *sets: str, arch: str = "") -> Cell:
    arguments = [method, "colored_mnist", "--seed", str(seed), "--no-baseline"]
    arguments += ["--arch", arch] if arch else []
    for item in (f"data.conflicting={ratio}", "data.val_share=0.0", *sets):
        arguments += ["--set", item]
    return f"{name}-{method}-{ratio:g}-{seed}", arguments


def published() -> list[Cell]:
    """100 + 100 epochs, 1 % and 5 %, last epoch; plain training of the same network beside it."""
    return [
        cell("published", method, seed, ratio, arch="mlp-5")
        for seed in range(3)
        for ratio in (0.01, 0.05)
        for method in ("denetdm", "erm")
    ]


def seeds8() -> list[Cell]:
    """Stage 1 for 8 epochs, seeds 0-9 (stage 2 is cut to one epoch and not looked at)."""
    short = ("experts.epochs=8", "plan.epochs=1")
    return [cell("seeds8", "denetdm", seed, 0.01, *short, arch="mlp-5") for seed in range(10)]


def steady8() -> list[Cell]:
    """The same with the remedy."""
    short = ("experts.epochs=8", "plan.epochs=1", "steady=true")
    return [cell("steady8", "denetdm", seed, 0.01, *short, arch="mlp-5") for seed in range(10)]


def average8() -> list[Cell]:
    """The same with averaged weights and nothing else."""
    short = ("experts.epochs=8", "plan.epochs=1", "experts.average=0.998")
    return [cell("average8", "denetdm", seed, 0.01, *short, arch="mlp-5") for seed in range(10)]


def steady() -> list[Cell]:
    """The published setting with the remedy, seeds 0-2, both stages in full."""
    return [
        cell("steady", "denetdm", seed, ratio, "steady=true", arch="mlp-5")
        for ratio in (0.01, 0.05)
        for seed in range(3)
    ]


def seeds100() -> list[Cell]:
    """Stage 1 in full for the seeds that `published` and `steady` leave out, without and with."""
    return [
        cell(name, "denetdm", seed, 0.01, "plan.epochs=1", *sets, arch="mlp-5")
        for seed in range(3, 10)
        for name, sets in (("seeds100", ()), ("steady100", ("steady=true",)))
    ]


def depths() -> list[Cell]:
    """Stage 1 for 25 epochs with other depths, (shallow, deep), without and with the remedy."""
    pairs = ((3, 4), (3, 5), (3, 7), (4, 8), (6, 8))
    short = ("experts.epochs=25", "plan.epochs=1")
    return [
        cell(f"{name}-{a}-{b}", "denetdm", seed, 0.01, *sets, *short, arch="mlp-5")
        for seed in range(3)
        for a, b in pairs
        for name, sets in (
            ("depth", (f"shallow=mlp-{a}", f"deep=mlp-{b}")),
            ("depth-steady", (f"shallow=mlp-{a}", f"deep=mlp-{b}", "steady=true")),
        )
    ]


EXPERIMENTS = {
    "published": published,
    "seeds8": seeds8,
    "steady8": steady8,
    "average8": average8,
    "steady": steady,
    "seeds100": seeds100,
    "depths": depths,
}


def run(one: Cell, root: str) -> str:
    name, arguments = one
    result = RESULTS / f"{name}.json"
    if result.exists():
        return f"{name}: there already"
    out = RUNS / name
    command = [sys.executable, "-m", "truecue.cli.main", "train", *arguments]
    command += ["--out", str(out), "--root", root, "--threads", "1", "--device", "cpu", "--quiet"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{name}: FAILED {done.stderr.strip().splitlines()[-1:]}"
    report = json.loads((out / "report.json").read_text())
    result.write_text(json.dumps(compact(report), indent=1) + "\n")
    return f"{name}: done in {report['seconds']:.0f} s"


def compact(report: dict) -> dict:
    """What the tables need, and what is needed to run the cell again."""
    model = report["models"][report["after"]]
    curves = [row for row in model["curves"] if row["split"] == "train"]
    last = {row["branch"]: row for row in curves if row["stage"] in {"experts", "fit"}}
    return {
        "command": report["command"].split(" --out")[0],
        "seed": report["seed"],
        "conflicting": report["task"]["settings"]["conflicting"],
        "method": model["method"],
        "settings": model["settings"],
        "test": numbers(model["test"]),
        "branches": {name: numbers(b["test"]) for name, b in model["branches"].items()},
        "train": {
            branch: {k: row[k] for k in ("aligned", "conflicting")} for branch, row in last.items()
        },
        "warnings": model["warnings"],
        "selection": report["selection"],
        "labels_used": report["labels_used"],
        "stages": model["stages"],
        "seconds": model["seconds"],
        "device": report["device"],
        "versions": report["versions"],
    }


def numbers(measures: dict) -> dict[str, float]:
    return {k: round(v["value"], 5) for k, v in measures.items() if k != "cells"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "tables"])
    parser.add_argument("names", nargs="*", choices=[[], *EXPERIMENTS])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", default=os.environ.get("TRUECUE_DATA", ""))
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    cells = [one for name in options.names for one in EXPERIMENTS[name]()]
    with ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(lambda one: run(one, options.root), cells):
            print(line, flush=True)


if __name__ == "__main__":
    main()
