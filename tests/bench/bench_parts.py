"""Benches that take seconds, and results made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from truecue.bench.plan import Bench, Cell, cells, read_bench
from truecue.bench.run import Tally, run_cells
from truecue.bench.store import Store
from truecue.bench.work import run_cell
from truecue.engine.device import Device
from truecue.engine.record import packed

SMALL = """
title = "Small"
seeds = [0, 1]
record = 4
settings = { "plan.epochs" = 4 }
[suites.tints]
data = "digits"
settings = { train_size = 200, test_size = 200, conflicting = 0.02 }
arch = "mlp-3x8"
[suites.more]
data = "digits"
settings = { train_size = 200, test_size = 200, conflicting = 0.2 }
arch = "mlp-3x8"
[methods.erm]
[methods.lff]
"""


def small(folder: Path, text: str = SMALL) -> tuple[Bench, list[Cell], Store]:
    file = folder / "small.toml"
    file.write_text(text, encoding="utf-8")
    bench = read_bench(file)
    return bench, cells(bench, None), Store(folder / "bench")


def run_here(wanted: list[Cell], store: Store) -> None:
    """Run cells in this process: workers take seconds to start."""
    from truecue.bench.pool import Outcome

    for cell in store.missing(wanted):
        store.keep(Outcome(cell, run_cell(cell, store.work(cell), Device("cpu"))))


def run_all(wanted: list[Cell], store: Store, processes: int = 1) -> Tally:
    return run_cells(wanted, store, processes=processes, said=lambda _: None)


def result(
    test_hits: list[list[list[int]]], val_says: list[list[int]], **more: Any
) -> dict[str, Any]:
    """A result with four test images in each cell of a 2 x 2 table, and validation images by hand:
    labels 0 0 0 0 1 1 1 1, bias values 0 0 0 1 1 1 1 0.
    """
    return {
        "task": {"classes": ["a", "b"], "bias_values": ["u", "v"],
                 "aligned": [[True, False], [False, True]]},
        "model": {"test": {"cells": {"total": [[4, 4], [4, 4]]}}},
        "val": {"y": packed(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])),
                "bias": packed(torch.tensor([0, 0, 0, 1, 1, 1, 1, 0]))},
        "guesses": {},
        "records": [
            {"epoch": k + 1, "test_hits": hits, "val_says": packed(torch.tensor(says)),
             "val_loss": 1.0 / (k + 1)}
            for k, (hits, says) in enumerate(zip(test_hits, val_says, strict=True))
        ],
    } | more  # fmt: skip
