"""Does probing tell a classifier that goes by colour from one that does not?

`python benchmarks/digits_probe.py DIR SEED...` trains, for each seed, on the suite `digits`: ERM on
the biased images, ERM on digits in any colour, and a VAE of the biased images. It probes both along
two directions that change the measured colour, and along ten that SRE refined from Jacobians, and
writes DIR/SEED.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import digits_vae
import torch
from torch import Tensor

import truecue
from truecue.data.sets import ImageSet
from truecue.directions.confirm import confirm
from truecue.directions.measured import measured_directions, values_of
from truecue.directions.probe import probe_classifier
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, predictions
from truecue.nets.classifier import load_classifier

CPU = Device("cpu")
CLASSIFIERS = {"biased": 0.02, "any colour": 0.9}
"""ERM by name, with the share of training images whose colour is not that of their digit."""
SRE = {"scorer": "small", "images": 64, "lr_directions": 1e-3, "lr_scorer": 1e-3}


def measure(home: Path, seed: int) -> dict[str, Any]:
    """Train what is not there yet, probe, and hold against the test images."""
    biased = truecue.Digits().load(seed=seed)
    os.environ["DIGITS_VAE"] = str(home / "vae.pt")
    if not (home / "vae.pt").is_file():
        home.mkdir(parents=True, exist_ok=True)
        torch.save(digits_vae.train(biased.train.images, seed=seed).state_dict(), home / "vae.pt")
    generator = digits_vae.make()
    rankings = {
        "measured": by_colour(generator, biased.test, seed),
        "refined": by_sre(generator, biased.test, seed),
    }
    told: dict[str, Any] = {}
    for name, conflicting in CLASSIFIERS.items():
        out = home / name.replace(" ", "-")
        if not (out / "model.safetensors").is_file():
            data = truecue.Digits(conflicting=conflicting).load(seed=seed)
            truecue.train(truecue.ERM(), data, seed=seed, out=out)
        net = load_classifier(out)
        see = truecue.ClassifierView(net, (3, 28, 28))
        right = predictions(net, biased.test, CPU) == biased.test.y
        told[name] = {"accuracy": float(right.double().mean())}
        for kind, (directions, scores) in rankings.items():
            found = probe_classifier(generator, directions, see, n=32, columns=7, seed=seed)
            held = confirm(found, scores, biased.test.y, right, seed=seed)
            of_null = found.null.travel
            told[name][kind] = row = {
                "travel": found.moves.travel.tolist(),
                "random": [float(of_null.median()), float(of_null.max())],
                "p": found.p.tolist(),
                "q": found.q.tolist(),
                "gaps": [[t.gap, *t.null] for t in held.together.values()],
                "classes": [sum(g.differs for g in held.gaps if g.direction == d)
                            for d in held.together],
                "colour": of_colour(scores, biased.test).tolist(),
            }  # fmt: skip
            print(seed, name, kind, row, flush=True)
    return told


def by_colour(
    generator: truecue.Generator, test: ImageSet, seed: int
) -> tuple[truecue.Directions, Tensor]:
    """Directions by measured colour, and the measured colour of test images."""
    found = measured_directions(generator, digits_vae.colour, seed=seed)
    print(seed, "straight lines", found.strengths, flush=True)
    return found, values_of(digits_vae.colour, test.images)[1]


def by_sre(
    generator: truecue.Generator, test: ImageSet, seed: int
) -> tuple[truecue.Directions, Tensor]:
    """Ten directions by Jacobians, refined, and the scorer's numbers of test images."""
    start = truecue.find_directions("jacobian", generator, 10, seed)
    refined = truecue.refine(generator, start, truecue.SRE(steps=1000, **SRE), seed=seed)
    score: Callable[[Tensor], Tensor] = refined.scorer.score
    return refined.directions, apply(score, test, CPU)


def of_colour(scores: Tensor, test: ImageSet) -> Tensor:
    """How much of the variance of scores [n, k] lies between the ten colours, [k]."""
    colours = torch.as_tensor(test.attributes["colour"].values)
    means = torch.stack([scores[colours == c].mean(0) for c in range(10)])
    return (means[colours] - scores.mean(0)).square().mean(0) / scores.var(0, unbiased=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in map(int, sys.argv[2:]):
        found = measure(Path(sys.argv[1]) / str(each), each)
        Path(sys.argv[1], f"{each}.json").write_text(json.dumps(found, indent=1) + "\n")
