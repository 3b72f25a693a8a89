"""An audit from beginning to end: features, cues, gaps and the page that shows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from truecue.atomic import write_text
from truecue.audit.audit import Audit
from truecue.audit.automatic import MaskJudged, judge_by_masks
from truecue.audit.candidates import CueColumn, named_regions
from truecue.audit.components import component_columns
from truecue.audit.cue_table import CueTable
from truecue.audit.cues import LEAST, LEVEL, find_cues, too_few
from truecue.audit.features import logits_of
from truecue.audit.filedata import file_columns, files_of
from truecue.audit.make import AuditSettings, make_audit
from truecue.audit.masks import MaskFile
from truecue.audit.measure import measure_gaps
from truecue.audit.regions import Box
from truecue.audit.scores import score_columns
from truecue.audit.verdicts import Verdicts
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.features import digest_of
from truecue.engine.progress import counter
from truecue.metrics.spurious import StatsFrom
from truecue.nets.classifier import Classifier
from truecue.report.audit_page import write_audit_page

PIXELS = 4_096_000
"""Held-out images in which a cue is exchanged have together as many pixels: 1,000 of 64 pixels."""
FEWEST, MOST = 100, 1000
_VERSION = 2


class Audited(NamedTuple):
    """What `audit` gives back."""

    audit: Audit
    gaps: dict[str, Any]
    """What gaps.json holds."""
    cues: dict[str, Any] | None
    """What cues.json holds; None where no cues were asked about."""
    page: Path
    """index.html."""
    masked: list[MaskJudged] | None = None
    """What object masks say about each feature; None where none were given."""


def audit(
    out: Path | str,
    data: Splits,
    net: Classifier | None = None,
    *,
    encoder: Classifier | None = None,
    settings: AuditSettings | None = None,
    verdicts: Path | None = None,
    masks: Path | None = None,
    k: int | None = None,
    stats_from: StatsFrom = "own",
    cues: bool = True,
    core: Collection[str] = (),
    nuisance: Mapping[str, Box] | None = None,
    scores: Mapping[str, Classifier] | None = None,
    files: Path | None = None,
    pictures: int = 12,
    robust: bool = False,
    seed: int = 0,
    device: Device | None = None,
    facts: Mapping[str, Any] | None = None,
    fresh: bool = False,
    quiet: bool = True,
) -> Audited:
    """Ask of a classifier what it goes by, and write a folder and a page with the answers.

    `make_audit` lists and ranks by features, `find_cues` asks about properties and places that must
    not matter, `measure_gaps` measures. Killed and called again, it goes on where it was.

    Args:
        out: the audit's folder.
        data: the splits; attributes are not looked at.
        net: the model; None: the encoder with a new last layer.
        encoder: the network whose features are looked at; None: the model.
        settings: of the features; None: the defaults.
        verdicts: a CSV file of answers to add before measuring.
        masks: object masks of training images, a folder or an `.npz` file: features that no person
            has judged are judged by where they look, see `judge_by_masks`.
        k: images in each end; None: a fifth of each class.
        stats_from: see `measure_gaps`.
        cues: ask about cues beyond features.
        core: names of cues that may belong to the classes in this task; they raise no alarm.
        nuisance: regions that are known not to matter, see `find_cues`.
        scores: networks whose answers are asked about like cues, by name: biased networks of
            trained methods (`truecue.audit.scores.biased_networks`, or `Trained.others`). They see
            no bias labels and raise no alarm.
        files: the folder that the images' names are in, to ask about their files as well.
        pictures: features that are drawn on the page, those with the largest gaps.
        robust: whether the encoder was trained to be adversarially robust.
        seed: of everything that is drawn.
        device: where to compute; None: the best there is.
        facts: where the data comes from, see `truecue.train`.
        fresh: make it again where the folder holds an audit of something else. Verdicts are kept.
        quiet: show no progress.

    Raises:
        ConfigError: there is neither model nor encoder, or a setting is out of range.
        DataError: networks, cues, verdicts or masks do not fit the images.
        RunMismatch: the folder holds an audit of something else.
        StorageError: something could not be written.
    """
    device = device or Device()
    check_asked(out, data, verdicts=verdicts, masks=masks, core=core, nuisance=nuisance or {})
    done = make_audit(
        out, data, net, encoder=encoder, settings=settings, seed=seed, device=device, facts=facts,
        fresh=fresh, quiet=quiet,
    )  # fmt: skip
    if verdicts is not None:
        done.verdicts().read_csv(verdicts)
    masked = None if masks is None else judge_by_masks(done, data, masks, device=device)
    gaps = measure_gaps(done, k=k, stats_from=stats_from, seed=seed)
    table = None
    if cues:
        asker = _Asker(done, data, core, nuisance or {}, scores or {}, files, seed, device)
        table = asker.found(quiet=quiet)
    page = write_audit_page(
        done, data, pictures=pictures, robust=robust, device=device, quiet=quiet
    )
    return Audited(done, gaps, table, page, masked)


def check_asked(
    out: Path | str,
    data: Splits,
    *,
    verdicts: Path | None = None,
    masks: Path | None = None,
    core: Collection[str] = (),
    nuisance: Mapping[str, Box] | None = None,
) -> None:
    """Refuse what can be known to be wrong before anything is trained or encoded.

    Args:
        out: the audit's folder, where answers may be already.
        data: the splits.
        verdicts: a CSV file of answers; whether there are such features is known later.
        masks: a folder or an `.npz` file.
        core: names of cues.
        nuisance: regions by name.

    Raises:
        DataError: see `audit`.
    """
    _, height, width = data.train.shape
    if not data.train.encoded:
        named_regions(nuisance or {}, core, height, width)
    classes = data.train.classes

    def exists(c: int, feature: int) -> str:
        if 0 <= c < len(classes) and feature >= 0:
            return ""
        return (
            f"there is no class {c} with a feature {feature}; classes are 0 to {len(classes) - 1}"
        )

    if verdicts is not None:
        Verdicts(Path(out) / "verdicts.sqlite", exists).parse_csv(verdicts)
    if masks is not None:
        MaskFile(masks)


@dataclass(frozen=True)
class _Asker:
    """Asks about cues, or reads what was found."""

    audit: Audit
    data: Splits
    core: Collection[str]
    nuisance: Mapping[str, Box]
    scores: Mapping[str, Classifier]
    files: Path | None
    seed: int
    device: Device

    def found(self, *, quiet: bool) -> dict[str, Any]:
        """What cues.json holds; asked again where it was asked about something else."""
        key, path = self._key(), self.audit.folder / "cues.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["key"] == key:
                return found
        except (OSError, ValueError, LookupError, TypeError):
            pass  # not asked yet, or damaged: ask
        table = self._ask(quiet=quiet)
        shown = {f.name: _ends(table, f.name) for f in table.findings if f.verdict in _SHOWN}
        told = {"key": key} | table.to_dict() | {"ends": shown}
        write_text(path, json.dumps(told, indent=1, allow_nan=False) + "\n")
        return told

    def _key(self) -> str:
        facts = self.audit.facts
        asked = {
            "version": _VERSION,
            "model": facts["model"]["digest"],
            "splits": {name: part["digest"] for name, part in facts["splits"].items()},
            "components": facts.get("components"),
            "scores": {name: digest_of(net, head=True) for name, net in self.scores.items()},
            "core": sorted(self.core),
            "nuisance": {name: list(box) for name, box in sorted(self.nuisance.items())},
            "files": self.files is not None,
            "seed": self.seed,
        }
        return hashlib.blake2b(
            json.dumps(asked, sort_keys=True).encode(), digest_size=8
        ).hexdigest()

    def _ask(self, *, quiet: bool) -> CueTable:
        data, net = self.data, self.audit.model()
        if (reason := too_few(data.train, data.test)) is not None:
            k = len(data.train.classes)
            return CueTable((), data.train.classes, 1 / k, LEVEL, LEAST, 0, 0, (reason,))
        _, height, width = data.test.shape
        images = min(MOST, max(FEWEST, PIXELS // (height * width)))
        seen = self.audit.store(data, "test", net, device=self.device, quiet=quiet)  # encoded
        logits = logits_of(seen, net.cpu().head)
        with counter("exchanged", quiet=quiet, of="cues") as tell:
            return find_cues(
                data.train, data.test, logits, model=net.to(self.device.device),
                nuisance=self.nuisance, core=self.core, images=images, seed=self.seed,
                columns=lambda train, test: self._columns(train, test, quiet=quiet),
                device=self.device, progress=tell,
            )  # fmt: skip

    def _columns(self, train: Tensor, test: Tensor, *, quiet: bool) -> dict[str, CueColumn]:
        """File data, scores and components of the images that are measured."""
        rows = {"train": train, "test": test}
        found = score_columns(self.scores, self.data, rows, self.device, quiet=quiet)
        if self.files is not None:
            parts = (self.data.parts()[name].select(ids) for name, ids in rows.items())
            first, second = (files_of(part, self.files) for part in parts)
            if first is not None and second is not None:
                found |= file_columns(first, second)
        return found | component_columns(self.audit, self.data, rows, self.device, quiet=quiet)


_SHOWN = ("alarm", "suspect", "candidate")
_EACH = 8


def _ends(table: CueTable, name: str) -> dict[str, list[float]]:
    """Held-out images for whose class a cue speaks least, and most, with the strengths."""
    strength = table.strengths.get(name)
    if strength is None:
        return {"ids": [], "strengths": []}
    order = strength.nan_to_num(nan=float("inf")).argsort(stable=True)
    order = order[: int(strength.isfinite().sum())]
    each = min(_EACH, len(order) // 2)
    ids = [*order[:each].tolist(), *order[len(order) - each :].tolist()]
    return {"ids": ids, "strengths": [float(strength[i]) for i in ids]}
