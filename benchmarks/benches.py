"""The benches of the documents: JSON results, tables and pictures from what has been run.

    truecue bench run benchmarks/benches/colored_mnist.toml --out FOLDER/colored_mnist
    python benchmarks/benches.py FOLDER

For every file in benchmarks/benches whose folder is in FOLDER: writes results/benches/NAME.json,
the pictures docs/images/bench-NAME-*.svg, and docs/results.md between the marks.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from truecue.atomic import atomic, write_text
from truecue.bench import table as t
from truecue.bench.plan import cells, read_bench
from truecue.bench.plots import pictures
from truecue.bench.rules import compare_rules
from truecue.bench.store import Store

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "results.md"
IMAGES = HERE.parent / "docs" / "images"
BEGIN, END = "<!-- results:benches -->\n", "<!-- /results:benches -->"

ALT = {
    "ratio": "Accuracy against the share of bias-conflicting training images, by method",
    "rules": "What each rule reaches against choosing by the worst validation group",
    "heat": "Accuracy of methods by suites",
}
SHOWN = {"colored_mnist": ("ratio", "rules"), "bar": (), "dogs_cats": ("heat",), "pacs": ("heat",),
         "sih": ("ratio",), "biased_mnist": (),
         "biased_mnist_simple_conv": (),
         "biased_mnist_simple_conv_12k": (), "digits_supinfonce": ()}  # fmt: skip
RULES = ("colored_mnist",)


def section(name: str, folder: Path, root: Path | None) -> str:
    """A bench's part of the page; writes its JSON file and its pictures on the way."""
    bench = read_bench(HERE / "benches" / f"{name}.toml")
    wanted, store = cells(bench, root), Store(folder / name)
    found, metric = t.rows(bench, wanted, store), bench.metric
    choices = compare_rules(bench, wanted, store)
    write_text(HERE / "results" / "benches" / f"{name}.json", t.as_json(bench, found, choices))
    head, lines = t.wide(bench, found, metric)
    text = t.markdown(bench.title, head, lines, [" ".join(t.notes(bench, found, metric))])
    made = pictures(bench, wanted, found, choices, metric)
    drawn = []
    for kind in SHOWN[name]:
        path = IMAGES / f"bench-{name}-{kind}.svg"
        with atomic(path) as temporary:
            temporary.write_bytes(made[kind])
        drawn.append(f"![{ALT[kind]}](images/{path.name})")
    parts = [text, *drawn]
    if name in RULES:
        head, lines, said = t.rules_table(bench, choices, metric)
        parts.append(t.markdown("", head, lines, said))
    return "\n\n".join(part.strip() for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    root = os.environ.get("TRUECUE_DATA")
    names = [name for name in SHOWN if (options.folder / name / "results").is_dir()]
    parts = [section(name, options.folder, Path(root) if root else None) for name in names]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.partition(END)[2]
    body = "\n" + "\n\n".join(parts) + "\n\n"
    write_text(PAGE, f"{before}{BEGIN}{body}{END}{after}")


if __name__ == "__main__":
    main()
