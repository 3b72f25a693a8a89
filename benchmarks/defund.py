"""Measure DeFund and effective ranks; the figures of docs/methods/defund.md and docs/rank.md.

    python benchmarks/defund.py ratio          # rank against bias; draws docs/images/rank-bias.svg
    python benchmarks/defund.py colored_mnist  # also: dogs_cats, and semi for 10 % of the labels
    python benchmarks/defund.py tables         # writes them into the two pages

Each part writes benchmarks/results/defund/PART.json, one entry for each seed. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from truecue import ERM, ColoredMNIST, Device, DogsCats, Plan, Splits
from truecue.audit.rank import FeatureRank, Subject, compare_ranks
from truecue.engine.judge import aligned_mask, goes_with
from truecue.fitting import Fitted, Fitting
from truecue.methods.defund import DeFund
from truecue.methods.erm import CELearner
from truecue.methods.lowrank import upweights
from truecue.report.lowrank import lowrank_part
from truecue.report.parts import measure
from truecue.report.rank_page import against
from truecue.report.svg import svg_file

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "defund"
PICTURE = HERE.parent / "docs" / "images" / "rank-bias.svg"
SHARES = (0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)
STRENGTHS = (0.3, 1.2, 4.0)
QUICK = {  # what all runs of DeFund here have in common
    "pretrain.optimizer.lr": 1e-3,
    "probe.optimizer.lr": 1e-2,
    "plan.optimizer.lr": 1e-2,
    "probe.epochs": 30,
    "plan.epochs": 30,
    "cutoff": 0.5,
}


def mnist(root: Path, conflicting: float, seed: int, every: int) -> Splits:
    """Colored MNIST with every so many-th training image."""
    data = ColoredMNIST(conflicting=conflicting, val_share=0.0).load(root, seed=seed)
    return replace(data, train=data.train.select(torch.arange(0, len(data.train), every)))


def fitted(method: ERM | DeFund, data: Splits, seed: int, arch: str) -> Fitted:
    with torch.random.fork_rng():
        return Fitting(data, seed=seed, device=Device("cpu"), arch=arch).fit(method, "run")


def accuracies(net, data: Splits) -> dict[str, float]:
    found = measure(net, data.test, data.bias, aligned_mask(data), Device("cpu"))
    return {key: found[key]["value"] for key in ("aligned", "conflicting", "worst_group")}


def ratio(root: Path, seed: int) -> list[dict]:
    """Plain training with growing shares of conflicting images; ranks on training images."""
    method, subjects = ERM(plan=Plan(epochs=10, batch_size=256)), []
    for share in SHARES:
        data = mnist(root, share, seed, 3)
        subjects.append(Subject(f"{share:g}", fitted(method, data, seed, "mlp-5").net, data))
    plain = compare_ranks(subjects, n=2000, device=Device("cpu"))
    centred = compare_ranks(subjects, n=2000, center=True, device=Device("cpu"))
    test = compare_ranks(subjects, n=2000, split="test", device=Device("cpu"))
    return [
        {k: v for k, v in one.to_dict().items() if k != "spectrum"}
        | {"share": share, "centred": two.entropy, "on_test": three.entropy}
        for share, one, two, three in zip(
            SHARES, plain.models, centred.models, test.models, strict=True
        )
    ]


def draw_ratio(entries: dict[str, list[dict]]) -> None:
    models = [
        FeatureRank(
            row["name"], row["n"], row["n_features"], torch.ones(1), row["entropy"],
            row["penalty"], 0, torch.ones(1, 1), row["share"], row["aligned"],
            row["conflicting"], None,
        )
        for rows in entries.values() for row in rows
    ]  # fmt: skip
    drawing = against(models, "conflicting_share", legend=True)
    PICTURE.write_bytes(svg_file(5.75, 3.5, drawing, right=0.8, bottom=0.75))


def linear(data: Splits, seed: int, arch: str, changes: dict) -> dict:
    """Errors, ranks and accuracies for every strength, for their mean, and for the oracle."""
    method = DeFund(strengths=STRENGTHS).override(QUICK | changes)
    made = fitted(method, data, seed, arch)
    part, _ = lowrank_part(method, made, data, Device("cpu"))
    assert part is not None
    run, found = made.run, made.run.told["errors"]
    features = run.apply(made.net.features, data.train)
    last = {row["stage"]: row["rank_penalty"] for row in part["training"]}
    entry = {"plain": accuracies(run.branches["plain"].net, data), "of": []}
    entry["mean"] = accuracies(made.net, data)
    entry["mean"] |= {"errors": part["errors"], "auprc": part["mean"]["auprc"]}
    entry["oracle"] = {k: part["table"][-1]["test"][k]["value"] for k in entry["plain"]}
    for row, rank, wrong in zip(part["single"], part["spectra"]["of"], found["wrong"], strict=True):
        k = row["strength"]
        net = method.last_layer(f"only-{k:g}", made.net, features, data.train, wrong, run).net
        entry["of"].append({
            "strength": k, "H": rank["entropy"], "penalty": last[f"pretrain-{k:g}"],
            "share": row["share"], "precision": row["precision"]["value"],
            "recall": row["recall"]["value"], "auprc": row["auprc"], **accuracies(net, data),
        })  # fmt: skip
    baseline = ERM(plan=Plan(epochs=30, batch_size=256))
    entry["erm"] = accuracies(fitted(baseline, data, seed, arch).net, data)
    return entry


MNIST = {"pretrain.epochs": 30, "pretrain.augment": ["large_crop", "jitter", "grey"]}


def colored_mnist(root: Path, seed: int) -> dict:
    return linear(mnist(root, 0.05, seed, 12), seed, "mlp-5", MNIST)


def dogs_cats(root: Path, seed: int) -> dict:
    data = DogsCats(size=32, complete=False, val_share=0.0).load(root, seed=seed)
    return linear(data, seed, "conv3", {"pretrain.epochs": 20})


def semi(root: Path, seed: int) -> dict:
    """10 % of the labels: fine-tuning of everything, with and without errors drawn more often."""
    data = mnist(root, 0.05, seed, 12)
    changes = {"plan.optimizer.lr": 1e-3, "plan.epochs": 100, "strengths": [0.3]}
    method = DeFund(variant="semi").override(QUICK | MNIST | changes)
    made = fitted(method, data, seed, "mlp-5")
    part, _ = lowrank_part(method, made, data, Device("cpu"))
    assert part is not None
    run, found = made.run, made.run.told["errors"]
    labels = data.train.select(found["ids"])
    agree = goes_with(labels, data.bias, aligned_mask(data))
    entry = {"of": part["single"], "probe": accuracies(run.branches["plain"].net, data)}
    kinds = {"plain": agree < -1, "errors-0": found["wrong"][0], "oracle": agree == 0}
    for name, wrong in kinds.items():

        def make() -> CELearner:
            net = run.new_net(data.train)
            net.encoder.load_state_dict(run.branches["plain"].net.encoder.state_dict())
            return CELearner(net)

        weights = upweights(wrong, method.upweight)
        net = run.train(f"only-{name}", make, labels, method.plan, weights=weights).net
        entry[name] = accuracies(net, data)
    return entry | {"errors": accuracies(made.net, data)}


def said(values: list[float], digits: int = 1, factor: float = 100) -> str:
    """The mean, and the seeds' values in brackets."""
    each = " ".join(f"{factor * v:.{digits}f}" for v in values)
    mean = f"{factor * sum(values) / len(values):.{digits}f}"
    return f"{mean} ({each})" if len(values) > 1 else mean


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def linear_table(entries: dict[str, dict]) -> str:
    """A row for each strength, and what to compare with."""
    head = ["errors of strength", "H", "L_reg", "errors, %", "precision, %", "recall, %", "AUPRC",
            "aligned, %", "conflicting, %"]  # fmt: skip
    of = list(entries.values())
    rows = []
    for k, first in enumerate(of[0]["of"]):
        col = {key: [e["of"][k][key] for e in of] for key in first}
        rows.append([
            f"{first['strength']:g}", said(col["H"], 2, 1), said(col["penalty"], 2, 1),
            *(said(col[key]) for key in ("share", "precision", "recall")),
            said(col["auprc"], 2, 1), said(col["aligned"]), said(col["conflicting"]),
        ])  # fmt: skip
    found = [e["mean"]["errors"] for e in of]
    rows.append([
        "those above 0 together: mean score above 0.5", "", "", said([f["share"] for f in found]),
        *(said([f[key]["value"] for f in found]) for key in ("precision", "recall")),
        said([e["mean"]["auprc"] for e in of], 2, 1),
        *(said([e["mean"][key] for e in of]) for key in ("aligned", "conflicting")),
    ])  # fmt: skip
    for key, name in {
        "plain": "nothing drawn more often",
        "oracle": "oracle: conflicting images drawn more often",
        "erm": "plain training of the whole network, all labels",
    }.items():
        values = [said([e[key][part] for e in of]) for part in ("aligned", "conflicting")]
        rows.append([name, *[""] * 6, *values])
    return table(head, rows)


def semi_table(entries: dict[str, dict]) -> str:
    names = {
        "probe": "last layer alone, nothing drawn more often",
        "plain": "nothing drawn more often", "errors-0": "errors of strength 0",
        "errors": "errors of strength 0.3", "oracle": "oracle",
    }  # fmt: skip
    rows = []
    for key, name in names.items():
        values = [said([e[key][p] for e in entries.values()]) for p in ("aligned", "conflicting")]
        found = {"errors-0": 0, "errors": 1}.get(key)
        extra = ["", ""] if found is None else [
            said([e["of"][found][k]["value"] for e in entries.values()])
            for k in ("precision", "recall")
        ]  # fmt: skip
        rows.append([name, *extra, *values])
    return table(["", "precision, %", "recall, %", "aligned, %", "conflicting, %"], rows)


def ratio_table(entries: dict[str, list[dict]]) -> str:
    head = ["conflicting in training", "H", "H, centred", "H on unbiased test images",
            "aligned, %", "conflicting, %"]  # fmt: skip
    rows = []
    for k, share in enumerate(SHARES):
        col = {key: [e[k][key] for e in entries.values()] for key in entries[next(iter(entries))][0]
               if key not in ("name", "strength")}  # fmt: skip
        rows.append([
            f"{100 * share:g} %",
            *(said(col[key], 2, 1) for key in ("entropy", "centred", "on_test")),
            *(said(col[key]) for key in ("aligned", "conflicting")),
        ])  # fmt: skip
    return table(head, rows)


def tables() -> None:
    """Put every part that was measured between its marks in the pages."""
    makers = {"colored_mnist": linear_table, "dogs_cats": linear_table, "semi": semi_table,
              "ratio": ratio_table}  # fmt: skip
    for page in (HERE.parent / "docs" / "methods" / "defund.md", HERE.parent / "docs" / "rank.md"):
        text = page.read_text(encoding="utf-8")
        for name, make in makers.items():
            begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
            if begin in text and (RESULTS / f"{name}.json").exists():
                made = make(json.loads((RESULTS / f"{name}.json").read_text()))
                rest = text.partition(begin)[0], text.partition(end)[2]
                text = f"{rest[0]}{begin}\n\n{made}\n\n{end}{rest[1]}"
        page.write_text(text, encoding="utf-8")


PARTS = {"ratio": ratio, "colored_mnist": colored_mnist, "dogs_cats": dogs_cats, "semi": semi}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "tables"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=os.environ.get("TRUECUE_DATA"))
    options = parser.parse_args()
    if options.part == "tables":
        tables()
        return
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{options.part}.json"
    entries = json.loads(path.read_text()) if path.exists() else {}
    for seed in options.seeds:
        began = time.process_time()
        entries[str(seed)] = PARTS[options.part](options.root, seed)
        print(f"{options.part}, seed {seed}: {time.process_time() - began:.0f} s of processor time")
        path.write_text(json.dumps(entries, indent=1) + "\n")
    if options.part == "ratio":
        draw_ratio(entries)


if __name__ == "__main__":
    main()
