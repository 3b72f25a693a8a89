"""Directions held against the factors of a generator that knows its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from truecue.directions.directions import Directions, check_fit
from truecue.directions.encode import Encode, encoder_for
from truecue.engine.device import Device
from truecue.engine.run import Run, claim
from truecue.errors import ConfigError
from truecue.metrics import disentangle
from truecue.nets.generator import Generator, as_uint8
from truecue.nets.procedural import FACTORS, SIZES, ShapesGenerator


def known_factors(
    generator: Generator, directions: Directions, device: Device,
    settings: Encode | None = None, *, votes: int = 5000, seed: int = 0, out: Path | None = None,
    fresh: bool = False, quiet: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Train an encoder for directions, encode the grid of all factors once, and measure.

    Args:
        generator: a `ShapesGenerator`, on the device.
        directions: of it.
        device: where to compute.
        settings: of the encoder; left out: the defaults.
        votes: of BetaVAE and FactorVAE, and images of DCI.
        seed: of what is drawn.
        out: folder for the encoder's run; None keeps nothing.
        fresh: start over where `out` holds another run.
        quiet: show no progress.

    Returns:
        `metrics` by name, the table `importance` of DCI [k][f], the `factors`, and the `encoder`'s
        error.

    Raises:
        ConfigError: the generator does not know its factors.
        DataError: the directions are of another space or generator.
        RunMismatch: the folder holds another run.
    """
    if not isinstance(generator, ShapesGenerator):
        raise ConfigError("metrics need a generator that knows its factors: 'shapes'")
    settings = settings or Encode()
    check_fit(directions, generator)
    if out is not None:
        asked = {"encode": settings.to_dict(), "seed": seed, "directions": directions.digest(),
                 "generator": generator.digest()}  # fmt: skip
        claim(out, asked, {}, runs=["encode"], fresh=fresh)
    run = Run(out / "encode" if out else None, seed, device, quiet=quiet)
    with torch.random.fork_rng():
        made = encoder_for(generator, directions, run, settings)
    n = int(torch.tensor(SIZES).prod())
    with torch.no_grad():
        parts = [
            made.net(as_uint8(generator.grid_images(ids.to(device.device)))).cpu()
            for ids in torch.arange(n).split(500)
        ]
    table = disentangle.FactorTable(torch.cat(parts), SIZES)
    dci = disentangle.dci(table, n=votes, seed=seed)
    return {
        "metrics": {
            "beta_vae": disentangle.beta_vae(table, votes=votes, seed=seed),
            "factor_vae": disentangle.factor_vae(table, votes=votes, seed=seed),
            "mig": disentangle.mig(table, seed=seed),
            "disentanglement": dci.disentanglement,
            "completeness": dci.completeness,
            "informativeness": dci.informativeness,
            "dci": dci.score,
            "sap": disentangle.sap(table, seed=seed),
        },
        "importance": dci.importance.tolist(),
        "factors": list(FACTORS),
        "encoder": {"error": made.error},
        "seed": seed,
        "directions": directions.to_dict(),
    }
