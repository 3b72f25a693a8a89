"""How well an audit's features find planted cues: rank, AUROC, spuriosity and gaps.

The figures of docs/audit.md: seeds 0 to 2. It was tried on seed 100.

python benchmarks/zoo_features.py conv|mlp|photos [SEED]  # one part; results/zoo_features/*.jsonl
python benchmarks/zoo_features.py table                   # writes results/zoo_features.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor
from zoo import NETS, SEEDS, STRENGTHS, load

from truecue import (
    ERM,
    Audit,
    Device,
    Judgement,
    Plan,
    Splits,
    make_audit,
    measure_gaps,
    train,
)
from truecue.data.cues import CUES
from truecue.data.sets import ImageSet
from truecue.engine.evaluate import apply
from truecue.metrics.known import cue_auroc, low_end_purity
from truecue.nets.classifier import Classifier

RESULTS = Path(__file__).resolve().parent / "results"
DIGITS = {"train_size": 2000, "test_size": 5000}
JUDGED = 0.8
"""AUROC from which on a feature is judged spurious."""
PAGE = 12
"""Features that the page draws."""


def cases(part: str) -> Iterator[tuple[str, float, int, str]]:
    """Cue, strength, seed and network of every run."""
    if part == "photos":
        yield from (("fur", 0.95, k, part) for k in range(SEEDS))
    else:
        for k in range(SEEDS):
            yield from ((c, s, k, part) for s in STRENGTHS for c in CUES)
            yield ("none", 0.0, k, part)


def shown(part: ImageSet, data: Splits) -> Tensor:
    """Whether each image shows the value that is tied to its class: bool [n]."""
    assert data.bias is not None
    assert data.aligned is not None
    return data.aligned[part.y, part.attributes[data.bias].values]


def run(cue: str, strength: float, seed: int, net: str) -> dict:
    """One model: features are judged by one half of the test images, measured on the other."""
    device, (arch, epochs) = Device("cpu"), NETS[net]
    data = load(cue, strength, seed, DIGITS)
    began = time.process_time()
    method = ERM(plan=Plan(epochs=epochs, batch_size=64))
    trained = train(method, data, seed=seed, arch=arch, device=device, baseline=False)
    halves = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))
    judging, test = (data.test.select(ids) for ids in halves.chunk(2))
    data = replace(data, test=test)
    seconds = {"train": time.process_time() - began}
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        audit = make_audit(folder, data, trained.net, seed=seed, device=device)
        gaps = measure_gaps(audit, seed=seed)
        seconds["audit"] = time.process_time() - began
        row = {"cue": cue, "strength": strength, "seed": seed, "net": net}
        row |= measured(audit, gaps, data, judging, trained.net, device, seed)
    return row | {"seconds": {k: round(v, 2) for k, v in seconds.items()}}


def measured(
    audit: Audit, gaps: dict, data: Splits, judging: ImageSet, net: Classifier, device: Device,
    seed: int,
) -> dict:  # fmt: skip
    right = audit.predicted("test") == audit.labels("test")
    pairs = gaps["splits"]["test"]["pairs"]
    row: dict = {
        "average": float(right.float().mean()),
        "candidates": len(pairs),
        "far_from_chance": sum(p.get("q", 1) < 0.05 for p in pairs),
        "pair_gap": mean(p["gap"]["value"] for p in pairs if "gap" in p),
    }
    if data.bias is None:
        return row | {"unseen": unseen(audit, net, device, seed)}
    present = shown(data.test, data)
    row["aligned"], row["conflicting"] = (
        float(right[m].float().mean()) for m in (present, ~present)
    )
    auroc = aurocs(net, judging, data, device)
    order = as_ordered(audit, gaps)
    row["classes"] = best_of_class(auroc, order)
    spurious = [(c, f) for c, f in order if auroc[c, f] >= JUDGED]
    row["judged"] = len(spurious)
    row["on_page"] = sum(pair in spurious for pair in order[:PAGE])
    audit.verdicts().add(*(Judgement(c, f, "truth", "background") for c, f in spurious))
    row["verdicts"] = by_truth(audit, data, present, seed) if spurious else None
    return row


def aurocs(net: Classifier, judging: ImageSet, data: Splits, device: Device) -> Tensor:
    """Of every class and feature, for the class's cue present or absent: float64 [classes, f]."""
    z, seen = apply(net.features, judging, device), shown(judging, data)
    return torch.stack([cue_auroc(v, judging.y, seen, len(judging.classes)) for v in z.T], 1)


def best_of_class(auroc: Tensor, order: list[tuple[int, int]]) -> list[dict]:
    """The candidate of each class that tells the cue best, and its place among them on the page."""
    found = []
    for c, values in enumerate(auroc):
        mine = [float(values[f]) for of, f in order if of == c]
        best = max(mine, default=None)
        found.append({"best": best, "rank": None if best is None else mine.index(best) + 1,
                      "of": len(mine), "any": float(values.max())})  # fmt: skip
    return found


def unseen(audit: Audit, net: Classifier, device: Device, seed: int) -> dict[str, list[float]]:
    """The best candidate of each class for cues that were never planted in training: by chance."""
    pairs = [(f.class_index, f.feature) for f in audit.pairs()]
    found = {}
    for cue in CUES:
        data = load(cue, 0.95, seed, DIGITS)
        best = best_of_class(aurocs(net, data.test, data, device), pairs)
        found[cue] = [c["best"] for c in best if c["best"] is not None]
    return found


def by_truth(audit: Audit, data: Splits, present: Tensor, seed: int) -> dict:
    """With the truth as the verdict: how well spuriosity tells the cue, and the gap."""
    gaps = measure_gaps(audit, seed=seed)
    classes = len(audit.classes)
    told = cue_auroc(audit.spuriosity("test"), data.test.y, present, classes)
    told = told[~told.isnan()]
    in_training = shown(data.train, data)
    absent = ~in_training
    k = int(torch.bincount(data.train.y[absent], minlength=classes).double().mean().round())
    pure = low_end_purity(audit.ranking("train"), in_training, max(1, k))
    found = gaps["splits"]["test"]["verdicts"]
    return {
        "classes": len(told),
        "auroc": float(told.mean()),
        "k": k,
        "purity": mean(pure.values()),
        "without": float(absent.double().mean()),
        "gap": found["macro"],
        "null": found["null"],
    }


def as_ordered(audit: Audit, gaps: dict) -> list[tuple[int, int]]:
    """(class, feature) of all candidates in the order of the page."""
    splits = gaps["splits"]
    rows = {(r["class"], r["feature"]): r for r in splits["val"]["pairs"]}
    shares = {(f.class_index, f.feature): f.share or 0.0 for f in audit.pairs()}
    size = {p: (r["gap"]["value"] if "gap" in r else -2.0, shares[p]) for p, r in rows.items()}
    return sorted(size, key=size.__getitem__, reverse=True)


def fill(part: str, seed: int | None = None) -> None:
    out = RESULTS / "zoo_features" / f"{part}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["cue"], r["strength"], r["seed"]) for r in map(json.loads, lines)}
    for case in cases(part):
        if case[:3] not in done and seed in (None, case[2]):
            row = run(*case)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(*case, *summary([row]).items(), row["seconds"], flush=True)


def summary(rows: list[dict]) -> dict:
    """Runs of one kind: means over runs, medians over all their classes."""
    out = {k: rows[0][k] for k in ("net", "cue", "strength")} | {"runs": len(rows)}
    out["seeds"] = [r["seed"] for r in rows]
    out["average"] = mean(r["average"] for r in rows)
    out["candidates"] = sum(r["candidates"] for r in rows)
    out["far_from_chance"] = sum(r["far_from_chance"] for r in rows)
    out["pair_gap"] = mean(r["pair_gap"] for r in rows)
    if rows[0]["cue"] == "none":
        unplanted = {cue: [v for r in rows for v in r["unseen"][cue]] for cue in CUES}
        out["unseen"] = {
            cue: {"best": median(v), "found": sum(x >= JUDGED for x in v), "classes": len(v)}
            for cue, v in unplanted.items()
        }
        return out
    classes = [c for r in rows for c in r["classes"]]
    listed = [c for c in classes if c["best"] is not None]
    found = [c for c in listed if c["best"] >= JUDGED]
    out["true_gap"] = mean(r["aligned"] - r["conflicting"] for r in rows)
    out["classes"] = len(classes)
    out["best"] = median(c["best"] for c in listed)
    out["any"] = median(c["any"] for c in classes)
    out["found"] = len(found)
    out["rank"] = mean(c["rank"] for c in found) if found else None
    out["by_chance"] = mean((c["of"] + 1) / 2 for c in found) if found else None
    out["first"] = sum(c["rank"] == 1 for c in found)
    out["judged"] = sum(r["judged"] for r in rows)
    out["on_page"] = sum(r["on_page"] for r in rows)
    out["page"] = PAGE * len(rows)
    by = [r["verdicts"] for r in rows if r["verdicts"]]
    if by:
        out["auroc"] = mean(v["auroc"] for v in by)
        out["k"] = by[0]["k"]
        out["purity"] = mean(v["purity"] for v in by)
        out["without"] = mean(v["without"] for v in by)
        out["gap"] = mean(v["gap"]["value"] for v in by)
        out["null_high"] = max(v["null"]["high"] for v in by)
        out["beyond_null"] = sum(v["gap"]["low"] > v["null"]["high"] for v in by)
        out["with_verdicts"] = len(by)
    return out


def table() -> None:
    groups: dict[tuple, list[dict]] = {}
    for file in sorted((RESULTS / "zoo_features").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if row["seed"] < SEEDS:
                groups.setdefault((row["net"], row["cue"], row["strength"]), []).append(row)
    summaries = [summary(group) for group in groups.values()]
    about = {"digits": DIGITS, "nets": NETS, "judged_from": JUDGED, "tried_on_seeds": [100],
             "torch": torch.__version__.partition("+")[0]}  # fmt: skip
    told = json.dumps(about | {"summaries": summaries}, indent=1)
    (RESULTS / "zoo_features.json").write_text(told + "\n")
    for net in dict.fromkeys(s["net"] for s in summaries):
        show(net, {(s["cue"], s["strength"]): s for s in summaries if s["net"] == net})


def show(net: str, found: dict[tuple[str, float], dict]) -> None:
    """The tables of docs/audit.md, of one network."""
    cues = [cue for cue in dict.fromkeys(cue for cue, _ in found) if cue != "none"]
    none = found.get(("none", 0.0))
    if none:
        print(f"\n{net} without a cue: {none['far_from_chance']} of {none['candidates']} gaps")
    for cue in cues:
        cells = [cue]
        for strength in STRENGTHS:
            s = found.get((cue, strength))
            if s:
                cells.append(f"{s['found']}/{s['classes']} ({100 * s['true_gap']:.0f})")
        if none:
            by_chance = none["unseen"][cue]
            cells.append(f"{by_chance['found']}/{by_chance['classes']}")
        print("|", " | ".join(cells), "|")
    for strength in STRENGTHS:
        print(f"\n{net}, strength {strength:g}")
        for cue in cues:
            s = found.get((cue, strength))
            if s and "gap" in s:
                cells = [
                    cue, f"{s['best']:.2f}", f"{s['any']:.2f}", f"{s['rank']:.1f}",
                    f"{s['judged']} of {s['candidates']}", f"{s['on_page']} of {s['page']}",
                    f"{s['auroc']:.2f}", f"{100 * s['purity']:.0f} %",
                    f"{100 * s['gap']:.0f} ({100 * s['null_high']:.0f})",
                ]  # fmt: skip
                print("|", " | ".join(cells), "|", s["runs"], s["with_verdicts"], s["beyond_null"])
    ranked = [(s["rank"], s["by_chance"], s["found"]) for s in found.values() if s.get("found")]
    total = sum(n for *_, n in ranked)
    rank, by_chance = (sum(r[i] * r[2] for r in ranked) / total for i in (0, 1))
    print(f"mean rank {rank:.2f}, {by_chance:.2f} by chance, over {total} classes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    table() if sys.argv[1] == "table" else fill(sys.argv[1], *map(int, sys.argv[2:]))
