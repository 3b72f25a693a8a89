"""Real digits: a classifier that goes by their colour, one that does not, and a VAE of the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import truecue
from truecue.directions.confirm import confirm
from truecue.directions.measured import measured_directions, values_of
from truecue.directions.probe import probe_classifier
from truecue.nets.load_generator import load_function, load_generator

VAE = Path(__file__).parents[2] / "benchmarks" / "digits_vae.py"
SEED = 3


@pytest.mark.slow
def test_only_the_biased_classifier_goes_by_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    biased = truecue.Digits().load(seed=SEED)
    with torch.random.fork_rng():
        decoder = load_function(f"{VAE}:train")(biased.train.images, epochs=15, seed=SEED)
    torch.save(decoder.state_dict(), tmp_path / "vae.pt")
    monkeypatch.setenv("DIGITS_VAE", str(tmp_path / "vae.pt"))
    generator = load_generator(f"{VAE}:make")
    colour = load_function(f"{VAE}:colour")
    directions = measured_directions(generator, colour, seed=SEED)
    assert min(directions.strengths) > 0.4
    scores, y = values_of(colour, biased.test.images)[1], biased.test.y

    told = {}
    for name, conflicting in (("biased", 0.02), ("any colour", 0.9)):
        data = truecue.Digits(conflicting=conflicting).load(seed=SEED)
        method = truecue.ERM().override({"plan.epochs": 8})
        net = truecue.train(method, data, seed=SEED, out=tmp_path / name, baseline=False).net
        see = truecue.ClassifierView(net, (3, 28, 28))
        right = see(biased.test.images).argmax(1) == y
        found = probe_classifier(generator, directions, see, n=24, columns=5, null=150, seed=SEED)
        told[name] = found.flagged, confirm(found, scores, y, right, seed=SEED), right
    flagged, held, right = told["biased"]
    other_flagged, other, other_right = told["any colour"]
    assert other_right.double().mean() > 0.2 + right.double().mean()
    assert flagged.any()
    assert not other_flagged.any()
    assert sum(gap.confirmed for gap in held.gaps) >= 3
    assert not any(gap.confirmed for gap in other.gaps)
    for direction in (0, 1):
        assert held.together[direction].gap > held.together[direction].null[1]
        assert other.together[direction].gap < other.together[direction].null[1]
