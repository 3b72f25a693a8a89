"""Pictures of MobileNetV2's features on BAR's six classes, and what corrupting their places costs.

python benchmarks/feature_pictures.py FOLDER     # needs timm, BAR and the weights in $TRUECUE_DATA

Writes five pictures of each class into FOLDER, and benchmarks/results/feature_pictures.json: times,
and for each class's features the relative loss of accuracy. The head is fitted to the training
images and judged on them: sensitivities say what it leans on, not how well it does.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

from truecue import BAR, Device
from truecue.audit.corrupt import corrupted, sensitivity
from truecue.audit.maps import resized, stored_maps
from truecue.engine.evaluate import apply
from truecue.nets.pretrained import Pretrained
from truecue.report.features import FeaturePictures, Shown

RESULT = Path(__file__).resolve().parent / "results" / "feature_pictures.json"
WEIGHTS = Pretrained(
    weights="weights/imagenet_mobilenetv2_100_timm.pt",
    arch="mobilenetv2_100,pad_type=same",
    norm="half",
)
FEATURES, SHOWN, TESTED = 5, 5, 65
KINDS = ("gray", "blur", "rotate", "noise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, root = Device("cpu"), Path(os.environ["TRUECUE_DATA"])
    train = BAR(val_share=0).load(root).train
    encoder = WEIGHTS.load(3, 224, root)
    z = apply(encoder.features, train, device, batch=8)
    mean, std = z.mean(0), z.std(0) + 1e-6
    head = LogisticRegression(C=0.01, max_iter=300).fit(((z - mean) / std).numpy(), train.y.numpy())
    weights = torch.tensor(head.coef_, dtype=torch.float32) / std

    def predict(features: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(head.predict(((features - mean) / std).numpy()))

    drawn = FeaturePictures(encoder, train, device, robust=False)
    options.folder.mkdir(parents=True, exist_ok=True)
    said, seconds, rows = predict(z), 0.0, []
    for c, name in enumerate(train.classes):
        own = ((train.y == c) & (said == c)).nonzero().squeeze(1)
        importance = weights[c] * z[own].mean(0)
        for rank, f in enumerate(importance.argsort(descending=True)[:FEATURES].tolist(), 1):
            order = own[z[own, f].argsort(descending=True, stable=True)]
            top, least = order[:SHOWN], order[-SHOWN:].flip(0)
            start = time.perf_counter()
            picture = drawn.picture(c, f, Shown(top, z[top, f]), Shown(least, z[least, f]))
            seconds += time.perf_counter() - start
            (options.folder / f"{name}_{rank}_{f}.webp").write_bytes(picture)
            if rank > 1:
                continue
            ids = order[:TESTED]
            x, whole = train.images[ids], torch.full_like(ids, f)
            masks = resized(stored_maps(drawn.source, train, ids, whole, device) / 255, 224, 224)
            row = {"class": name, "feature": f, "images": len(ids)}
            for kind in KINDS:
                changed = corrupted(x, masks, kind).split(8)
                with torch.no_grad():
                    again = predict(torch.cat([encoder.features(part) for part in changed]))
                row[kind] = sensitivity(said[ids] == c, again == c)
            rows.append(row)
            print(row, flush=True)
    about = {"torch": torch.__version__.partition("+")[0], "device": device.describe()}
    times = {"pictures": FEATURES * len(train.classes), "seconds": round(seconds, 1)}
    accuracy = float((said == train.y).float().mean())
    result = {**about, **times, "training_accuracy": accuracy, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
