"""Tables of a bench: means over seeds with intervals, labels used, seconds, published figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import get_args

from truecue.bench.plan import Bench, Cell, MetricName
from truecue.bench.rules import Choice
from truecue.bench.store import Store
from truecue.bench.sweep import Trial
from truecue.engine.plan import LABELS_FOR_CHOOSING
from truecue.metrics.intervals import Estimate, student_t

METRICS: tuple[MetricName, ...] = get_args(MetricName)


@dataclass(frozen=True)
class Row:
    """A method on a suite: what its seeds came to."""

    suite: str
    method: str
    seeds: tuple[int, ...]
    """Those that have a result."""
    values: Mapping[MetricName, tuple[float, ...]]
    """In [0, 1], by metric, one for each seed; nan where a metric is not defined."""
    training: str
    """Labels that training looked at."""
    choosing: str
    """Labels that choosing looked at."""
    rule: str
    """By which weights were chosen."""
    seconds: float
    """Mean of a cell."""
    hardware: str
    failed: dict[int, str] = field(default_factory=dict)
    """Why a seed has no result, for those that failed."""
    missing: tuple[int, ...] = ()
    """Seeds that have not been run."""

    def estimate(self, metric: MetricName) -> Estimate:
        """Mean over seeds with Student's t interval, 95 %."""
        return student_t(self.values.get(metric, ()))


def rows(bench: Bench, cells: list[Cell], store: Store) -> list[Row]:
    """A row for each method on each suite, in the file's order."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.suite, cell.method), []).append(cell)
    order = [(s, m) for s in bench.suites for m in bench.methods if (s, m) in groups]
    return [_row(suite, method, groups[suite, method], store) for suite, method in order]


def _row(suite: str, method: str, cells: list[Cell], store: Store) -> Row:
    results = {cell.seed: r for cell in cells if (r := store.result(cell)) is not None}
    failed = {c.seed: e for c in cells if c.seed not in results and (e := store.error(c))}
    fit = cells[0].fit
    used = fit.labels_used()
    values = {
        m: tuple(_number(r["model"]["test"][m]["value"]) for r in results.values()) for m in METRICS
    }
    hardware = Counter(f"{r['device']}" for r in results.values())
    seconds = [r["seconds"] for r in results.values()]
    return Row(
        suite,
        method,
        tuple(results),
        values,
        used["training"],
        used["choosing"],
        fit.selection(),
        sum(seconds) / len(seconds) if seconds else math.nan,
        ", ".join(hardware),
        failed,
        tuple(c.seed for c in cells if c.seed not in results and c.seed not in failed),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def percent(found: Estimate, seeds: int) -> str:
    """A mean in % with half the width of its interval; "–" where there is none."""
    if math.isnan(found.value):
        return "–"
    text = f"{100 * found.value:.1f}"
    if not math.isnan(found.low):
        text += f" ± {50 * (found.high - found.low):.1f}"
    return text if found.n == seeds else f"{text} (n={found.n})"


def _field(row: Row | None, metric: MetricName, seeds: int) -> str:
    if row is None:
        return ""
    text = percent(row.estimate(metric), seeds)
    if row.failed:
        text = f"{text if row.seeds else ''} {len(row.failed)} failed".strip()
    return text


HEAD = ("labels used in training", "labels used for choosing", "chosen by", "s a run")


def wide(bench: Bench, found: list[Row], metric: MetricName) -> tuple[list[str], list[list[str]]]:
    """One metric: a line for each method, a column for each suite; published figures below ours.

    Returns:
        Heads of columns, and lines of fields.
    """
    by_place = {(row.method, row.suite): row for row in found}
    lines = []
    for method in bench.methods:
        mine = [r for s in bench.suites if (r := by_place.get((method, s))) is not None]
        if not mine:
            continue
        fields = [_field(by_place.get((method, s)), metric, len(bench.seeds)) for s in bench.suites]
        known = [r.seconds for r in mine if not math.isnan(r.seconds)]
        seconds = f"{sum(known) / len(known):.0f}" if known else "–"
        used = zip(*((r.training, r.choosing, r.rule) for r in mine), strict=True)
        lines.append([method, *fields, *map(_all, used), seconds])
        for paper in bench.published:
            values = paper.values.get(method)
            if values is not None and paper.metric == metric:
                mark = " (not comparable)" if paper.differs else ""
                own = [f"{values[s]:.1f}" if s in values else "" for s in bench.suites]
                lines.append([f"{method}, {paper.source}{mark}", *own, "", "", "", ""])
    return ["method", *bench.suites, *HEAD], lines


def _all(said: Iterable[str]) -> str:
    """What suites have in common; all of it where settings for single suites make a difference."""
    return " / ".join(dict.fromkeys(said))


def notes(bench: Bench, found: list[Row], metric: MetricName) -> list[str]:
    """What a reader must know: definitions, seeds, hardware, failures, published figures."""
    seeds = ", ".join(map(str, bench.seeds))
    said = [
        f"{_DEFINED[metric]} Test images, in %: mean over seeds {seeds}, ± half of the 95 %"
        " interval (Student's t).",
    ]
    hardware = sorted({r.hardware for r in found if r.hardware})
    said += [f"Hardware: {'; '.join(hardware)}."] if hardware else []
    said += [
        f"Published figures of {paper.source} are not comparable: {paper.differs}."
        for paper in bench.published
        if paper.differs and paper.metric == metric
    ]
    for row in found:
        said += [f"{row.method} on {row.suite}, seed {s}: {e}." for s, e in row.failed.items()]
    missing = sum(len(row.missing) for row in found)
    if missing:
        said.append(f"{missing} cell{'s have' if missing > 1 else ' has'} not been run yet.")
    return said


_DEFINED = {
    "unbiased": "Unbiased accuracy: mean over all cells of class and bias value.",
    "conflicting": "Bias-conflicting accuracy: mean over the cells in which the bias contradicts"
    " the class.",
    "aligned": "Bias-aligned accuracy: mean over the cells in which the bias agrees with the"
    " class.",
    "worst_group": "Worst-group accuracy: the lowest of all cells of class and bias value.",
    "worst_class": "Worst-class accuracy: the lowest recall of a class.",
    "average": "Average accuracy: share of right predictions among all images.",
}


def markdown(title: str, head: list[str], lines: list[list[str]], said: list[str]) -> str:
    """A table in Markdown with its notes."""
    clean = [[f.replace("|", "\\|") for f in line] for line in (head, *lines)]
    text = [f"### {title}", ""] if title else []
    text += [f"| {' | '.join(clean[0])} |", "|" + "---|" * len(head)]
    text += [f"| {' | '.join(line)} |" for line in clean[1:]]
    return "\n".join([*text, "", *said, ""])


def latex(title: str, head: list[str], lines: list[list[str]], said: list[str]) -> str:
    """A table in LaTeX (package booktabs) with its notes as the caption."""

    def row(line: list[str]) -> str:
        return " & ".join(map(_escaped, line)) + r" \\"

    caption = " ".join(_escaped(t) for t in ([f"{title}."] if title else []) + said)
    columns = "l" * len(head)
    text = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    text += [row(head), r"\midrule", *map(row, lines), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*text, rf"\caption{{{caption}}}", r"\end{table}", ""])


_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    text = "".join(_LATEX.get(sign, sign) for sign in text)
    return text.replace("±", r"$\pm$").replace("–", "--").replace("×", r"$\times$")


def as_csv(bench: Bench, found: list[Row]) -> str:
    """A line for each method, suite and metric, ours and published ones."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["method", "suite", "metric", "mean", "low", "high", "seeds", "failed",
         "labels_training", "labels_choosing", "rule", "seconds", "source"]
    )  # fmt: skip
    for row in found:
        for metric in METRICS:
            e = row.estimate(metric)
            numbers = ["" if math.isnan(x) else f"{x:.6f}" for x in e[:3]]
            writer.writerow(
                [row.method, row.suite, metric, *numbers, " ".join(map(str, row.seeds)),
                 len(row.failed), row.training, row.choosing, row.rule,
                 "" if math.isnan(row.seconds) else f"{row.seconds:.1f}", ""]
            )  # fmt: skip
    for paper in bench.published:
        for method, values in paper.values.items():
            for suite, value in values.items():
                writer.writerow(
                    [method, suite, paper.metric, f"{value / 100:.6f}", "", "", "", "", "", "", "",
                     "", paper.source]
                )  # fmt: skip
    return out.getvalue()


def as_json(bench: Bench, found: list[Row], choices: list[Choice]) -> str:
    """Everything: the file, a row for each method and suite with every seed's value, the rules."""
    from truecue.report.report import finite

    said = {
        "bench": bench.to_dict(),
        "rows": [
            asdict(row)
            | {"estimates": {m: row.estimate(m).to_dict() for m in METRICS}}
            for row in found
        ],
        "rules": [c._asdict() | {"chosen": c.chosen.to_dict(), "short": c.short.to_dict()}
                  for c in choices],
    }  # fmt: skip
    return json.dumps(finite(said), indent=1, ensure_ascii=False) + "\n"


def rules_table(
    bench: Bench, choices: list[Choice], metric: MetricName
) -> tuple[list[str], list[list[str]], list[str]]:
    """What each rule reaches: a line for each method and rule, a column for each suite.

    Returns:
        Heads, lines and notes.
    """
    places: Mapping[tuple[str, str, str], Choice] = {
        (c.method, c.rule, c.suite): c for c in choices
    }
    lines = []
    for method in bench.methods:
        for rule in dict.fromkeys(c.rule for c in choices if c.method == method):
            mine = [places.get((method, rule, s)) for s in bench.suites]
            fields = ["" if c is None else percent(c.chosen, len(bench.seeds)) for c in mine]
            short = [c.short.value for c in mine if c and not math.isnan(c.short.value)]
            lost = f"{100 * sum(short) / len(short):.1f}" if short else "–"
            lines.append([method, rule, *fields, lost])
    most = max((c.out_of for c in choices), default=0)
    said = [
        f"{_DEFINED[metric]} Test images, in %, of the epoch that a rule chooses among up to"
        f" {most} recorded ones of the same run: mean over seeds, ± half of the 95 % interval"
        ' (Student\'s t). "Short" is how far a rule falls below val_worst_group, in points, mean'
        " over suites and seeds; oracle_test looks at the test images and is no rule to use."
    ]
    return ["method", "rule", *bench.suites, "short"], lines, said


def sweep_table(bench: Bench, trials: Sequence[Trial]) -> str:
    """The trials of a sweep in Markdown, the best first."""
    sweep = bench.sweep
    assert sweep is not None
    head = [*sweep.space, sweep.rule, "epoch", f"test, {bench.metric}"]
    lines = []
    for t in trials:
        value = "failed" if t.failed else "–" if math.isnan(t.value) else f"{t.value:.4f}"
        epochs = ", ".join("–" if e is None else str(e) for e in t.epochs)
        settings = [str(v) for v in t.settings.values()]
        lines.append([*settings, value, epochs, percent(t.test, len(sweep.seeds))])
    said = [
        f"{sweep.method} on {sweep.suite}, {len(trials)} trials, seeds"
        f" {', '.join(map(str, sweep.seeds))}. Compared by {sweep.rule}"
        f" ({LABELS_FOR_CHOOSING[sweep.rule]}), larger is better, each with its best recorded"
        " epoch. Test accuracies, in %, are those of these epochs."
    ]
    if sweep.rule == "oracle_test":
        said.append(
            "The trials are compared by the TEST images: the best one's figure is too good."
        )
    return markdown(bench.title, head, lines, said)
