"""What refining directions is worth: the tables of docs/directions.md.

    python benchmarks/directions.py known --seeds 0 1 2   # shapes, whose factors are known
    python benchmarks/directions.py mnist-dcgan   # also: mnist-gan, mnist-vae, mnist-dcgan-long
    python benchmarks/directions.py speed
    python benchmarks/directions.py tables                # puts them into the page

Each part writes benchmarks/results/directions/PART.json, one entry for each seed. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.directions import find
from truecue.directions.directions import Directions, unit
from truecue.directions.discover import Discover, discover
from truecue.directions.encode import Encoder
from truecue.directions.ranking import Pairs, PairSource
from truecue.directions.rescore import rescore
from truecue.directions.search import retrieve
from truecue.directions.sre import SRE, Refined, refine
from truecue.directions.traverse import render, symmetric, traverse
from truecue.engine.device import Device
from truecue.metrics import disentangle
from truecue.metrics.intervals import student_t
from truecue.metrics.retrieval import precision_at_k
from truecue.nets.classifier import read_weights
from truecue.nets.generator import Generator, as_uint8
from truecue.nets.load_generator import load_generator
from truecue.nets.procedural import FACTORS, SIZES, ShapesGenerator
from truecue.nets.scorer import Scorer
from truecue.report.directions import Traversal, before_after_picture

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "directions"
PAGE = HERE.parent / "docs" / "directions.md"
DEVICE = Device("cpu")
RATES = {"lr_directions": 1e-3, "lr_scorer": 1e-3}
KNOWN = SRE(scorer="small", steps=2000, images=32, **RATES)
DIGITS = SRE(scorer="small", steps=1000, images=32, **RATES)
LONG = DIGITS.model_copy(update={"steps": 6000})
LD = Discover(reconstructor="lenet", steps=1000, lr=1e-3)
SIDE = 16
"""Pixels of a side of known shapes: four times as fast as 32."""
VOTES, TREES = 2000, 400
"""Votes of BetaVAE and FactorVAE, and images of DCI."""
POOL, QUERIES, FOUND = 3000, 300, 10
STARTS = {"random": "random", "sefa": "SeFa", "ganspace": "GANSpace", "voynov": "LD"}
METRICS = {
    "cosine": "cosine", "covered": "factors", "beta_vae": "BetaVAE", "factor_vae": "FactorVAE",
    "mig": "MIG", "disentanglement": "D", "completeness": "C", "informativeness": "I", "sap": "SAP",
}  # fmt: skip
LOOKS = ("ink", "stroke width", "slant", "height", "width")
CODES = 256


def start_of(how: str, generator: Generator, k: int, seed: int) -> tuple[Directions, float | None]:
    """Directions to begin with and, for LD, the share of images its reconstructor tells rightly."""
    if how == "voynov":
        settings = LD.model_copy(update={"k": k})
        found = discover(generator, settings, seed=seed, device=DEVICE)
        begun = Directions(found.directions.matrix, "LD", generator=generator.digest())
        return begun, found.accuracy
    if how == "ganspace" and isinstance(generator, ShapesGenerator):
        return ganspace_of_pixels(generator, k, seed), None
    return find.find_directions(how, generator, k, seed), None  # type: ignore[arg-type]


@torch.no_grad()
def ganspace_of_pixels(generator: Generator, k: int, seed: int, n: int = 5000) -> Directions:
    """GANSpace where there are no layers: components of the images."""
    codes = generator.codes(n, seed, "pixels")
    images = torch.cat([generator(part) for part in codes.split(250)])
    pixels = images.flatten(1).double()
    mean, components, spread = find.principal(pixels, k)
    places = (pixels - mean) @ components.T / spread
    solved = torch.linalg.lstsq(places, codes.double() - codes.double().mean(0)).solution
    return Directions(unit(solved), "GANSpace of pixels", generator=generator.digest())


# --- shapes: known factors, and retrieval


def known(_: Path, seed: int, starts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Metrics of four kinds of directions before and after, and retrieval with the scorers.

    Axes and everything that is drawn go by the seed. The codes are exact, as of a perfect encoder:
    places of the grid's images along the axes, times the axes' products with the directions.
    """
    generator = ShapesGenerator(seed=seed, size=SIDE)
    places = grid_places()
    out: dict[str, Any] = {"starts": {}}
    out["axes"] = held_against(generator, generator.axes, places, seed)
    for how in starts:
        began = time.process_time()
        begun, told = start_of(how, generator, len(FACTORS), seed)
        done = refine(generator, begun, KNOWN, seed=seed, device=DEVICE)
        out["starts"][how] = row = {
            "before": held_against(generator, begun.matrix, places, seed),
            "after": held_against(generator, done.directions.matrix, places, seed),
            "ranked_right": ranked(done),
            "turned": [row["turned"] for row in done.report["directions"]],
            "retrieval": retrieval(generator, done, seed),
            "reconstructor": told,
            "seconds": time.process_time() - began,
        }
        print(how, {k: (round(row["before"][k], 3), round(row["after"][k], 3)) for k in METRICS},
              f"{row['seconds']:.0f} s", flush=True)  # fmt: skip
        yield out


def grid_places() -> Tensor:
    """Where all images of the grid lie along the axes of their factors: [28800, 7]."""
    steps = [torch.special.ndtri((torch.arange(size) + 0.5) / size) for size in SIZES]
    grids = torch.meshgrid(*steps, indexing="ij")
    return torch.stack([grid.flatten() for grid in grids], 1)


@torch.no_grad()
def encode_grid(generator: ShapesGenerator, net: Encoder) -> Tensor:
    """Codes [28800, k] of all images on the grid."""
    n = int(torch.tensor(SIZES).prod())
    return torch.cat(
        [net(as_uint8(generator.grid_images(ids))) for ids in torch.arange(n).split(500)]
    )


def held_against(
    generator: ShapesGenerator, rows: Tensor, places: Tensor, seed: int
) -> dict[str, float]:
    table = disentangle.FactorTable(places @ (rows @ generator.axes.T).T, SIZES)
    dci = disentangle.dci(table, n=TREES, seed=seed)
    cosine = (unit(rows) @ generator.axes.T).abs()
    return {
        "cosine": float(cosine.amax(1).mean()),
        "covered": len(set(cosine.argmax(1).tolist())),
        "beta_vae": disentangle.beta_vae(table, votes=VOTES, seed=seed),
        "factor_vae": disentangle.factor_vae(table, votes=VOTES, seed=seed),
        "mig": disentangle.mig(table, seed=seed),
        "disentanglement": dci.disentanglement,
        "completeness": dci.completeness,
        "informativeness": dci.informativeness,
        "sap": disentangle.sap(table, seed=seed),
    }


def ranked(done: Refined) -> list[float]:
    """The share of pairs ordered rightly, best direction first."""
    return sorted(done.measured.accuracy.tolist(), reverse=True)


@torch.no_grad()
def retrieval(generator: ShapesGenerator, done: Refined, seed: int) -> dict[str, dict[str, float]]:
    """Precision at 10 of each factor's value: by one score, by pixels, and in a random order.

    The direction for a factor is the one with the largest cosine with its axis, as somebody who
    looks at the pictures would choose.
    """
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randperm(int(torch.tensor(SIZES).prod()), generator=rng)[:POOL]
    images = torch.cat([generator.grid_images(part) for part in ids.split(500)])
    scores = torch.cat([done.scorer.score(as_uint8(part)) for part in images.split(500)])
    pixels = images.flatten(1)
    count = torch.tensor(SIZES)
    values = ids[:, None] // (count.flip(0).cumprod(0).flip(0) // count) % count
    nearest = (unit(done.directions.matrix) @ generator.axes.T).abs().argmax(0)
    out = {}
    for j, factor in enumerate(FACTORS):
        v = values[:, j]
        wanted = (v == v[:QUERIES, None]).double().sum(1) - 1
        out[factor] = {
            "direction": precision(scores[:, [int(nearest[j])]], v),
            "pixels": precision(pixels, v),
            "chance": float(wanted.mean() / (POOL - 1)),
        }
    return out


def precision(by: Tensor, v: Tensor) -> float:
    """Precision at 10 of the first images as queries, which are left out of what they find."""
    order, _ = retrieve(by, by[:QUERIES], range(by.shape[1]), FOUND + 5)
    others = [row[row != i][:FOUND] for i, row in enumerate(order)]
    return float(precision_at_k(v[torch.stack(others)] == v[:QUERIES, None], FOUND).mean())


# --- digits: published generators


def digits(
    name: str, settings: SRE = DIGITS
) -> Callable[[Path, int, Sequence[str]], Iterator[dict[str, Any]]]:
    """How well pairs are ordered with directions as found and as refined, and what they change."""

    def part(root: Path, seed: int, starts: Sequence[str]) -> Iterator[dict[str, Any]]:
        generator = load_generator(name, root)
        classify = lenet(root)
        out: dict[str, Any] = {"starts": {}}
        for how in starts:
            began = time.process_time()
            begun, told = start_of(how, generator, 10, seed)
            done = refine(generator, begun, settings, seed=seed, device=DEVICE)
            fixed = settings.model_copy(update={"map": "random"})
            still = refine(generator, begun, fixed, seed=seed, device=DEVICE)
            step = 2 * done.report["step"]
            out["step"] = step
            out["starts"][how] = {
                side: {
                    "ranked_right": ranked(of),
                    "change": [row["change"] for row in of.report["directions"]],
                    "looks": looks_changed(generator, of.directions.matrix, step, seed).tolist(),
                    "digits": rescore(
                        generator, of.directions.matrix, step, classify, n=CODES, seed=seed
                    ).shift.tolist(),
                }
                for side, of in (("before", still), ("after", done))
            } | {
                "turned": [row["turned"] for row in done.report["directions"]],
                "reconstructor": told, "seconds": time.process_time() - began,
            }  # fmt: skip
            shown = f"{name}-{settings.steps}-{how}-{seed}"
            show(generator, still, done, 2 * step, seed, shown)
            row = out["starts"][how]
            print(name, how, {key: (round(summary(row["before"])[key], 3),
                  round(summary(row["after"])[key], 3)) for key in summary(row["after"])},
                  f"{row['seconds']:.0f} s", flush=True)  # fmt: skip
            yield out

    return part


def lenet(root: Path) -> Callable[[Tensor], Tensor]:
    """Probabilities of the ten digits by a published LeNet-5."""
    state = read_weights(Path(root) / "weights" / "mnist_lenet5.pt")
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 120, 5), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))

    def probabilities(x: Tensor) -> Tensor:
        resized = F.interpolate(x.float() / 255, size=(32, 32), mode="bilinear")
        return net(resized).softmax(1)

    return probabilities


def looks(x: Tensor) -> Tensor:
    """Ink, stroke width, slant, height and width [n, 5] of white strokes in images [n, 1, h, w].

    The stroke width is twice the area over the length of the outline; slant is the slope of the
    principal line of rows; height and width are four deviations of the ink.
    """
    p = (x.float() / 255).squeeze(1)
    area = p.sum((1, 2)).clamp(min=1e-3)
    edge = p.diff(dim=1).abs().sum((1, 2)) + p.diff(dim=2).abs().sum((1, 2))
    down, across = (torch.arange(side).float() for side in p.shape[1:])
    y, x_ = p.sum(2), p.sum(1)
    y0, x0 = (y @ down / area)[:, None], (x_ @ across / area)[:, None]
    yy = (y * (down - y0) ** 2).sum(1) / area
    xx = (x_ * (across - x0) ** 2).sum(1) / area
    xy = (p * (down - y0)[:, :, None] * (across - x0)[:, None]).sum((1, 2)) / area
    return torch.stack(
        [area, 2 * area / edge.clamp(min=1e-3), -xy / yy.clamp(min=1e-3), 4 * yy.sqrt(),
         4 * xx.sqrt()], 1,
    )  # fmt: skip


def looks_changed(generator: Generator, rows: Tensor, step: float, seed: int) -> Tensor:
    """Mean change [k, 5] of looks from a step back to a step forward, in their deviations."""
    codes = generator.codes(CODES, seed, "looks")
    spread = looks(as_uint8(render(generator, codes, torch.zeros_like(codes)))).std(0)
    made = []
    for row in rows:
        ends = [looks(as_uint8(render(generator, codes, (s * row).expand_as(codes))))
                for s in (-step, step)]  # fmt: skip
        made.append((ends[1] - ends[0]).mean(0) / spread)
    return torch.stack(made)


def summary(row: Mapping[str, Any]) -> dict[str, float]:
    """One number for each question about ten directions."""
    looks, classes = (torch.tensor(row[key]).abs() for key in ("looks", "digits"))
    right = torch.tensor(row["ranked_right"])
    return {
        "ranked_right": float(right.mean()),
        "best": float(right[0]),
        "worst": float(right[-1]),
        "change": statistics.fmean(row["change"]),
        "looks_share": float((looks.amax(1) / looks.sum(1)).mean()),
        "looks_size": float(looks.sum(1).mean()),
        "digits_share": float((classes.amax(1) / classes.sum(1).clamp(min=1e-9)).mean()),
        "digits_size": float(classes.sum(1).mean()),
    }


def show(
    generator: Generator, before: Refined, after: Refined, reach: float, seed: int, name: str
) -> None:
    """Keep the pictures of both in runs/bench-directions, to be looked at."""
    steps = symmetric(reach, 7)
    codes = generator.codes(1, seed, "shown")
    order = after.measured.accuracy.argsort(descending=True)
    both = [
        Traversal(traverse(generator, of.matrix[order], codes, steps), steps,
                  [str(k) for k in order.tolist()], [""] * len(order))
        for of in (before.directions, after.directions)
    ]  # fmt: skip
    folder = HERE.parent / "runs" / "bench-directions"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(before_after_picture(*both))


# --- speed


def speed(_: Path, seed: int, __: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Processor time, in turns: updates, scores, and metrics with codes kept and computed anew."""
    generator = ShapesGenerator(seed=seed)
    rows: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    for scorer, updates, rounds in (("small", 60, 7), ("resnet18", 5, 3)):
        rows[f"update_{scorer}"] = updating(generator, scorer, updates, rounds)
    images = torch.randint(0, 256, (1000, 3, 32, 32)).to(torch.uint8)
    for scorer in ("small", "resnet18"):
        net = Scorer(scorer, (3, 32, 32), 7).eval()
        with torch.no_grad():
            net.score(images[:250])
            spent = seconds(lambda net=net: [net.score(part) for part in images.split(250)])
        rows[f"scored_{scorer}"] = len(images) / spent
    rows["metrics"] = with_codes_kept(generator)
    yield rows


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def bare_update(
    generator: Generator, scorer: Scorer, rows: torch.Tensor, pairs: Pairs, updates: int
) -> float:
    """Seconds an update of SRE's networks on fixed pairs, with nothing around them."""
    rows = rows.clone().requires_grad_()
    eps, codes = torch.cat([pairs.eps1, pairs.eps2]), torch.cat([pairs.z, pairs.z])
    y = (pairs.eps1 > pairs.eps2).float()
    optimizers = [torch.optim.Adam(ps, fused=True) for ps in (scorer.parameters(), [rows])]
    began = time.perf_counter()
    for _ in range(updates):
        for ranks, optimizer in zip((True, False), optimizers, strict=True):
            scorer.train(ranks).requires_grad_(ranks)
            with torch.set_grad_enabled(not ranks):
                images = generator(codes, eps @ rows)
            s1, s2 = scorer(images).chunk(2)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(s1 - s2, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return (time.perf_counter() - began) / updates


def updating(
    generator: ShapesGenerator, scorer: str, updates: int, rounds: int
) -> dict[str, float]:
    """Milliseconds an update, against the bare networks; starting and judging are taken off."""
    start = find.random_directions(generator, 7)
    reach = SRE().reach(generator, 7)
    pairs = PairSource(
        generator, k=7, reach=reach, images=32, steps=1, seed=0, device=DEVICE
    ).batch(0)
    bare, ours = [], []
    for _ in range(rounds + 1):  # the first round warms up
        net = Scorer(scorer, (3, 32, 32), 7)
        bare.append(
            seconds(lambda net=net: bare_update(generator, net, start.matrix, pairs, updates))
            / updates
        )
        short, long = (
            seconds(lambda n=n: refine(generator, start, SRE(scorer=scorer, steps=n),
                                       device=DEVICE))
            for n in (1, updates + 1)
        )  # fmt: skip
        ours.append((long - short) / updates)
    bare, ours = bare[1:], ours[1:]
    ratios = sorted(b / o for b, o in zip(bare, ours, strict=True))
    return {
        "bare_ms": statistics.median(bare) * 1e3, "ours_ms": statistics.median(ours) * 1e3,
        "bare_over_ours": statistics.median(ratios), "least": ratios[0], "largest": ratios[-1],
    }  # fmt: skip


@torch.no_grad()
def with_codes_kept(generator: ShapesGenerator, votes: int = 5000, tried: int = 50) -> dict:
    """BetaVAE and FactorVAE from a table of codes, and with all their images encoded anew."""
    net = Encoder((3, 32, 32), 7).eval()
    began = time.process_time()
    codes = encode_grid(generator, net)
    once = time.process_time() - began
    spread = codes.std(0).clamp(min=1e-6)  # an untrained encoder's codes hardly vary
    held = disentangle.FactorTable((codes - codes.mean(0)) / spread, SIZES)
    kept = seconds(lambda: (disentangle.beta_vae(held, votes=votes),
                            disentangle.factor_vae(held, votes=votes)))  # fmt: skip
    ids = torch.randint(len(codes), (tried, disentangle.PAIRS))
    each = seconds(lambda: [net(as_uint8(generator.grid_images(row))) for row in ids]) / ids.numel()
    anew = kept + each * (2 * votes * disentangle.PAIRS * 3 + 5000)
    return {
        "encoding_once_s": once, "metric_s": kept, "anew_s": anew, "ratio": anew / (once + kept),
        "ratio_without_encoding": anew / kept,
    }  # fmt: skip


# --- tables


def tables() -> None:
    """Put every part that was measured between its marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    makers = {"known": known_table, "retrieval": retrieval_table, "digits": digits_table,
              "speed": speed_table}  # fmt: skip
    for name, make in makers.items():
        begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
        rest = text.partition(begin)[0], text.partition(end)[2]
        text = f"{rest[0]}{begin}\n\n{make()}\n\n{end}{rest[1]}"
    PAGE.write_text(text, encoding="utf-8")


def read(part: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{part}.json"
    return list(json.loads(path.read_text()).values()) if path.exists() else []


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def said(values: Sequence[float], digits: int = 2) -> str:
    """Mean and 95 % interval by Student's t; a dash where nothing was measured."""
    if not values:
        return "–"
    told = student_t(list(values))
    if told.low is None or len(values) < 2:
        return f"{told.value:.{digits}f}"
    return f"{told.value:.{digits}f} ± {(told.high - told.low) / 2:.{digits}f}"


def measured(part: str, how: str) -> list[dict[str, Any]]:
    """What was measured with one kind of start, for each seed."""
    return [entry["starts"][how] for entry in read(part) if how in entry["starts"]]


def known_table() -> str:
    rows = []
    for how, name in STARTS.items():
        runs = measured("known", how)
        for side, title in (("before", name), ("after", f"{name} + SRE")):
            values = [said([run[side][key] for run in runs]) for key in METRICS]
            rows.append([title, str(len(runs)), *values])
        gains = [said([run["after"][key] - run["before"][key] for run in runs]) for key in METRICS]
        rows.append([f"*gain, {name}*", "", *gains])
    axes = [said([entry["axes"][key] for entry in read("known")]) for key in METRICS]
    rows.append(["the axes themselves", str(len(read("known"))), *axes])
    return table(["", "seeds", *METRICS.values()], rows)


def retrieval_table() -> str:
    runs = {how: [run["retrieval"] for run in measured("known", how)] for how in STARTS}
    rows = []
    for factor in FACTORS:
        by_score = [said([run[factor]["direction"] for run in runs[how]]) for how in STARTS]
        others = [
            said([run[factor][key] for run in runs["random"]]) for key in ("pixels", "chance")
        ]
        rows.append([factor, *by_score, *others])
    names = [f"{name} + SRE" for name in STARTS.values()]
    return table(["", *names, "pixels", "random order"], rows)


def digits_table() -> str:
    rows = []
    columns = {
        "ranked_right": "pairs ordered", "worst": "by the worst", "change": "change of image",
        "looks_share": "looks: largest share", "looks_size": "looks: all changes",
        "digits_share": "digits: largest share", "digits_size": "digits: all changes",
    }  # fmt: skip
    for part in GENERATORS:
        for how, name in STARTS.items():
            runs = measured(part, how)
            if not runs:
                continue
            sides = [[summary(run[side]) for run in runs] for side in ("before", "after")]
            for title, each in zip((name, f"{name} + SRE"), sides, strict=True):
                values = [said([e[key] for e in each]) for key in columns]
                rows.append([f"{part}, {title}", str(len(runs)), *values])
            gains = [
                said([after[key] - before[key] for before, after in zip(*sides, strict=True)])
                for key in columns
            ]
            rows.append([f"*gain, {name}*", "", *gains])
    return table(["", "seeds", *columns.values()], rows)


def speed_table() -> str:
    (entry,) = read("speed")[:1]
    rows = [
        [f"update of SRE, `{name}`, 32 images: bare over ours",
         f"{row['bare_over_ours']:.2f} ({row['least']:.2f} to {row['largest']:.2f})",
         f"{row['bare_ms']:.1f} ms, {row['ours_ms']:.1f} ms"]
        for name in ("small", "resnet18") for row in [entry[f"update_{name}"]]
    ]  # fmt: skip
    rows += [[f"images scored in a second, `{name}`", f"{entry[f'scored_{name}']:,.0f}", ""]
             for name in ("small", "resnet18")]  # fmt: skip
    kept = entry["metrics"]
    rows.append([
        "BetaVAE and FactorVAE, 5,000 + 5,000 votes: images encoded anew over codes kept",
        f"{kept['ratio']:.0f} ({kept['ratio_without_encoding']:,.0f} once the codes are there)",
        f"{kept['anew_s']:.0f} s, {kept['encoding_once_s']:.1f} s + {kept['metric_s']:.2f} s",
    ])  # fmt: skip
    return table(["", "ratio or rate", "processor time"], rows)


GENERATORS = {
    **{name: digits(name) for name in ("mnist-dcgan", "mnist-gan", "mnist-vae")},
    "mnist-dcgan-long": digits("mnist-dcgan", LONG),
}
PARTS = {"known": known, "speed": speed} | GENERATORS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "tables"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--root", type=Path, default=os.environ.get("TRUECUE_DATA"))
    options = parser.parse_args()
    if options.part == "tables":
        tables()
        return
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{options.part}.json"
    for seed in options.seeds:
        began = time.process_time()
        for entry in PARTS[options.part](options.root, seed, options.starts):  # after each start
            entries = json.loads(path.read_text()) if path.exists() else {}
            held = entries.get(str(seed), {}).get("starts", {}) | entry.get("starts", {})
            entries[str(seed)] = entry | ({"starts": held} if held else {})
            path.write_text(json.dumps(entries, indent=1) + "\n")
        print(f"{options.part}, seed {seed}: {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
