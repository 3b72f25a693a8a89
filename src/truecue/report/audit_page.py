"""The page of an audit: alarms, verdicts, candidates with pictures, and what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from truecue.atomic import write_text
from truecue.audit.audit import Audit, Feature
from truecue.audit.measure import Candidate, candidates_by_gap
from truecue.config import assignments
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.progress import counter
from truecue.errors import DataError
from truecue.report.features import FeaturePictures, Shown
from truecue.report.gaps import gap_bars
from truecue.report.page import environment
from truecue.report.ranked import ranked_strip
from truecue.report.report import sound
from truecue.report.sheet import media_type
from truecue.report.svg import data_address
from truecue.report.view import SPACE, percent, points

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGES = 5
"""Most and least activating images that a feature is shown with."""
ROWS = 100
"""Candidates in the table, at most; gaps.json has all."""
UNLIKE = 0.1
"""Accuracy by which test images are harder than validation images where the two are unlike."""
_LOUD = ("alarm", "suspect")
_LEARNED = ("score", "feature")
"""Kinds of cues that networks have learned: they never alarm, but wait for a person."""
_WORDS = {"train": "training", "val": "validation", "test": "test"}


def write_audit_page(
    audit: Audit, data: Splits, *, pictures: int = 12, robust: bool = False,
    device: Device | None = None, quiet: bool = True,
) -> Path:  # fmt: skip
    """Write index.html into an audit's folder: one file that loads nothing.

    Args:
        audit: measured (`measure_gaps`); cues.json is shown where it is there.
        data: the audited images.
        pictures: features that are drawn, those with the largest gaps.
        robust: whether the encoder was trained to be adversarially robust.
        device: where pictures are computed; None: the best there is.
        quiet: show no progress.

    Returns:
        The path of the page.

    Raises:
        DataError: the images are not those of the audit, or nothing has been measured.
        StorageError: the page could not be written.
    """
    audit.check(data)
    gaps, cues = audit.gaps(), read_cues(audit)
    candidates = candidates_by_gap(audit)
    drawn, notes = _draw(
        audit, data.train, candidates[:pictures], robust, device or Device(), quiet=quiet
    )
    facts = audit.facts
    names = [name for name in ("val", "test") if name in gaps["splits"]]
    judged = gaps["splits"][names[-1]]["verdicts"]
    page = environment().get_template("audit.html.j2").render(
        data=facts.get("data"),
        created=None,
        headline=_headline(cues, judged, names[-1]),
        lead=_lead(audit),
        notes=facts["notes"],
        cues=_cue_table(cues, data.test, audit) if cues and cues["cues"] else None,
        unasked=[sentence(note) for note in cues["notes"]] if cues and not cues["cues"] else [],
        verdicts=judged and _verdicts(judged, audit, names[-1]),
        split=_WORDS[names[0]],
        splits=[_WORDS[name] for name in names],
        features=[_shown(c, audit, picture, names)
                  for c, picture in zip(candidates, drawn, strict=False)],
        picture_notes=[sentence(note) for note in notes],
        components=bool(facts.get("components")),
        rows=[_row(c, audit, names) for c in candidates[:ROWS]],
        more=len(candidates) if len(candidates) > ROWS else None,
        steps=_steps(audit, cues, judged),
        facts=_facts(audit),
    )  # fmt: skip
    write_text(audit.folder / "index.html", sound(page))
    return audit.folder / "index.html"


def read_cues(audit: Audit) -> dict[str, Any] | None:
    """What cues.json of an audit holds; None where no cues were asked about.

    Raises:
        DataError: the file is damaged.
    """
    path = audit.folder / "cues.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; delete it and audit again") from None
    return found


def _draw(
    audit: Audit, train: ImageSet, candidates: Sequence[Candidate], robust: bool, device: Device,
    *, quiet: bool,
) -> tuple[list[str | None], tuple[str, ...]]:  # fmt: skip
    """A picture for each candidate as a data address, and what a reader must know about them."""
    if train.encoded:
        return [None] * len(candidates), (
            "There are no pictures: the audit saw features of a frozen encoder, not images.",
        )
    source = FeaturePictures(audit.encoder(), train, device, robust=robust)
    drawn: list[str | None] = []
    with counter("drawn", quiet=quiet, of="pictures") as tell:
        for i, candidate in enumerate(candidates):
            f = candidate.feature
            ends = audit.strongest, audit.weakest
            top, least = (_ids(end(f.class_index, f.feature, IMAGES), audit, f) for end in ends)
            number = None if f.rank is None else f.feature  # other cues have no heat maps
            picture = source.picture(f.class_index, number, top, least)
            drawn.append(data_address(picture, media_type(picture)))
            tell(i + 1, len(candidates))
    return drawn, source.notes


def _ids(ids: list[int], audit: Audit, f: Feature) -> Shown:
    at = torch.tensor(ids)
    return Shown(at, audit.columns("train")[at, f.slot])


def _headline(
    cues: Mapping[str, Any] | None, judged: Mapping[str, Any] | None, split: str
) -> tuple[str, str]:
    loud = [c["name"] for c in cues["cues"] if c["verdict"] == "alarm"] if cues else []
    if loud:
        shown = ", ".join(loud[:3]) + (f" and {len(loud) - 3} more" if len(loud) > 3 else "")
        return f"The model goes by what should not matter: {shown}.", "bad"
    if judged and judged["macro"]["value"] is not None:
        gap, null = judged["macro"], judged["null"]
        beyond = null["high"] is not None and gap["low"] > max(0.0, null["high"])
        text = (
            (
                f"Without its spurious cues the model is right {points(gap['value'])} points"
                f" {'less' if gap['value'] > 0 else 'more'} often on {_WORDS[split]} images."
            )
            .replace("+", "")
            .replace("−", "")
        )
        return text, "bad" if beyond else "unclear"
    if cues and cues["cues"]:
        return "No alarm. Candidates wait for a person to judge them.", "unclear"
    return "Candidates wait for a person to judge them.", "unclear"


def _lead(audit: Audit) -> str:
    sizes = ", ".join(f"{part['n']:,} {_WORDS[n]}" for n, part in audit.facts["splits"].items())
    right = {n: float((audit.predicted(n) == audit.labels(n)).float().mean()) for n in audit.splits}
    shares = " and ".join(
        f"{percent(right[n], 1)} of the {_WORDS[n]} images" for n in audit.splits if n != "train"
    )
    text = (
        f"A classifier of {len(audit.classes)} classes, right on {shares}, was asked what it goes"
        f" by ({sizes} images). No bias label was looked at."
    )
    if (trained := audit.facts.get("trained")) is not None:
        text += (
            f" No model was given: the audit trained this one ({trained['arch']}, epoch"
            f" {trained['kept']} of {trained['epochs']}). What it goes by, another one may not; to"
            " audit yours, give --model."
        )
    if "val" in right and right["test"] < right["val"] - UNLIKE:
        text += (
            " Validation images are much easier for it than test images: they are probably as"
            " biased as the training images, and the gaps on them too small."
        )
    return text


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _cue_table(cues: Mapping[str, Any], test: ImageSet, audit: Audit) -> dict[str, Any]:
    name = place(audit)
    rows = [c for c in cues["cues"] if c["verdict"] in {*_LOUD, "candidate"}]
    quiet = [c for c in cues["cues"] if c not in rows and c["used"] is not None]
    shown = rows + quiet[: max(0, 8 - len(rows))]
    return {
        "pairs": f"{cues['pairs']:,}",
        "level": f"{cues['level']:g}",
        "least": f"{100 * cues['least']:g}",
        "chance": percent(cues["chance"], 1),
        "rows": [_cue_row(c) for c in shown],
        "rest": [c["name"] for c in cues["cues"] if c not in shown],
        "notes": [sentence(note) for note in cues["notes"]],
        "alarms": [
            {
                "name": c["name"], "verdict": c["verdict"],
                "why": sentence(c["why"]),
                "strip": ends_strip(cues.get("ends", {}).get(c["name"]), test, audit),
            }
            for c in cues["cues"]
            if c["verdict"] in _LOUD or (c["verdict"] == "candidate" and c["kind"] == "score")
        ],
        "next": [
            [(part, bool(i % 2))
             for i, part in enumerate(sentence(step.replace("DATA", name)).split("`"))]
            for step in dict.fromkeys(
                step
                for c in cues["cues"] if c["verdict"] in _LOUD or c["kind"] in _LEARNED
                for step in c["next"][: None if c["verdict"] in _LOUD else 1]  # look first
            )
        ],
    }  # fmt: skip


def _cue_row(cue: Mapping[str, Any]) -> dict[str, Any]:
    tells, hangs = cue["available"], cue["used"]
    return {
        "name": cue["name"],
        "about": cue["about"],
        "verdict": cue["verdict"],
        "tells": ("–", "") if tells is None else (
            percent(tells["value"]),
            f"{100 * tells['low']:.0f}–{100 * tells['high']:.0f}{SPACE}%",
        ),
        "hangs": ("–", "") if hangs is None else (points(hangs["value"]), _between(hangs)),
        "q": "–" if cue["q"] is None else _q(cue["q"]),
    }  # fmt: skip


def ends_strip(ends: Mapping[str, Any] | None, test: ImageSet, audit: Audit) -> str | None:
    """The images at both ends of a cue as a data address; None where there are too few.

    Args:
        ends: `ids` and `strengths` of a cue, from cues.json.
        test: the test images.
        audit: the audit, for what the model says.
    """
    if not ends or len(ends["ids"]) < 2 or test.encoded:
        return None
    strengths = torch.full((len(test),), float("nan"))
    order = torch.tensor(ends["ids"])
    strengths[order] = torch.tensor(ends["strengths"])
    names = "speaks least", "speaks most"
    each = len(order) // 2
    predicted = audit.predicted("test")
    strip = ranked_strip(test, order, strengths, predicted, k=each, rows=names, ranks=False)
    return data_address(strip, media_type(strip))


def _verdicts(judged: Mapping[str, Any], audit: Audit, split: str) -> dict[str, Any]:
    gap, null, rows = judged["macro"], judged["null"], judged["classes"]
    answers = audit.gaps()["answers"]
    counts = (
        f"{answers['pairs']} candidates were judged: {answers['spurious']} spurious,"
        f" {answers['core']} core, {answers['undecided']} undecided."
    )
    if answers.get("automatic"):
        counts += (
            f" {answers['automatic']} of these verdicts are automatic: no person has looked at the"
            " features."
        )
    if not rows or gap["value"] is None:
        return {"said": f"{counts} No class has enough images for a gap.", "figure": None}
    text = (
        f"{counts} On {_WORDS[split]} images the model is right on {percent(judged['high'], 1)}"
        f" where the spurious cues are strong and on {percent(judged['low'], 1)} where they are"
        f" weak: a gap of {points(gap['value'])} points ({_between(gap)}) over {gap['n']} classes."
        f" Random orders give {points(null['low'])} to {points(null['high'])}."
    )
    bands = np.array([row["null"] for row in rows], dtype=np.float64)
    values, low, high = (
        np.array([row["gap"][key] for row in rows]) for key in ("value", "low", "high")
    )
    band = float(bands[:, 0].mean()), float(bands[:, 1].mean())
    figure = gap_bars([row["name"] for row in rows], values, low, high, band)
    return {"said": text, "figure": data_address(figure.encode()), "split": _WORDS[split]}


def _shown(c: Candidate, audit: Audit, picture: str | None, names: Sequence[str]) -> dict[str, Any]:
    f = c.feature
    parts = (
        []
        if f.rank is None
        else [f"rank {f.rank}, {percent(f.share)} of the positive contributions to the logit"]
    )
    parts += ["neural PCA: part of the class's logit"] if audit.is_component(f) else []
    for name in names:
        row, word = c.gaps[name], _WORDS[name]
        if "gap" not in row:
            parts.append(f"{word}: {row['why']}")
            continue
        parts.append(
            f"{word}: right on {percent(row['low']['value'])} where it is weak,"
            f" {percent(row['high']['value'])} where it is strong"
            f" (gap {points(row['gap']['value'])}, q {_q(row['q'])})"
        )
    return {
        "title": f"{audit.classes[f.class_index]}, {f.name}",
        "numbers": " · ".join(parts),
        "verdict": c.said,
        "picture": picture,
    }


def _row(c: Candidate, audit: Audit, names: Sequence[str]) -> dict[str, Any]:
    rows = [c.gaps[name] for name in names]
    return {
        "class": audit.classes[c.feature.class_index],
        "name": c.feature.name,
        "share": percent(c.feature.share),
        "gaps": [
            (points(row["gap"]["value"]), _between(row["gap"])) if "gap" in row else ("–", "")
            for row in rows
        ],
        "q": _q(rows[-1]["q"]) if "q" in rows[-1] else "–",
        "verdict": c.said or "–",
    }


def _steps(
    audit: Audit, cues: Mapping[str, Any] | None, judged: Mapping[str, Any] | None
) -> list[tuple[str, str | None]]:
    where = shlex.quote(str(audit.folder))
    steps: list[tuple[str, str | None]] = []
    if judged is None:
        steps.append((
            "Judge the candidates in a browser: is what a feature highlights part of the object?"
            " About half a minute for each. Audit again by the same command afterwards, and the"
            " numbers of the verdicts are here, too.",
            f"truecue app {where}",
        ))  # fmt: skip
    else:
        steps.append((
            "Repair the model's last layer on images without the spurious cues. It takes seconds"
            " and may cost some accuracy on images that have them; the page of the repair says how"
            " much.",
            f"truecue repair {where}",
        ))  # fmt: skip
    if cues and cues["verdict"] == "alarm":
        steps.append((
            "Train anew by a method that needs no bias labels, and compare: it takes about twice"
            " the time of plain training, and may cost accuracy on images that follow the cue.",
            f"truecue train lff {place(audit)}",
        ))  # fmt: skip
    steps.append((
        "Look whether images of one class are wrongly labelled or cut: the weakest images of a"
        " strong feature are often those.",
        None,
    ))  # fmt: skip
    return steps


def place(audit: Audit) -> str:
    """What commands call the images, with the settings that make them these, for a shell."""
    words = [str(audit.facts.get("place") or audit.facts.get("data") or "DATA")]
    for pair in assignments(audit.facts.get("changed") or {}):
        words += ["--set", f"data.{pair}"]
    return shlex.join(words)


def _facts(audit: Audit) -> list[tuple[str, str]]:
    found = audit.facts
    encoder, settings = found["encoder"], found["settings"]
    rows = [
        ("Data", found.get("data")),
        ("Command", found.get("command")),
        ("Model", found["model"]["arch"]),
        ("Features from", "the model itself" if found["model"]["is_encoder"] else encoder["arch"]),
        ("Labels used", "class labels"),
        ("Importance over", f"training images, rule '{settings['group']}'"),
        ("Images in each end", str(audit.gaps()["k"] or "a fifth of each class")),
        ("Seed", str(found["seed"])),
        ("Device", found.get("device")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items())),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _between(found: Mapping[str, Any]) -> str:
    low, high = (points(found[key]) for key in ("low", "high"))
    return f"{low} to {high}"


def _q(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
