"""Measure DeNetDM and plain training on Colored MNIST: published setting, seeds, remedies, depths.

    python benchmarks/denetdm.py run NAME... [--jobs 3] [--root FOLDER]   # see EXPERIMENTS
    python benchmarks/denetdm.py tables        # writes them into docs/methods/denetdm.md

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

from truecue.metrics.intervals import student_t

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


def five8() -> list[Cell]:
    """8 epochs of stage 1 at 5 %, without and with the remedy."""
    short = ("experts.epochs=8", "plan.epochs=1")
    return [
        cell(name, "denetdm", seed, 0.05, *short, *sets, arch="mlp-5")
        for seed in range(4)
        for name, sets in (("five8", ()), ("five8-steady", ("steady=true",)))
    ]


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
    "five8": five8,
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


PAPER = {  # unbiased accuracy (Table 1); conflicting and aligned of the shallow branch (Table 5)
    ("erm", 0.01): "50.34 (0.16)",
    ("erm", 0.05): "77.63 (0.13)",
    ("denetdm", 0.01): "85.22 (0.76)",
    ("denetdm", 0.05): "93.54 (0.22)",
}
START, END = "<!-- results:denetdm -->", "<!-- /results:denetdm -->"
PAGE = HERE.parent / "docs" / "methods" / "denetdm.md"


def results(name: str) -> list[dict]:
    """The finished cells of an experiment, by seed."""
    cells = [json.loads(path.read_text()) for path in RESULTS.glob(f"{name}-[de]*.json")]
    return sorted(cells, key=lambda c: (c["method"], c["conflicting"], c["seed"]))


def spread(values: list[float]) -> str:
    """Mean, Student-t 95 % interval and worst of some shares, in percent."""
    e = student_t([100 * v for v in values])
    low, high = max(e.low, 0), min(e.high, 100)
    interval = f" ({low:.1f} to {high:.1f})" if len(values) > 2 else ""
    return f"{e.value:.1f}{interval}"


def branch(cells: list[dict], name: str, metric: str) -> list[float]:
    return [c["branches"][name][metric] for c in cells]


def deep_on_train(c: dict) -> float:
    """Accuracy of the deep branch on the training images, from its two parts."""
    deep, share = c["train"]["deep"], c["conflicting"]
    return (1 - share) * deep["aligned"] + share * deep["conflicting"]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_published() -> str:
    rows = []
    groups = [("published", "erm"), ("published", "denetdm"), ("steady", "denetdm")]
    for ratio in (0.01, 0.05):
        for name, method in groups:
            cells = [
                c for c in results(name) if c["method"] == method and c["conflicting"] == ratio
            ]
            if not cells:
                continue
            shown = f"{method}, `steady = true`" if name == "steady" else method
            paper = PAPER[method, ratio] if name == "published" else "-"
            metrics = ("aligned", "conflicting", "unbiased", "worst_group")
            values = [spread([c["test"][m] for c in cells]) for m in metrics]
            each = " ".join(f"{100 * c['test']['unbiased']:.1f}" for c in cells)
            minutes = sum(c["seconds"] for c in cells) / len(cells) / 60
            seeds = ", ".join(str(c["seed"]) for c in cells)
            rows.append([f"{ratio:.0%}", shown, *values, each, paper, seeds, f"{minutes:.0f}"])
    head = ["conflicting in training", "method", "aligned", "conflicting", "unbiased"]
    head += [
        "worst group",
        "unbiased by seed",
        "paper, unbiased (best epoch on test)",
        "seeds",
        "minutes a run",
    ]
    return table(head, rows)


def table_branches() -> str:
    rows = []
    for name in ("published", "steady"):
        for ratio in (0.01, 0.05):
            cells = [
                c for c in results(name) if c["method"] == "denetdm" and c["conflicting"] == ratio
            ]
            if cells:
                gap = [
                    s - d
                    for s, d in zip(
                        branch(cells, "shallow", "conflicting"),
                        branch(cells, "deep", "conflicting"),
                        strict=True,
                    )
                ]
                values = [
                    spread(branch(cells, b, m))
                    for b in ("deep", "shallow")
                    for m in ("aligned", "conflicting")
                ]
                rows.append([f"{ratio:.0%}", name, *values, f"{100 * min(gap):.1f}"])
    head = ["conflicting in training", "setting", "deep aligned", "deep conflicting"]
    head += ["shallow aligned", "shallow conflicting", "smallest gap of a seed"]
    return table(head, rows)


def table_seeds() -> str:
    full = [c for c in results("published") if c["method"] == "denetdm" and c["conflicting"] < 0.02]
    steady_full = [c for c in results("steady") if c["conflicting"] < 0.02]
    sets = {
        "8, published": results("seeds8"),
        "8, `experts.average = 0.998`": results("average8"),
        "8, `steady = true`": results("steady8"),
        "8, published, at 5 %": results("five8"),
        "8, `steady = true`, at 5 %": results("five8-steady"),
        "100, published": full + results("seeds100"),
        "100, `steady = true`": steady_full + results("steady100"),
    }
    rows = []
    for shown, unordered in sets.items():
        cells = sorted(unordered, key=lambda c: c["seed"])
        if not cells:
            continue
        values = branch(cells, "shallow", "conflicting")
        each = " ".join(f"{100 * v:.1f}" for v in values)
        seeds = ", ".join(str(c["seed"]) for c in cells)
        deep = [deep_on_train(c) for c in cells]
        row = [shown, seeds, each, spread(values), spread(branch(cells, "shallow", "aligned"))]
        rows.append([*row, f"{100 * sum(deep) / len(deep):.1f} ({100 * min(deep):.1f})"])
    head = ["epochs, setting", "seeds", "shallow conflicting, by seed", "mean", "shallow aligned"]
    return table([*head, "deep alone on training images: mean (worst)"], rows)


def table_depths() -> str:
    rows = []
    for a, b in ((3, 4), (3, 5), (3, 7), (4, 8), (6, 8)):
        for name, shown in (("depth", "published"), ("depth-steady", "`steady = true`")):
            cells = results(f"{name}-{a}-{b}")
            if cells:
                values = [
                    spread(branch(cells, br, m))
                    for br, m in (
                        ("shallow", "conflicting"),
                        ("shallow", "aligned"),
                        ("deep", "conflicting"),
                    )
                ]
                deep = sum(map(deep_on_train, cells)) / len(cells)
                seeds = ", ".join(str(c["seed"]) for c in cells)
                rows.append([f"({a}, {b})", shown, *values, f"{100 * deep:.1f}", seeds])
    head = ["(shallow, deep)", "setting", "shallow conflicting", "shallow aligned"]
    return table([*head, "deep conflicting", "deep alone on training images", "seeds"], rows)


def label_free_choice() -> str:
    """Which depths the deep branch's accuracy on the training images would have picked."""
    found = []
    for name, shown in (("depth", "published"), ("depth-steady", "`steady = true`")):
        deep, right = {}, {}
        for path in RESULTS.glob(f"{name}-[0-9]-[0-9]-denetdm-*-0.json"):
            c = json.loads(path.read_text())
            pair = path.stem.removeprefix(f"{name}-").split("-denetdm")[0].replace("-", ", ")
            deep[pair] = deep_on_train(c)
            right[pair] = c["branches"]["shallow"]["conflicting"]
        if deep:
            pick, best = max(deep, key=deep.get), max(right, key=right.get)
            found.append(
                f"{shown}: ({pick}), whose shallow branch is right on {right[pick]:.1%} of the"
                f" conflicting test images; the best pair in hindsight is ({best}) with"
                f" {right[best]:.1%}"
            )
    return (
        "Without bias labels one can pick the pair whose deep branch alone is most accurate on the"
        f" training images. That picks, with seed 0, {'; '.join(found)}."
    )


def section() -> str:
    """What stands on the method's page between the two marks."""
    some = results("seeds8")[0]
    return "\n\n".join(
        [
            "Test accuracy in %, mean over seeds with Student-t 95 % interval; last epoch; class"
            " labels only, none for choosing. Real MNIST, networks and plans as published."
            f" {some['device']}, torch {some['versions']['torch']};"
            " `python benchmarks/denetdm.py run published steady seeds8 steady8 five8 depths`.",
            "**Published setting** (100 + 100 epochs). The paper's figures are those of the epoch"
            " that was best on the test images, so they are not comparable to the last digit.",
            table_published(),
            "**The branches after stage 1** of the same runs:",
            table_branches(),
            "**Seeds and the remedy**, stage 1, at 1 % where nothing else is said:",
            table_seeds(),
            "**Depths**, stage 1 for 25 epochs at 1 % (layers with the head counted):",
            table_depths(),
            label_free_choice(),
        ]
    )


def with_section(page: str) -> str:
    before, rest = page.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n\n{section()}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "tables"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", default=os.environ.get("TRUECUE_DATA", ""))
    options = parser.parse_args()
    if options.verb == "tables":
        PAGE.write_text(with_section(PAGE.read_text()))
        print(section())
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    unknown = set(options.names) - EXPERIMENTS.keys()
    if unknown or not options.names:
        parser.error(f"name one or more of {', '.join(EXPERIMENTS)}")
    cells = [one for name in options.names for one in EXPERIMENTS[name]()]
    with ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(lambda one: run(one, options.root), cells):
            print(line, flush=True)


if __name__ == "__main__":
    main()
