"""Which planted cues `find_cues` finds, and how often it alarms where there is none.

The figures of docs/cues.md. Seeds 0 to 39; the detector was developed on seeds 100 to 110.

python benchmarks/zoo.py mlp|conv|photos|none [SEED]   # one part; appends to results/zoo/PART.jsonl
python benchmarks/zoo.py table                       # writes results/zoo.json, prints the tables
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from truecue import ERM, Device, DogsCats, Plan, Planted, Splits, train
from truecue.audit.cues import find_cues
from truecue.data.cues import CUES
from truecue.engine.evaluate import apply
from truecue.metrics.intervals import student_t, wilson

RESULTS = Path(__file__).resolve().parent / "results"
STRENGTHS = (0.5, 0.8, 0.95, 0.99)
SEEDS = 3
DIGITS = {"train_size": 2000, "test_size": 1000}
NETS = {"mlp": ("mlp-3x100", 10), "conv": ("conv3", 4), "photos": ("conv3", 4)}


def cases(part: str) -> Iterator[tuple[str, float, int, str]]:
    """Cue, strength, seed and network of every run."""
    if part == "mlp":
        yield from ((c, s, k, "mlp") for k in range(SEEDS) for c in CUES for s in STRENGTHS)
    elif part == "conv":
        yield from ((c, 0.95, k, "conv") for k in range(SEEDS) for c in CUES)
    elif part == "photos":
        yield from (("fur", 0.95, k, "photos") for k in range(SEEDS))
    elif part == "none":
        yield from (("none", 0.0, k, "mlp") for k in range(40))
        yield from (("none", 0.0, k, "conv") for k in range(20))


def load(cue: str, strength: float, seed: int, digits: dict[str, int] = DIGITS) -> Splits:
    if cue == "fur":
        root = Path(os.environ["TRUECUE_DATA"])
        return DogsCats(size=32, conflicting=1 - strength).load(root, seed=seed)
    suite = Planted(cues=cue, conflicting=round(1 - strength, 6), base_settings=digits)
    return suite.load(seed=seed)


def run(cue: str, strength: float, seed: int, net: str) -> dict:
    device, (arch, epochs) = Device("cpu"), NETS[net]
    data = load(cue, strength, seed)
    method = ERM(plan=Plan(epochs=epochs, batch_size=64))
    trained = train(method, data, seed=seed, arch=arch, device=device)
    test = trained.report["models"]["erm"]["test"]
    logits = apply(trained.net, data.test, device)
    began = time.process_time()
    table = find_cues(data.train, data.test, logits, model=trained.net, seed=seed, device=device)
    seconds = time.process_time() - began
    row = {"cue": cue, "strength": strength, "seed": seed, "net": net, "seconds": round(seconds, 2)}
    for key in ("aligned", "conflicting", "average"):
        value = (test.get(key) or {}).get("value")
        row[key] = None if value is None else round(value, 4)
    row["found"] = [
        {
            "name": f.name,
            "verdict": f.verdict,
            "tells": round(f.available.effect.value, 4),
            "hangs": None if f.used is None else round(f.used.effect.value, 4),
            "q": None if f.q is None else round(f.q, 5),
        }
        for f in table.findings
        if f.available is not None
    ]
    if cue == "none" and seed < 20:
        seen = find_cues(data.train, data.test, logits, seed=seed)
        row["as_found"] = [
            {"name": f.name, "q": f.q, "hangs": round(f.used.effect.value, 4)}
            for f in seen.findings
            if f.used is not None
        ]
    return row


def fill(part: str, seed: int | None = None) -> None:
    out = RESULTS / "zoo" / f"{part}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["cue"], r["strength"], r["seed"], r["net"]) for r in map(json.loads, lines)}
    for case in cases(part):
        if case not in done and seed in (None, case[2]):
            row = run(*case)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            alarms = [f["name"] for f in row["found"] if f["verdict"] == "alarm"]
            print(*case, row["aligned"], row["conflicting"], alarms, row["seconds"], flush=True)


def names(row: dict, verdict: str) -> list[str]:
    return [f["name"] for f in row["found"] if f["verdict"] == verdict]


def summary(rows: list[dict]) -> dict:
    """What was found in runs of one kind."""
    out = {k: rows[0][k] for k in ("cue", "strength", "net")} | {"runs": len(rows)}
    for verdict in ("alarm", "candidate"):
        hits = sum(bool(names(r, verdict)) for r in rows)
        out[verdict] = wilson(hits, len(rows)).to_dict() | {"hits": hits}
        out[f"{verdict}s"] = dict(Counter(n for r in rows for n in names(r, verdict)).most_common())
    if rows[0]["aligned"] is not None and rows[0]["cue"] != "none":
        gaps = [r["aligned"] - r["conflicting"] for r in rows]
        out["true_gap"] = student_t(gaps).to_dict()
    largest = [max((f["hangs"] or 0 for f in r["found"] if f["name"] != "extent"), default=0)
               for r in rows]  # fmt: skip
    out["largest"] = max(largest)
    out["average"] = student_t([r["average"] for r in rows]).to_dict()
    seen = [r["as_found"] for r in rows if "as_found" in r]
    if seen:
        hits = sum(any(f["q"] is not None and f["q"] <= 0.1 for f in r) for r in seen)
        over = sum(any((f["q"] or 0) <= 0.1 and f["hangs"] >= 0.05 for f in r) for r in seen)
        out["as_found"] = {
            "significant": wilson(hits, len(seen)).to_dict() | {"hits": hits},
            "and_5_points": wilson(over, len(seen)).to_dict() | {"hits": over},
        }
    out["seconds"] = student_t([r["seconds"] for r in rows]).to_dict()
    return out


def table() -> None:
    rows = []
    for file in sorted((RESULTS / "zoo").glob("*.jsonl")):
        rows += [json.loads(line) for line in file.read_text().splitlines()]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["net"], row["cue"], row["strength"]), []).append(row)
    summaries = [summary(group) for group in groups.values()]
    about = {"digits": DIGITS, "nets": NETS, "torch": torch.__version__.partition("+")[0],
             "developed_on_seeds": [100, 110]}  # fmt: skip
    (RESULTS / "zoo.json").write_text(json.dumps(about | {"summaries": summaries}, indent=1) + "\n")
    for s in summaries:
        gap = s.get("true_gap")
        print(
            f"| {s['net']} | {s['cue']} | {s['strength']:g} | {gap and round(100 * gap['value'])} |"
            f" {s['alarm']['hits']}/{s['runs']} | {s['alarms']} | {s['candidate']['hits']} |"
            f" {s['largest']:.3f} | {s.get('as_found')}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    table() if sys.argv[1] == "table" else fill(sys.argv[1], *map(int, sys.argv[2:]))
