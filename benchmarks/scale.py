"""Rankings at the size of ImageNet: 1.28 million images, 2,048 features, 1,000 classes.

    python benchmarks/scale.py [--images 1280000] [--threads 1] [--folder DIR] [--json FILE]

Writes synthetic float16 features into a file, measures importance, columns of the five most
important features of each class, statistics, rankings by each feature and by all together, and the
gaps of twenty models on 50,000 validation images with their null bands, and removes the file. The
time of writing is not counted; processor time is given beside it. Memory is the largest resident
size, with the mapped file's pages (`getrusage`) and without.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from truecue.metrics.agreement import agreement, null_gap
from truecue.metrics.ranking import end_hits, false_discovery, rank, spurious_gap
from truecue.metrics.spurious import class_stats, importance, own_columns, scores

FEATURES, CLASSES, KEEP, MODELS, VALIDATION = 2048, 1000, 5, 20, 50_000
CHUNK = 8192
T = TypeVar("T")


def write(path: Path, n: int) -> None:
    """Non-negative features, about half of them zero, of which each class raises a few."""
    rng = np.random.default_rng(0)
    kinds = [np.maximum(rng.standard_normal((CHUNK, FEATURES), dtype=np.float32), 0) for _ in "abc"]
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (n, FEATURES)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, CHUNK):
            m = min(CHUNK, n - start)
            # other numbers for every block, without drawing 2.6 billion of them
            block = np.roll(kinds[start // CHUNK % 3][:m], start // CHUNK * 7, axis=1)
            file.write((block * rng.uniform(0.5, 1.5, (m, 1))).astype(np.float16).tobytes())


class Memory:
    """The largest resident size of this process beside mapped files, looked at every 0.1 s."""

    def __init__(self) -> None:
        self.most, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            text = Path("/proc/self/status").read_text(encoding="utf-8")
            self.most = max(self.most, int(text.split("RssAnon:")[1].split()[0]) / 2**20)

    def stop(self) -> float:
        """GiB."""
        self._stop.set()
        self._thread.join()
        return self.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = Path(tempfile.mkdtemp(prefix="truecue-scale-", dir=given.folder))
    try:
        told = run(folder / "features.npy", given.images)
    finally:
        shutil.rmtree(folder)
    told |= {"images": given.images, "threads": given.threads}
    print(json.dumps(told, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def run(path: Path, n: int) -> dict[str, Any]:
    need = n * FEATURES * 2
    free = shutil.disk_usage(path.parent).free
    if free < 1.2 * need:
        raise SystemExit(
            f"{need / 2**30:.1f} GiB are needed in {path.parent}, {free / 2**30:.1f} are free"
        )
    begun = time.monotonic()
    write(path, n)
    seconds, cpu = {"write": time.monotonic() - begun}, dict[str, float]()
    memory = Memory()

    def timed(name: str, work: Callable[[], T]) -> T:
        start, busy = time.monotonic(), time.process_time()
        made = work()
        seconds[name], cpu[name] = time.monotonic() - start, time.process_time() - busy
        return made

    features = np.load(path, mmap_mode="r")
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (n,), generator=rng)
    weight = torch.randn(CLASSES, FEATURES, generator=rng) / 10
    pred = torch.where(torch.rand(n, generator=rng) < 0.8, y, y.roll(1))
    found = timed("importance", lambda: importance(features, y, weight, keep=KEEP, pred=pred))
    columns = timed("columns", lambda: own_columns(features, y, found.top))
    stats = timed("statistics", lambda: class_stats(columns, y, CLASSES))
    timed("rankings by one", lambda: [rank(column, y, CLASSES) for column in columns.T])
    s = timed("spuriosity", lambda: scores(columns, y, stats))
    timed("ranking by all", lambda: rank(s, y, CLASSES))

    val = y[:VALIDATION].sort().values
    own = timed("validation columns", lambda: own_columns(features[:VALIDATION], val, found.top))
    v = scores(own, val, class_stats(own, val, CLASSES))
    ranking = rank(v, val, CLASSES)
    hard = torch.randn(VALIDATION, generator=rng)
    noise = torch.randn(MODELS, VALIDATION, generator=rng)
    right = 1 + 0.5 * v.float() + hard + noise > 0
    gaps = timed("gaps of all models", lambda: end_hits(right, ranking, 10).gaps)
    timed("agreement", lambda: agreement(gaps))
    timed("intervals", lambda: [spurious_gap(r, ranking, 10) for r in right])
    chances = [gap.p for gap in spurious_gap(right[0], ranking, 10).by_class.values()]
    timed("false discovery", lambda: false_discovery(chances * KEEP))
    timed("null of all models", lambda: null_gap(right, ranking, 10))
    total = sum(value for name, value in seconds.items() if name != "write")
    return {
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
        "total_without_write": round(total, 1),
        "cpu_total": round(sum(cpu.values()), 1),
        "resident_without_file_gib": round(memory.stop(), 2),
        "resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "gap": round(float(gaps.mean()), 3),
    }


if __name__ == "__main__":
    main()
