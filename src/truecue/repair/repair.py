"""Repairing the model of an audit by its verdicts, and measuring what that changes.

FOLDER/METHOD.safetensors, .json   a repaired model for each method, of the first seed
FOLDER/repair.json                 what was done and measured
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from truecue.atomic import write_text
from truecue.audit.audit import Audit
from truecue.audit.features import Store
from truecue.audit.measure import measure_gaps, verdicts_digest
from truecue.config import suggest
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.judge import aligned_mask
from truecue.errors import ConfigError, DataError
from truecue.metrics.intervals import student_t
from truecue.metrics.ranking import end_sizes, rank
from truecue.metrics.spurious import FEW
from truecue.nets.classifier import Classifier, save_classifier
from truecue.nets.corrected import CorrectedHead
from truecue.repair.earlier import Earlier, compared, earlier, remove_left
from truecue.repair.images import drawn, halves, lowest
from truecue.repair.scores import Part, change, right, score
from truecue.repair.spufix import corrected, directions
from truecue.repair.tune import Judged, TuneSettings, plain, tune_head
from truecue.seeds import derive

MethodName = Literal["low", "random", "error", "spufix"]
TITLES: dict[MethodName, str] = {
    "low": "Low-spuriosity tuning",
    "random": "Random tuning",
    "error": "Error tuning",
    "spufix": "SpuFix",
}
"""What can be done: tune on images without the cue; on random images and on misclassified ones, to
compare with; or take spurious parts off the logits."""
DEFAULT: tuple[MethodName, ...] = ("low", "random", "error")
NUMBERS = ("accuracy", "low", "high", "gap")


def repair_audit(
    audit: Audit,
    data: Splits,
    *,
    methods: Sequence[str] = DEFAULT,
    settings: TuneSettings | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    out: Path | str | None = None,
    device: Device | None = None,
    facts: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    fresh: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Repair the audited model by the verdicts, measure it, and write models and numbers.

    Validation images are split at random within each class, neighbours in its ranking to different
    halves: epochs are chosen on one half, and models are measured on the other and on the test
    images. Bias labels, where there are any, are used to measure and for nothing else. Other
    methods that an earlier call has left in the folder stay, with their numbers, where these are of
    the same model, images, verdicts and settings.

    Args:
        audit: with verdicts.
        data: the splits of the audit, with all attributes.
        methods: of `low`, `random`, `error` and `spufix`; the first is the one that is meant, the
            others are compared with it.
        settings: of the tuning; None: the defaults.
        seeds: of random choices and the order, one run of each tuning for each. The first seed's
            models are written, and it splits the validation images.
        out: folder; None: `repair` in the audit's folder.
        device: where features are computed, which are in the cache since the audit; None: the best
            there is.
        facts: where the data comes from, see `truecue.train`.
        about: plain values on the circumstances, for repair.json.
        fresh: remove what an earlier repair has left in the folder.
        quiet: show no progress.

    Returns:
        What repair.json holds.

    Raises:
        ConfigError: there is no such method, or no seed.
        DataError: the audit has no verdict, or none that says spurious; there are no validation
            images; every class concerned is too small; or the images are not those of the audit.
        Diverged: the learning rate is too large.
        RunMismatch: the folder holds other methods' repairs of something else.
        StorageError: a file could not be written.

    Source: Moayeri et al. 2023 (arXiv 2212.02648), section 5; Neuhaus et al. 2023
    (arXiv 2212.04871) for SpuFix.
    """
    chosen, seeds, settings = _methods(methods), list(seeds), settings or TuneSettings()
    if not seeds:
        raise ConfigError("a repair needs at least one seed")
    spurious = _spurious(audit)
    audit.check(data)
    _bring_up_to_date(audit)
    out = audit.folder / "repair" if out is None else Path(out)
    model, of = audit.facts["model"]["digest"], compared(audit, audit.gaps()["stats_from"])
    left = Earlier({}, settings, seeds)
    if not fresh:
        left = earlier(out, model, of, chosen, settings, seeds)
    bench = _Bench(audit, data, spurious, settings, seeds[0], device or Device(), quiet=quiet)
    before = {name: right(bench.net.head, part) for name, part in bench.parts.items()}
    found: dict[str, Any] = dict(left.methods)
    nets: dict[MethodName, nn.Linear] = {}
    for name in chosen:
        runs = bench.runs(name, seeds, spurious)
        nets[name] = head = runs[0].head
        after = {part: right(head, images) for part, images in bench.parts.items()}
        found[name] = {
            "title": TITLES[name],
            "model": f"{name}.safetensors",
            "command": (facts or {}).get("command"),
            "runs": [run.told for run in runs],
            "parts": bench.scores(head),
            "change": {part: change(before[part], after[part], images, settings.ends)
                       for part, images in bench.parts.items()},
            "over_seeds": _over_seeds([run.told for run in runs]),
        }  # fmt: skip
    automatic = sum(pair.automatic for pair in audit.verdicts().aggregate().pairs.values())
    if automatic:
        bench.notes.append(f"{automatic} of the verdicts are automatic: no person has looked")
    scores = bench.scores(bench.net.head)
    if "error" in found:
        bench.tell_errors()
    bench.tell_unlike(scores)
    told = {
        "format": 1,
        "kind": "repair",
        **dict(about or {}),
        "audit": str(audit.folder),
        "model": model,
        "of": of,
        "folder": str(out),
        "facts": dict(facts or {}),
        "classes": list(audit.classes),
        "settings": left.settings.to_dict(),
        "seeds": left.seeds,
        "device": bench.device.describe(),
        "bias": data.bias,
        "repaired": bench.repaired(spurious),
        "sizes": bench.sizes(),
        "notes": bench.notes,
        "before": scores,
        "methods": {name: found[name] for name in _in_order(found, chosen)},
        "first": "low" if left.methods and "low" in found else chosen[0],
    }
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    for name, head in nets.items():
        bench.save(name, head, out / f"{name}.safetensors", seeds[0])
    write_text(out / "repair.json", text)
    if fresh:
        remove_left(out, [name for name in get_args(MethodName) if name not in found])
    plain_values: dict[str, Any] = json.loads(text)
    return plain_values


class _Run(NamedTuple):
    head: nn.Linear
    told: dict[str, Any]


class _Bench:
    """The audited model, and the images that it is tuned, chosen and measured on."""

    def __init__(
        self, audit: Audit, data: Splits, spurious: Mapping[int, set[int]],
        settings: TuneSettings, seed: int, device: Device, *, quiet: bool,
    ):  # fmt: skip
        self.audit, self.settings, self.seed, self.device = audit, settings, seed, device
        self.net = audit.model()
        self.notes: list[str] = []
        n = len(audit.classes)
        stores = {name: audit.store(data, name, self.net, device=device, quiet=quiet)
                  for name in ("train", "val", "test")}  # fmt: skip
        self.net = self.net.cpu()
        self.train: Store = stores["train"]
        self.y = audit.labels("train")
        y_val, s_val = audit.labels("val"), audit.spuriosity("val")
        both = halves(y_val, s_val, n, derive(seed, "repair", "halves"))
        ids = dict(zip(("select", "val"), both, strict=True))
        self.order = audit.ranking("train")
        usable = self.order.starts.diff() >= 2
        for part in ids.values():
            counts = rank(s_val[part], y_val[part], n).starts.diff()
            usable &= counts >= 2
        self._tell(sorted(spurious), usable, y_val)
        self.counts = end_sizes(self.order.starts.diff(), settings.k) * usable
        ids["test"] = torch.arange(len(data.test))
        mask, self.parts = aligned_mask(data), {}
        for name, rows in ids.items():
            split = "test" if name == "test" else "val"
            images = data.parts()[split].select(rows)
            s = audit.spuriosity(split)[rows]
            ranking = rank(s.where(usable[images.y], torch.nan), images.y, n)
            bias = data.bias if data.bias in images.attributes else None
            self.parts[name] = Part(stores[split].rows(rows), images, ranking, bias, mask)
        self.select = self.parts.pop("select")

    def _tell(self, judged: list[int], usable: Tensor, y_val: Tensor) -> None:
        """Say which classes are left out, or refuse where none is left."""
        names, ranked = self.audit.classes, self.order.starts.diff()
        counts = torch.bincount(y_val, minlength=len(names)).tolist()
        constant = [names[c] for c in judged if not ranked[c]]
        small = [c for c in judged if ranked[c] and not usable[c]]
        if not bool(usable.any()):
            said = [f"the spurious features of {name} do not vary" for name in constant]
            said += [f"{names[c]} has {int(ranked[c])} and {counts[c]}" for c in small]
            raise DataError(
                "no class can be repaired: each needs two training images, and four validation"
                " images, half of them to choose an epoch by and half to measure by"
                f" ({'; '.join(said)})"
            )
        if constant:
            self.notes.append(
                f"Left out, as their spurious features do not vary: {', '.join(constant)}"
            )
        if small:
            self.notes.append(
                "Left out, for fewer than two training or four validation images:"
                f" {', '.join(names[c] for c in small)}"
            )
        few = [names[c] for c in judged if usable[c] and counts[c] // 2 < FEW]
        if few:
            self.notes.append(
                f"Half of the validation images are fewer than {FEW} for {', '.join(few)}: epochs"
                " are chosen by a handful of images"
            )

    def tell_errors(self) -> None:
        """Say where error tuning has nothing to go by."""
        repaired = self.counts[self.y] > 0
        wrong = int(((self.audit.predicted("train") != self.y) & repaired).sum())
        if wrong < int(self.counts.sum()) // 10:
            self.notes.append(
                f"The model is wrong on {wrong:,} training images of these classes, and error"
                " tuning is filled up with random images: it is nearly the same as random tuning"
            )

    def tell_unlike(self, scores: Mapping[str, Any]) -> None:
        """Say where validation images do not show the gap that test images show."""
        val, test = (scores[part]["gap"] for part in ("val", "test"))
        if val["value"] is None or test["value"] is None:
            return
        if test["low"] > max(val["high"], self.settings.target):
            self.notes.append(
                f"Before the repair the gap was {100 * test['value']:+.1f} points on test images"
                f" and {100 * val['value']:+.1f} on validation images: these are probably as biased"
                " as the training images, and a poor guide to choosing an epoch"
            )

    def repaired(self, spurious: Mapping[int, set[int]]) -> list[dict[str, Any]]:
        """The classes that are repaired, what is spurious for them, and how many are tuned on."""
        return [
            {"class": c, "name": self.audit.classes[c], "features": sorted(spurious[c]),
             "k": int(self.counts[c]), "train": int(self.order.starts.diff()[c])}
            for c in self.counts.nonzero().flatten().tolist()
        ]  # fmt: skip

    def sizes(self) -> dict[str, int]:
        """Images by what they are for."""
        return {"select": len(self.select.y)} | {k: len(v.y) for k, v in self.parts.items()}

    def scores(self, head: nn.Module) -> dict[str, Any]:
        """What a last layer does on each part."""
        return {
            name: score(head, part, self.settings.ends, derive(self.seed, "repair", name))
            for name, part in self.parts.items()
        }

    def runs(
        self, name: MethodName, seeds: list[int], spurious: Mapping[int, set[int]]
    ) -> list[_Run]:
        """A run for each seed; one without a seed for what has no chance in it."""
        if name == "spufix":
            head = corrected(self.net.head, self._directions(spurious))
            return [_Run(head, {"seed": None, "parts": self._values(head)})]
        return [self._tuned(name, seed) for seed in seeds]

    def _tuned(self, name: MethodName, seed: int) -> _Run:
        ids = self._images(name, seed)
        others = torch.where(self.counts > 0, 0, self.settings.replay)
        ids = torch.cat([ids, drawn(self.y, others, derive(seed, "repair", "replay"))])
        judged = Judged(self.select.phi, self.select.y, self.select.ranking)
        tuned = tune_head(
            self.net.head, self.train.rows(ids), self.y[ids], judged, self.settings,
            seed=derive(seed, "repair", name),
        )  # fmt: skip
        told = {
            "seed": seed,
            "images": len(ids),
            "wrong": int((self.net.head(self.train.rows(ids)).argmax(1) != self.y[ids]).sum()),
            "chosen": tuned.chosen,
            "reached": tuned.reached,
            "log": plain(tuned.log),
            "parts": self._values(tuned.head),
        }
        return _Run(tuned.head, told)

    def _images(self, name: MethodName, seed: int) -> Tensor:
        """Training images to tune on, as many of each class whatever the method."""
        if name == "low":
            return lowest(self.order, self.counts)
        wrong = self.audit.predicted("train") != self.y if name == "error" else None
        return drawn(self.y, self.counts, derive(seed, "repair", name, "images"), wrong)

    def _directions(self, spurious: Mapping[int, set[int]]) -> dict[int, Any]:
        own_features = bool(self.audit.facts["model"]["is_encoder"])
        columns, found = self.audit.columns("train"), {}
        for c in self.counts.nonzero().flatten().tolist():
            mine = (self.y == c).nonzero().squeeze(1)
            judged = [self.audit.feature(c, f) for f in sorted(spurious[c])]
            own = [f.feature for f in judged if own_features and f.rank is not None]
            slots = [f.slot for f in judged if not (own_features and f.rank is not None)]
            weight = self.net.head.weight.detach()[c]
            try:
                found[c] = directions(self.train.rows(mine), weight, own, columns[mine][:, slots])
            except DataError as error:
                raise DataError(f"class {c} ({self.audit.classes[c]}): {error}") from None
        return found

    def _values(self, head: nn.Module) -> dict[str, dict[str, float | None]]:
        scores = self.scores(head)
        return {part: {n: found[n]["value"] for n in NUMBERS} for part, found in scores.items()}

    def save(self, name: MethodName, head: nn.Linear, path: Path, seed: int) -> None:
        """Write the whole model with another last layer."""
        net: Classifier = deepcopy(self.net)
        net.head = head
        if isinstance(head, CorrectedHead):
            net.spec = net.spec | {"corrections": len(head.of)}
        extra = net.spec.get("extra", {}) | {
            "classes": list(self.audit.classes),
            "seed": self.audit.facts.get("seed", 0),
            "method": f"repair-{name}",
            "repair": {"audit": str(self.audit.folder), "seed": seed}
            | ({} if name == "spufix" else self.settings.to_dict()),
        }
        save_classifier(net, path, extra)


def _methods(names: Sequence[str]) -> list[MethodName]:
    known = get_args(MethodName)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no repair '{name}'{suggest(name, list(known))} ({', '.join(known)})"
            )
    if not names:
        raise ConfigError(f"name at least one repair ({', '.join(known)})")
    return list(dict.fromkeys(names))  # type: ignore[arg-type]


def _in_order(found: Mapping[str, Any], chosen: Sequence[str]) -> list[str]:
    """As asked for; beside an earlier repair in the usual order."""
    return list(chosen) if len(found) == len(chosen) else [n for n in TITLES if n in found]


def _spurious(audit: Audit) -> dict[int, set[int]]:
    """What the verdicts say is spurious, or why there is nothing to repair."""
    if "val" not in audit.splits:
        raise DataError(
            f"{audit.folder} has no validation images, and a repair is chosen by them; audit again"
            " with a val_share above 0"
        )
    judged = audit.verdicts().aggregate()
    if not judged.pairs:
        raise DataError(
            f"no feature of {audit.folder} has been judged: a repair goes by what people say is"
            f" spurious. Ask them: truecue app {audit.folder}. Or give their answers as a file:"
            f" truecue audit DATA --out {audit.folder} --verdicts answers.csv"
        )
    spurious = judged.spurious()
    if not spurious:
        kinds = [pair.verdict for pair in judged.pairs.values()]
        raise DataError(
            f"none of the {len(kinds)} features judged in {audit.folder} is spurious"
            f" ({kinds.count('core')} core, {kinds.count('undecided')} undecided): there is"
            " nothing to repair"
        )
    return spurious


def _bring_up_to_date(audit: Audit) -> None:
    """Rank by the verdicts as they are now, where that has not been done."""
    try:
        gaps = audit.gaps()
    except DataError:
        gaps = {}
    if gaps.get("answers", {}).get("digest") != verdicts_digest(audit.verdicts().aggregate()):
        measure_gaps(
            audit, k=gaps.get("k"), stats_from=gaps.get("stats_from", "own"),
            seed=gaps.get("seed", 0),
        )  # fmt: skip


def _over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Means over seeds with Student's intervals; None for a single run."""
    if len(runs) < 2:
        return None
    return {
        part: {
            name: student_t([run["parts"][part][name] for run in runs]).to_dict()
            for name in NUMBERS
            if all(run["parts"][part][name] is not None for run in runs)
        }
        for part in runs[0]["parts"]
    }
