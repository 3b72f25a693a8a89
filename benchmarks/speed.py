"""Speed of truecue against bare compute, in ratios from one run.

    python benchmarks/speed.py [--threads 2] [--root FOLDER] [--json FILE]

Each ratio compares two things measured in turns in this process (several rounds, the median), so
that a busy machine slows both. Start-up times are those of fresh processes (the best of five).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from truecue.bench.plan import cells, read_bench
from truecue.bench.run import run_cells
from truecue.bench.store import Store
from truecue.data.loader import Batch, Loader
from truecue.data.sets import ImageSet
from truecue.data.suites.colored_mnist import ColoredMNIST
from truecue.data.suites.digits import Digits
from truecue.engine.device import Device, keep_freed_memory
from truecue.engine.evaluate import apply, count
from truecue.engine.learner import Learner, freeze
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.losses.contrastive import contrastive, similarities
from truecue.losses.fairkl import fairkl
from truecue.losses.rank import correlations, rank_penalty
from truecue.methods.denetdm import Experts, Student
from truecue.methods.erm import CELearner
from truecue.methods.lff import Failure
from truecue.methods.lowrank import Probe
from truecue.methods.sih import Paired
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.nets.vae import PairedVAE

SHAPE = {"channels": 3, "size": 28, "n_classes": 10}


def images(n: int) -> ImageSet:
    digits = Digits(train_size=5000, val_share=0.0).load().train
    return digits.select(torch.arange(n) % len(digits))


def erm() -> Learner:
    return CELearner(build("mlp-5", **SHAPE))


def experts() -> Learner:
    return Experts(build("mlp-5", **SHAPE), build("mlp-3", **SHAPE))


def student(data: ImageSet) -> Callable[[], Learner]:
    pair = experts()
    cached = {
        "features": apply(pair.deep.features, data, Device("cpu")),
        "logits": apply(pair.shallow, data, Device("cpu")),
    }
    return lambda: Student(
        build("mlp-5", **SHAPE), pair.deep, pair.shallow, poe=1, dist=1, tau=2, cached=cached
    )


def sih() -> Learner:
    vae = PairedVAE(build("vae-mlp", **SHAPE), build("vae-mlp", **SHAPE))
    return Paired(vae, q=0.7, recon="bce", recon_weight=100.0, kl_weight=1.0)


def bare_step(learner: Learner, batch: Batch, steps: int) -> float:
    """Seconds a step of the same networks on one fixed batch, nothing around it."""
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], fused=True)
    began = time.perf_counter()
    for _ in range(steps):
        loss = learner(batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps


def our_step(make: Callable[[], Learner], data: ImageSet, folder: Path, size: int) -> float:
    """Seconds a step in a real run: loading, logging, checkpoint at the end."""
    run = Run(folder, 0, Device("cpu"))
    plan = Plan(epochs=1, batch_size=size, drop_last=True, optimizer=Adam())
    run.train("stage", make, data, plan)
    return run.stages["stage"]["seconds"] / run.stages["stage"]["steps"]


def step_ratio(
    make: Callable[[], Learner], data: ImageSet, rounds: int, size: int = 64
) -> dict[str, float]:
    batch = Loader(data, batch_size=size).batch(0)
    bare, ours = [], []
    bare_step(make(), batch, 50)
    for _ in range(rounds):
        bare.append(bare_step(make(), batch, len(data) // size))
        with tempfile.TemporaryDirectory() as folder:
            ours.append(our_step(make, data, Path(folder), size))
    ratio = statistics.median(b / o for b, o in zip(bare, ours, strict=True))
    return {
        "bare_ms": statistics.median(bare) * 1e3,
        "ours_ms": statistics.median(ours) * 1e3,
        "bare_over_ours": ratio,
        "best_over_best": min(bare) / min(ours),  # least disturbed by what else runs
    }


def against_erm(data: ImageSet, rounds: int, batch: int = 256) -> dict[str, float]:
    """Seconds a step of methods with two networks or more work, over those of plain training."""

    def lff() -> Learner:
        net, biased = build("mlp-5", **SHAPE), build("mlp-5", **SHAPE)
        return Failure(net, biased, data.y, q=0.7, decay=0.7, scaled=False)

    makers = {"erm": erm, "lff": lff}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds + 1):  # the first round warms up
        for name, make in makers.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Run(Path(folder), 0, Device("cpu"))
                plan = Plan(epochs=3, batch_size=batch, drop_last=True)
                run.train("stage", make, data, plan)
                times[name].append(run.stages["stage"]["seconds"] / run.stages["stage"]["steps"])
    pairs = zip(times["lff"][1:], times["erm"][1:], strict=True)
    return {
        "batch": batch,
        "erm_ms": statistics.median(times["erm"][1:]) * 1e3,
        "lff_ms": statistics.median(times["lff"][1:]) * 1e3,
        "lff_over_erm": statistics.median(a / b for a, b in pairs),
        "limit": 2.3,
    }


def pairs_of_a_batch(rounds: int) -> dict[str, float]:
    """Milliseconds of contrastive loss and FairKL together, and their share of a training step.

    The encoders' steps are timed on 128 images and scaled to the batch: their cost is proportional.
    """
    rng = torch.Generator().manual_seed(0)
    nets = {name: build(f"unit:{name}", **SHAPE) for name in ("simple_conv-tanh", "conv3")}
    shape = (128, SHAPE["channels"], SHAPE["size"], SHAPE["size"])
    x = torch.randint(0, 256, shape, generator=rng).to(torch.uint8)
    times: dict[str, list[float]] = {}

    def timed(name: str, what: Callable[[], torch.Tensor]) -> None:
        began = time.perf_counter()
        what().backward()
        times.setdefault(name, []).append(time.perf_counter() - began)

    for _ in range(rounds + 1):  # the first round warms up
        for name, net in nets.items():
            timed(name, lambda net=net: net(x).sum())
        for n in (256, 1024):
            z = torch.randn(n, 128, generator=rng).requires_grad_()
            y, b = (torch.randint(10, (n,), generator=rng) for _ in range(2))

            def losses(z=z, y=y, b=b) -> torch.Tensor:
                s = similarities(z)
                return contrastive(s, y).loss + fairkl(s, y, b).loss

            timed(str(n), losses)
    rows = {}
    for n in (256, 1024):
        rows[f"losses_{n}_ms"] = statistics.median(times[str(n)][1:]) * 1e3
        for name in nets:
            pairs = zip(times[str(n)][1:], times[name][1:], strict=True)
            shares = [a / (a + b * n / 128) for a, b in pairs]
            rows[f"share_of_{name}_{n}"] = statistics.median(shares)
    return rows


def penalty_ways() -> dict[str, float]:
    """Milliseconds of the rank penalty with its gradient, n = 512: the d x d way and ours."""
    rows: dict[str, float] = {}
    for d in (512, 2048):
        z = torch.randn(512, d).requires_grad_()

        def direct(x: torch.Tensor = z) -> torch.Tensor:
            c = correlations(x)
            return (c.square().sum() - c.diagonal().square().sum()) / len(c) ** 2

        def ours(x: torch.Tensor = z) -> torch.Tensor:
            return rank_penalty(x)

        times: dict[str, list[float]] = {"direct": [], "ours": []}
        for k in range(8):  # the first round warms up
            for name, fn in (("direct", direct), ("ours", ours)):
                began = time.perf_counter()
                torch.autograd.grad(fn(), z)
                times[name] += [time.perf_counter() - began] if k else []
        rows |= {f"{name}_{d}_ms": statistics.median(v) * 1e3 for name, v in times.items()}
        pairs = zip(times["direct"], times["ours"], strict=True)
        rows[f"direct_over_ours_{d}"] = statistics.median(a / b for a, b in pairs)
    return rows


def probing(data: ImageSet, epochs: int = 10) -> dict[str, float]:
    """Seconds of a last layer on a frozen conv3: features computed once, or in every step."""

    class Recomputing(CELearner):
        def __init__(self, net: Classifier):
            super().__init__(net)
            freeze(net.encoder)

    plan, pairs = Plan(epochs=epochs, batch_size=256), []
    for _ in range(3):
        net, run = build("conv3", **SHAPE), Run(None, 0, Device("cpu"))
        began = time.perf_counter()
        z = run.apply(net.features, data)
        features = ImageSet(z[:, :, None, None], data.y, data.classes)
        run.train("cached", lambda net=net: Probe(net), features, plan)
        middle = time.perf_counter()
        run.train("recomputed", lambda net=net: Recomputing(net), data, plan)
        pairs.append((middle - began, time.perf_counter() - middle))
    return {
        "epochs": epochs,
        "cached_s": statistics.median(a for a, _ in pairs),
        "recomputed_s": statistics.median(b for _, b in pairs),
        "recomputed_over_cached": statistics.median(b / a for a, b in pairs),
    }


BENCH = """
seeds = [0, 1, 2, 3]
settings = { "plan.epochs" = 80 }
[suites.digits]
arch = "mlp-5"
[methods.erm]
[methods.lff]
[methods.jtt]
"""


def bench_cells() -> dict[str, float]:
    """Twelve cells by one process and by two: wall time over the sum of the single cells."""
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.toml"
        file.write_text(BENCH, encoding="utf-8")
        bench = read_bench(file)
        for processes in (1, 2):
            store = Store(Path(folder) / str(processes))
            tally = run_cells(cells(bench, None), store, processes=processes, said=lambda _: None)
            assert tally.done == 12
            rows[f"wall_{processes}_s"] = tally.seconds
            if processes == 1:
                rows["sum_of_single_cells_s"] = tally.cell_seconds
    rows["wall_2_over_sum"] = rows["wall_2_s"] / rows["sum_of_single_cells_s"]
    return rows


class PILDataset(torch.utils.data.Dataset):
    """What published code does: one PIL image, one conversion, for every sample of every epoch."""

    def __init__(self, data: ImageSet):
        self.images = data.images.permute(0, 2, 3, 1).numpy()
        self.y = data.y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = np.asarray(Image.fromarray(self.images[i]), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1), self.y[i]


def loaders(data: ImageSet) -> dict[str, float]:
    ours = Loader(data, batch_size=64, drop_last=True)
    began = time.perf_counter()
    for step in range(ours.per_epoch):
        ours.batch(step).x.float().mul_(1 / 255)
    tensor = len(data) / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in torch.utils.data.DataLoader(PILDataset(data), batch_size=64, shuffle=True):
        pass
    pil = len(data) / (time.perf_counter() - began)
    return {"tensor_img_s": tensor, "pil_img_s": pil, "ratio": tensor / pil}


def evaluation() -> dict[str, float]:
    data, net, device = images(10_000), build("mlp-5", **SHAPE), Device("cpu")
    times = []
    for _ in range(5):
        began = time.perf_counter()
        count(apply(net, data, device).argmax(1), data, "colour")
        times.append(time.perf_counter() - began)
    return {"seconds_10000": statistics.median(times), "limit": 0.5}


def suites(root: str) -> dict[str, float]:
    rows = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRUECUE_CACHE"] = cache
        wanted = {"digits": Digits(), "colored_mnist": ColoredMNIST() if root else None}
        for name, suite in wanted.items():
            for which in ("first", "cached") if suite else ():
                began = time.perf_counter()
                suite.load(Path(root) if root else None, seed=0)
                rows[f"{name}_{which}_s"] = time.perf_counter() - began
    return rows


def fresh(*command: str) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


def start_up() -> dict[str, float]:
    python = sys.executable
    nothing = fresh(python, "-c", "pass")
    return {
        "python_s": nothing,
        "import_truecue_s": fresh(python, "-c", "import truecue") - nothing,
        "help_s": fresh(python, "-m", "truecue.cli.main", "--help"),
        "import_limit": 0.3,
        "help_limit": 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--root", default=os.environ.get("TRUECUE_DATA", ""))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as commands do
    data = images(options.images)
    rows = {
        "circumstances": {
            "device": Device("cpu").describe(),
            "torch": torch.__version__,
            "images": f"{options.images} of 3x28x28, batch 64, of sih 256",
            "load_average": os.getloadavg()[0],
        },
        "step_erm": step_ratio(erm, data, options.rounds),
        "step_denetdm_experts": step_ratio(experts, data, options.rounds),
        "step_denetdm_student": step_ratio(student(data), data, options.rounds),
        "step_sih": step_ratio(sih, data, options.rounds, 256),
        "lff_against_erm": against_erm(data, options.rounds),
        "contrastive_and_fairkl": pairs_of_a_batch(options.rounds),
        "rank_penalty": penalty_ways(),
        "probing": probing(data.select(torch.arange(5000))),
        "bench_of_12_cells": bench_cells(),
        "loader": loaders(data),
        "evaluation": evaluation(),
        "suite": suites(options.root),
        "start_up": start_up(),
    }
    for name, values in rows.items():
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{name}: {', '.join(shown)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
