"""Repairing MobileNetV2 on BAR by verdicts about its features: three tunings, and SpuFix.

python benchmarks/repair.py FOLDER                           # audit, and pictures to judge by
python benchmarks/repair.py FOLDER --verdicts benchmarks/bar_verdicts.csv    # repair, five seeds

Needs timm, BAR and the weights in $TRUECUE_DATA. The encoder is as published, its last layer is
fitted to BAR. The first call writes a picture of each class's features, and answers.csv with a row
for each: put main_object, separate_object or background into `Answer.main` and give it back;
bar_verdicts.csv is such a file. All test images of BAR conflict with the bias, so that accuracy on
them is the measure; validation images are as biased as training images, and epochs are chosen on
half of them. Three settings, fixed beforehand: the defaults, which stop at a gap of 5 points, and
two that take the smallest gap at any cost. Writes benchmarks/results/repair.json, but with
--per-class, which is for trying it out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import torch

from truecue import BAR, Device, ImageSet, Splits
from truecue.audit.audit import Audit
from truecue.audit.make import make_audit
from truecue.audit.measure import measure_gaps
from truecue.audit.verdicts import COLUMNS
from truecue.nets.pretrained import Pretrained
from truecue.repair.repair import repair_audit
from truecue.repair.tune import TuneSettings
from truecue.report.features import FeaturePictures, Shown
from truecue.report.parts import circumstances
from truecue.report.repair_page import write_repair_page

RESULT = Path(__file__).resolve().parent / "results" / "repair.json"
WEIGHTS = Pretrained(
    weights="weights/imagenet_mobilenetv2_100_timm.pt",
    arch="mobilenetv2_100,pad_type=same",
    norm="half",
)
VAL_SHARE, SEEDS, SHOWN = 0.3, range(5), 5
SETTINGS = {
    "defaults": TuneSettings(),
    "any cost, lr 0.01": TuneSettings(target=0, tol=1, lr=0.01),
    "any cost, lr 0.1": TuneSettings(target=0, tol=1, lr=0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--verdicts", type=Path, help="answers about the features")
    parser.add_argument("--per-class", type=int, help="images of each class and split, to try out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, root = Device("cpu"), Path(os.environ["TRUECUE_DATA"])
    data = BAR(val_share=VAL_SHARE).load(root)
    if options.per_class:
        data = few(data, options.per_class)
    encoder = WEIGHTS.load(3, 224, root)
    audit = make_audit(
        options.folder / "audit", data, encoder=encoder, device=device, facts={"data": "bar"},
        quiet=False,
    )  # fmt: skip
    if options.verdicts is None:
        measure_gaps(audit)
        draw(audit, data, device, options.folder)
        return
    audit.verdicts().read_csv(options.verdicts)
    about, rows = circumstances(device, SEEDS[0], {}), {}
    for title, settings in SETTINGS.items():
        out = options.folder / title.replace(", ", "-").replace(" ", "-")
        told = repair_audit(
            audit, data, methods=("low", "random", "error", "spufix"), seeds=SEEDS, device=device,
            settings=settings, about=about, facts={"data": "bar"}, out=out,
        )  # fmt: skip
        write_repair_page(told, out)
        rows[title] = {"settings": settings.to_dict(), "rows": summary(told)}
        for name, row in rows[title]["rows"].items():
            print(f"{title}, {name:8}", json.dumps(row["test"]))
    if not options.per_class:
        RESULT.write_text(
            json.dumps(circumstances_of(told, audit) | {"runs": rows}, indent=1) + "\n"
        )


def few(data: Splits, n: int) -> Splits:
    """The first images of each class in each split."""

    def some(part: ImageSet) -> ImageSet:
        ids = [(part.y == c).nonzero()[:n, 0] for c in range(len(part.classes))]
        return part.select(torch.cat(ids).sort().values)

    assert data.val is not None
    return Splits(some(data.train), some(data.val), some(data.test))


def draw(audit: Audit, data: Splits, device: Device, folder: Path) -> None:
    """A picture of each feature, and the table to fill in."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = FeaturePictures(audit.encoder(), data.train, device, robust=False)
    columns, rows = audit.columns("train"), []
    for f in audit.pairs():
        ids = [torch.tensor(pick(f.class_index, f.feature, SHOWN))
               for pick in (audit.strongest, audit.weakest)]  # fmt: skip
        top, least = (Shown(i, columns[i, f.slot]) for i in ids)
        name = f"{audit.classes[f.class_index]}_{f.rank}_{f.feature}.webp"
        picture = drawn.picture(f.class_index, f.feature, top, least)
        (pictures / name).write_bytes(picture)
        label = audit.classes[f.class_index]
        rows.append(("me", label, f.class_index, f.feature, f.rank, "", "", ""))
    answers = folder / "answers.csv"
    if not answers.exists():  # somebody may have filled it in
        with answers.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    print(f"{len(rows)} pictures in {pictures}; fill in {answers}")


def summary(told: dict[str, Any]) -> dict[str, Any]:
    """Before, and each method over seeds."""
    names = ("accuracy", "low", "high", "gap")
    rows: dict[str, Any] = {
        "before": {p: {n: told["before"][p][n] for n in names} for p in ("val", "test")}
    }
    for name, found in told["methods"].items():
        once = {p: {n: found["parts"][p][n] for n in names} for p in ("val", "test")}
        chosen = [run.get("chosen") for run in found["runs"]]
        rows[name] = (found["over_seeds"] or once) | {"chosen": chosen, "change": found["change"]}
    return rows


def circumstances_of(told: dict[str, Any], audit: Audit) -> dict[str, Any]:
    """What all runs have in common, with the gaps by the verdicts before any repair."""
    judged = audit.verdicts().aggregate().spurious()
    kept = ("torch", "versions", "device", "threads", "seeds", "sizes", "notes")
    wrong = audit.predicted("train") != audit.labels("train")
    return {
        **{key: told[key] for key in kept if key in told},
        "val_share": VAL_SHARE,
        "spurious": {audit.classes[c]: sorted(found) for c, found in judged.items()},
        "training_errors": int(wrong.sum()),
        "gaps": {split: found["verdicts"] for split, found in audit.gaps()["splits"].items()},
    }


if __name__ == "__main__":
    main()
