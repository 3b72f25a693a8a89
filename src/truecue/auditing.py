"""An audit from beginning to end: features, cues, gaps and the page that shows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from truecue.atomic import write_text
from truecue.audit.audit import Audit
from truecue.audit.automatic import MaskJudged, judge_by_masks
from truecue.audit.cue_table import CueTable
from truecue.audit.cues import find_cues
from truecue.audit.features import logits_of
from truecue.audit.filedata import file_columns, files_of
from truecue.audit.make import AuditSettings, make_audit
from truecue.audit.measure import measure_gaps
from truecue.audit.regions import Box
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.progress import counter
from truecue.errors import DataError
from truecue.metrics.spurious import StatsFrom
from truecue.nets.classifier import Classifier
from truecue.report.audit_page import write_audit_page

PIXELS = 4_096_000
"""Held-out images in which a cue is exchanged have together as many pixels: 1,000 of 64 pixels."""
FEWEST, MOST = 100, 1000
_VERSION = 1


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
        try:
            table = _cues(done, data, core, nuisance or {}, files, seed, device, quiet=quiet)
        except DataError as error:
            raise DataError(
                f"{error}. Features and gaps are kept in {out}; --no-cues (cues=False) shows them"
                " without asking about cues"
            ) from None
    page = write_audit_page(
        done, data, pictures=pictures, robust=robust, device=device, quiet=quiet
    )
    return Audited(done, gaps, table, page, masked)


def _cues(
    audit: Audit, data: Splits, core: Collection[str], nuisance: Mapping[str, Box],
    files: Path | None, seed: int, device: Device, *, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Ask about cues, or read what was found."""
    asked = {
        "version": _VERSION,
        "model": audit.facts["model"]["digest"],
        "splits": {name: part["digest"] for name, part in audit.facts["splits"].items()},
        "core": sorted(core),
        "nuisance": {name: list(box) for name, box in sorted(nuisance.items())},
        "files": files is not None,
        "seed": seed,
    }
    key = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=8).hexdigest()
    path = audit.folder / "cues.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.get("key") == key:
            return found
    except (OSError, ValueError):
        pass  # not asked yet, or damaged: ask
    table = _ask(audit, data, core, nuisance, files, seed, device, quiet=quiet)
    shown = {f.name: _ends(table, f.name) for f in table.findings if f.verdict in _SHOWN}
    told = {"key": key} | table.to_dict() | {"ends": shown}
    write_text(path, json.dumps(told, indent=1, allow_nan=False) + "\n")
    return told


def _ask(
    audit: Audit, data: Splits, core: Collection[str], nuisance: Mapping[str, Box],
    files: Path | None, seed: int, device: Device, *, quiet: bool,
) -> CueTable:  # fmt: skip
    net = audit.model()
    _, height, width = data.test.shape
    images = min(MOST, max(FEWEST, PIXELS // (height * width)))
    columns = {}
    if files is not None:
        train, test = files_of(data.train, files), files_of(data.test, files)
        if train is not None and test is not None:
            columns = file_columns(train, test)
    seen = audit.store(data, "test", net, device=device, quiet=quiet)  # encoded already
    logits = logits_of(seen, net.cpu().head)
    with counter("exchanged", quiet=quiet, of="cues") as tell:
        return find_cues(
            data.train, data.test, logits, model=net.to(device.device), nuisance=nuisance,
            columns=columns, core=core, images=images, seed=seed, device=device, progress=tell,
        )  # fmt: skip


_SHOWN = ("alarm", "suspect")
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
