"""What pages are made of: an audit's folder, its images, and other models beside it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from torch import Tensor

from truecue.app.probed import Probed
from truecue.audit.audit import Audit, Feature
from truecue.audit.direction_answers import DirectionAnswers
from truecue.audit.measure import measure_gaps, verdicts_digest
from truecue.audit.reviews import Reviews
from truecue.audit.verdicts import MINE, TIMEOUT, Aggregate, Judgement, PairVerdict
from truecue.data.sets import ImageSet, Splits
from truecue.errors import DataError, StorageError
from truecue.metrics.agreement import Null, null_gap
from truecue.metrics.ranking import EndHits, end_hits

SHOWN = 5
"""Images in a row of a feature's pictures."""


class Given(NamedTuple):
    """What one person has answered about a pair."""

    answer: str | None
    """None: skipped."""
    submitted: float


class Shown(NamedTuple):
    """The training images that a feature is shown with, and its values for them."""

    top: tuple[int, ...]
    least: tuple[int, ...]
    values: dict[int, float]


class Source:
    """An audit with its images.

    Args:
        audit: opened.
        data: the images that it was made of.
        others: audits of other models on the same images, for comparison.
        probes: directions of generators that can be judged.
        robust: whether the encoder was trained to be adversarially robust, so that amplified images
            mean something.

    Raises:
        DataError: the images, or those of another audit, are not the audit's.
    """

    def __init__(
        self, audit: Audit, data: Splits, *, others: Sequence[Audit] = (),
        probes: Sequence[Probed] = (), robust: bool = False,
    ):  # fmt: skip
        audit.check(data)
        self.audit, self.data, self.robust = audit, data, robust
        self.others, self.probes = tuple(others), tuple(probes)
        for other in others:
            for split in audit.splits:
                known = other.facts["splits"].get(split, {})
                if known.get("digest") != audit.facts["splits"][split]["digest"]:
                    raise DataError(
                        f"the {split} images of {other.folder} are not those of {audit.folder};"
                        " only models on the same images can be compared"
                    )
        self.tag = str(audit.facts["encoder"]["digest"])[:8]
        """Part of the addresses of pictures, so that browsers may keep them."""
        images = {name: str(part["digest"]) for name, part in audit.facts["splits"].items()}
        self.reviews = Reviews(audit.folder / "labels.sqlite", images)
        self.verdicts = audit.verdicts()
        self.directions = DirectionAnswers(self.verdicts)
        self._measuring = threading.Lock()
        self._judged: tuple[object, Aggregate] | None = None
        self.shown = lru_cache(4096)(self._shown)

    # --- classes, features, images

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.audit.classes

    def part(self, split: str) -> ImageSet:
        """The images of a split.

        Raises:
            DataError: there is no such split.
        """
        if split not in self.audit.splits:
            raise DataError(f"there is no split '{split}' ({', '.join(self.audit.splits)})")
        return self.data.parts()[split]

    def measured(self, split: str = "") -> str:
        """The split whose gaps are shown: the one asked for, or the test images."""
        held_out = [name for name in self.audit.splits if name != "train"]
        if split and split not in held_out:
            raise DataError(f"gaps are measured on {' and '.join(held_out)} images; not '{split}'")
        return split or held_out[-1]

    def is_cue(self, feature: int) -> bool:
        """Whether this is another cue, which has no map, and not one of the encoder's features."""
        return feature >= int(self.audit.facts["encoder"]["features"])

    def about(self, class_index: int) -> dict[str, str]:
        """What classes.json in the audit's folder says about a class: group, definition, link."""
        return self._about().get(self.classes[class_index], {})

    @lru_cache(1)  # noqa: B019
    def _about(self) -> dict[str, dict[str, str]]:
        path = self.audit.folder / "classes.json"
        if not path.is_file():
            return {}
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return {
                str(name): {key: str(entry[key]) for key in _ABOUT if entry.get(key)}
                for name, entry in told.items()
            }
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} must hold, for names of classes, {', '.join(_ABOUT)}: {error}"
            ) from None

    def _shown(self, class_index: int, feature: int) -> Shown:
        """The images that a feature is shown with."""
        slot = self.audit.feature(class_index, feature).slot
        top = self.audit.strongest(class_index, feature, SHOWN)
        least = [i for i in self.audit.weakest(class_index, feature, SHOWN) if i not in top]
        column = self.audit._array("train", "columns")
        return Shown(tuple(top), tuple(least), {i: float(column[i, slot]) for i in (*top, *least)})

    # --- verdicts

    def judged(self) -> Aggregate:
        """Verdicts of all pairs; read again when the file has changed."""
        stamp = self._stamp()
        if self._judged is None or self._judged[0] != stamp:
            self._judged = stamp, self.verdicts.aggregate()
        return self._judged[1]

    def verdict(self, feature: Feature) -> PairVerdict | None:
        """The verdict about one feature of a class; None: nobody has answered."""
        return self.judged().pairs.get((feature.class_index, feature.feature))

    def votes(self, class_index: int, feature: int) -> list[Judgement]:
        """All answers about one feature of a class."""
        query = (
            "SELECT annotator, answer, confidence, reason, submitted FROM answers"
            f" WHERE class = ? AND feature = ? AND {MINE} ORDER BY submitted"
        )
        rows = self._read(query, class_index, feature, *self.verdicts.subject)
        return [
            Judgement(class_index, feature, who, answer, confidence, reason, submitted=at)
            for who, answer, confidence, reason, at in rows
        ]

    def given(self, annotator: str) -> dict[tuple[int, int], Given]:
        """What one person has answered about which pairs."""
        query = (
            f"SELECT class, feature, answer, submitted FROM answers WHERE annotator = ? AND {MINE}"
        )
        rows = self._read(query, annotator, *self.verdicts.subject)
        return {(c, f): Given(answer, at) for c, f, answer, at in rows}

    def people(self) -> list[tuple[str, int, int]]:
        """Annotators with their answers and skipped pairs, by name."""
        query = (
            "SELECT annotator, count(answer), count(*) - count(answer) FROM answers"
            f" WHERE {MINE} GROUP BY annotator ORDER BY annotator"
        )
        rows = self._read(query, *self.verdicts.subject)
        return [(who, n, skipped) for who, n, skipped in rows]

    def gold(self) -> dict[tuple[int, int], str]:
        """Pairs whose right answer is known."""
        query = f"SELECT class, feature, answer FROM gold WHERE {MINE} ORDER BY class, feature"
        rows = self._read(query, *self.verdicts.subject)
        return {(c, f): answer for c, f, answer in rows}

    def undo(self, annotator: str) -> tuple[int, int] | None:
        """Take back the last answer of a person; the pair that it was about."""
        known = {(f.class_index, f.feature) for f in self.audit.pairs()}
        given = {pair: g for pair, g in self.given(annotator).items() if pair in known}
        if not given:
            return None
        pair = max(given, key=lambda p: given[p].submitted)
        self.verdicts.remove(*pair, annotator)
        return pair

    def _stamp(self) -> object:
        """Something that changes when the file of answers does."""
        path = self.verdicts.path
        files = [path, path.with_name(f"{path.name}-wal")]
        return [(f.stat().st_mtime_ns, f.stat().st_size) if f.exists() else None for f in files]

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        path = self.verdicts.path
        if not path.exists():
            return []
        address = f"file:{quote(str(path.resolve()))}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=TIMEOUT)) as db:
                return db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error) or "no such table" in str(error):
                raise DataError(f"{path} is not a file of answers: {error}") from None
            raise StorageError(
                f"{path} could not be read: {error}; answers stored before are intact"
            ) from error

    # --- gaps

    def gaps(self) -> dict[str, Any]:
        """What gaps.json holds; it is measured where it is absent."""
        path = self.audit.folder / "gaps.json"
        if not path.is_file():
            self.measure()
        return self._gaps(path.stat().st_mtime_ns)

    @lru_cache(2)  # noqa: B019
    def _gaps(self, _stamp: int) -> dict[str, Any]:
        # whoever wrote the file, such as `truecue audit`, has written rankings as well
        self.audit = self._again()
        return self.audit.gaps()

    def _again(self) -> Audit:
        """The audit, read anew.

        Raises:
            DataError: it was made again from something else.
        """
        audit = Audit(self.audit.folder)
        if any(audit.facts[key] != self.audit.facts[key] for key in _SAME):
            raise DataError(
                f"{audit.folder} holds another audit than when the app was started; stop the app"
                " and start it again"
            )
        return audit

    def by_verdicts(self, split: str) -> dict[str, Any] | None:
        """Gaps by the verdicts; None where nothing was judged spurious when they were measured."""
        found: dict[str, Any] | None = self.gaps()["splits"][split]["verdicts"]
        return found

    def of_pairs(self, split: str) -> dict[tuple[int, int], dict[str, Any]]:
        """The gap of every feature as if it alone were spurious."""
        rows = self.gaps()["splits"][split]["pairs"]
        return {(row["class"], row["feature"]): row for row in rows}

    def is_stale(self) -> bool:
        """Whether verdicts have changed since gaps were measured."""
        return bool(self.gaps()["answers"]["digest"] != verdicts_digest(self.judged()))

    def measure(self) -> None:
        """Rank all images by the verdicts and measure gaps; readers see old or new files."""
        with self._measuring:
            before = {}
            path = self.audit.folder / "gaps.json"
            if path.is_file():
                before = {k: v for k, v in self.audit.gaps().items() if k in _MEASURED}
            fresh = self._again()
            measure_gaps(fresh, **before)
            self.audit = fresh

    # --- several models

    def models(self) -> list[str]:
        """Names of the models: the audit's own first."""
        return [folder.name for folder in (a.folder.resolve() for a in (self.audit, *self.others))]

    def families(self) -> list[str]:
        """The networks that the models are."""
        return [str(a.facts["model"].get("arch")) for a in (self.audit, *self.others)]

    def right(self, split: str) -> Tensor:
        """Whether each model is right about each image: bool [models, n]."""
        y = self.audit.labels(split)
        return torch.stack([a.predicted(split) == y for a in (self.audit, *self.others)])

    def ends(self, split: str) -> EndHits | None:
        """Right predictions of all models at both ends of the ranking by the verdicts."""
        if self.by_verdicts(split) is None:
            return None
        return end_hits(self.right(split), self.audit.ranking(split), self.gaps()["k"])

    def null(self, split: str) -> Null:
        """What random orders give for all models together; drawn once for each measurement."""
        return self._null(split, (self.audit.folder / "gaps.json").stat().st_mtime_ns)

    @lru_cache(4)  # noqa: B019
    def _null(self, split: str, _stamp: int) -> Null:
        k, seed = self.gaps()["k"], self.gaps()["seed"]
        return null_gap(self.right(split), self.audit.ranking(split), k, seed=seed)

    # --- directions

    def probed(self, probe: int) -> Probed:
        """A folder of probed directions.

        Raises:
            DataError: there is no such folder.
        """
        if not 0 <= probe < len(self.probes):
            raise DataError(f"there are {len(self.probes)} folders of directions; not {probe + 1}")
        return self.probes[probe]

    # --- what other commands have left in the folder

    def cues(self) -> dict[str, Any] | None:
        """The table of candidate cues; None where there is none."""
        for path in sorted(self.audit.folder.glob("*.json")):
            found = _json(path)
            if found.get("kind") == "cues":
                return found
        return None

    def repair(self) -> dict[str, Any] | None:
        """What the last repair of this model has written; None where there was none.

        One of another model, or on other images, counts for nothing.
        """
        path = self.audit.folder / "repair" / "repair.json"
        if not path.is_file():
            return None
        told, model = _json(path), self.audit.facts["model"]["digest"]
        images = {name: part["digest"] for name, part in self.audit.facts["splits"].items()}
        was = told.get("of", {}).get("images", images)
        return told if told.get("model", model) == model and was == images else None

    def since(self, told: dict[str, Any]) -> list[str]:
        """What has changed since a repair, in words."""
        was = told.get("of", {})
        now = {"verdicts": verdicts_digest(self.judged()), "scaling": self.gaps()["stats_from"]}
        return [words for key, words in _CHANGED.items() if was.get(key, now[key]) != now[key]]


_ABOUT = ("group", "definition", "link")
_SAME = ("splits", "encoder", "model", "table")
_CHANGED = {"verdicts": "verdicts have changed", "scaling": "features are scaled otherwise"}
_MEASURED = ("k", "stats_from", "seed")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}
