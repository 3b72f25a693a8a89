"""An audit: the folder that holds a model's candidate features, rankings, verdicts and gaps.

run.toml                     what was asked for
audit.json                   classes, features of each class, hashes, circumstances
model.safetensors, .json     the model; encoder.safetensors, .json where another one was used
SPLIT/labels.npy             int64 [n]
SPLIT/predicted.npy          int64 [n], by the model
SPLIT/grouped.npy            int64 [n], by the encoder's head
SPLIT/columns.npy            float32 [n, w]: of every image the features listed for its class
SPLIT/order.npy              int32 [w, n]: images class after class, ascending by one feature
SPLIT/spuriosity.npy         float64 [n], and SPLIT/ranking.npy: where there are verdicts
verdicts.sqlite              what people said
gaps.json                    accuracy of both ends, for every pair and by the verdicts
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truecue.audit.features import Store, encode
from truecue.audit.verdicts import Subject, Verdicts
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.features import digest_of, digest_of_set
from truecue.errors import ConfigError, DataError
from truecue.metrics.ranking import Ranking
from truecue.nets.classifier import Classifier, load_classifier

FORMAT = 1


class Feature(NamedTuple):
    """One of a class's features: a candidate, until somebody has judged it."""

    class_index: int
    feature: int
    """Number of the encoder's feature; those of other cues come after the encoder's."""
    slot: int
    """The column of the class's features that it is in."""
    rank: int | None
    """1: the largest contribution to the class's logit; None for other cues."""
    importance: float | None
    """Mean contribution to the logit; None for other cues."""
    share: float | None
    """Of all positive contributions to the class's logit; None for other cues."""
    name: str
    """`feature 17`, or a cue's name."""


class Page(NamedTuple):
    """Part of one class's ranking."""

    ids: npt.NDArray[np.int64]
    """[m], positions of images in their split, ascending by score."""
    scores: npt.NDArray[np.float64]
    """[m], the feature's values, or spuriosity."""
    total: int
    """Images in the class's ranking."""


class Audit:
    """An audit's folder, opened; `make_audit` makes one.

    Args:
        folder: as given to `make_audit`.

    Raises:
        DataError: the folder holds no finished audit, or one of a later version.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        facts = _read_json(self.folder / "audit.json")
        if facts is None:
            raise DataError(
                f"{self.folder} holds no finished audit (audit.json); make one: truecue audit DATA"
                f" --out {self.folder}"
            )
        if facts.get("format") != FORMAT:
            raise DataError(
                f"{self.folder} was written in format {facts.get('format')!r}, and this version"
                f" reads {FORMAT}"
            )
        self.facts: dict[str, Any] = facts
        """What audit.json holds."""
        self.classes: tuple[str, ...] = tuple(facts["classes"])
        self.splits: tuple[str, ...] = tuple(facts["splits"])
        """`train`, `val` where there are validation images, and `test`."""
        self._arrays: dict[tuple[str, str], npt.NDArray[Any]] = {}
        self._starts: dict[str, npt.NDArray[np.int64]] = {}
        names = Feature._fields[1:]
        self._features: dict[int, list[Feature]] = {
            c: [Feature(c, *(row[name] for name in names)) for row in entry["features"]]
            for c, entry in enumerate(facts["table"])
        }

    # --- classes and their features

    @property
    def width(self) -> int:
        """Slots for features of a class."""
        return int(self.facts["width"])

    def features(self, class_index: int) -> list[Feature]:
        """A class's features, the most important first, other cues last.

        Raises:
            DataError: there is no such class.
        """
        if class_index not in self._features:
            raise DataError(
                f"there is no class {class_index}; the classes are 0 to {len(self.classes) - 1}"
            )
        return self._features[class_index]

    def pairs(self) -> list[Feature]:
        """All features of all classes."""
        return [feature for found in self._features.values() for feature in found]

    def is_component(self, feature: Feature) -> bool:
        """Whether it is a principal component of its class (neural PCA), and no cue given by name.

        Components come last, after other cues.
        """
        found = self.facts.get("components")
        return found is not None and feature.slot >= self.width - int(found["each"])

    def feature(self, class_index: int, feature: int) -> Feature:
        """One feature of a class.

        Raises:
            DataError: there is no such class, or the feature is not among its features.
        """
        known = self.features(class_index)
        for found in known:
            if found.feature == feature:
                return found
        numbers = ", ".join(str(f.feature) for f in known) or "none"
        raise DataError(
            f"class {class_index} ({self.classes[class_index]}) has no feature {feature} in this"
            f" audit; its features are {numbers}"
        )

    # --- networks and images

    def model(self) -> Classifier:
        """The audited model, on the CPU, in evaluation mode.

        Raises:
            DataError: its files are absent, cannot be read, or are of another network.
        """
        return self._network("model", head=True)

    def encoder(self) -> Classifier:
        """The network whose features these are, with the head that importance goes by.

        Raises:
            DataError: see `model`.
        """
        if self.facts["model"]["is_encoder"]:
            return self.model()
        return self._network("encoder", head=False)

    def _network(self, name: str, *, head: bool) -> Classifier:
        path = self.folder / f"{name}.safetensors"
        try:
            net = load_classifier(path)
        except DataError as error:
            raise DataError(f"{error}. Making the audit again writes both files anew") from None
        if digest_of(net, head=head) != self.facts[name]["digest"]:
            raise DataError(
                f"{path} is not the {name} that audit.json is about; make the audit again"
            )
        return net

    def is_whole(self) -> bool:
        """Whether the arrays and networks that `make_audit` writes are there and fit audit.json."""
        try:
            for split in self.splits:
                n, w = int(self.facts["splits"][split]["n"]), self.width
                shapes = {"labels": (n,), "predicted": (n,), "grouped": (n,), "columns": (n, w),
                          "order": (w, n)}  # fmt: skip
                if any(self._array(split, name).shape != shapes[name] for name in shapes):
                    return False
            self.model()
            self.encoder()
        except DataError:
            return False
        return True

    def check(self, data: Splits) -> None:
        """Refuse images that are not those of the audit.

        Raises:
            DataError: a split is absent or differs; the message names it.
        """
        for name in self.splits:
            part = data.parts().get(name)
            if part is None or digest_of_set(part) != self.facts["splits"][name]["digest"]:
                raise DataError(
                    f"the {name} images are not those of {self.folder}: load them with the settings"
                    " and the seed in its run.toml, or audit these in another folder"
                )

    def store(
        self, data: Splits, split: str, net: Classifier, *, device: Device | None = None,
        quiet: bool = True,
    ) -> Store:  # fmt: skip
        """A network's features of a split, from the cache or encoded again.

        Raises:
            DataError: the images are not those of the audit.
        """
        self.check(data)
        device = device or Device()
        return encode(data.parts()[split], net, device, what=split, quiet=quiet)

    # --- numbers by image

    def labels(self, split: str) -> Tensor:
        """int64 [n]."""
        return self._tensor(split, "labels")

    def predicted(self, split: str) -> Tensor:
        """int64 [n], the model's predictions."""
        return self._tensor(split, "predicted")

    def columns(self, split: str) -> Tensor:
        """float32 [n, w], of every image the features listed for its class, by slot; nan: none."""
        return self._tensor(split, "columns")

    def spuriosity(self, split: str) -> Tensor:
        """float64 [n], by the verdicts; nan for classes without a spurious feature.

        Raises:
            DataError: there are no verdicts yet, or they have not been applied (`measure_gaps`).
        """
        return self._tensor(split, "spuriosity")

    def ranking(self, split: str, slot: int | None = None) -> Ranking:
        """Images of every class in ascending order.

        Args:
            split: one of `splits`.
            slot: by the feature in this slot, for classes that have one; None: by spuriosity.

        Raises:
            DataError: there is no such split, or there are no verdicts.
        """
        starts = torch.from_numpy(self._starts_of(split))
        if slot is None:
            order, have = self._tensor(split, "ranking").long(), ~self.spuriosity(split).isnan()
        else:
            order = torch.from_numpy(self._array(split, "order")[slot].astype(np.int64))
            classes = {
                c for c, found in self._features.items() if any(f.slot == slot for f in found)
            }
            mine = torch.tensor([c in classes for c in range(len(self.classes))])
            have = mine[self.labels(split)]
        counts = torch.zeros_like(starts[1:]).index_add_(0, self.labels(split), have.long())
        return Ranking(order[have[order]], torch.nn.functional.pad(counts.cumsum(0), (1, 0)))

    def page(
        self, split: str, class_index: int, feature: int | None = None, *, start: int = 0,
        count: int = 60,
    ) -> Page:  # fmt: skip
        """Some of a class's images in ascending order; reads no more than it gives.

        Args:
            split: one of `splits`.
            class_index: the class.
            feature: by which feature; None: by spuriosity.
            start: how many images come before; negative: counted from the strong end.
            count: images at most.

        Raises:
            DataError: there is no such split, class or feature, or there are no verdicts.
        """
        self.features(class_index)
        first, last = (int(v) for v in self._starts_of(split)[class_index : class_index + 2])
        total = last - first
        start = max(0, total + start) if start < 0 else min(start, total)
        rows = slice(first + start, min(first + start + count, last))
        if feature is None:
            ids = self._array(split, "ranking")[rows].astype(np.int64)
            scores = self._array(split, "spuriosity")[ids]
            if np.isnan(scores).any():
                ids, scores, total = ids[:0], scores[:0], 0
        else:
            slot = self.feature(class_index, feature).slot
            ids = self._array(split, "order")[slot, rows].astype(np.int64)
            scores = self._array(split, "columns")[ids, slot].astype(np.float64)
        return Page(ids, scores, total)

    def strongest(self, class_index: int, feature: int, count: int = 5) -> list[int]:
        """Training images of the class that show a feature most, the strongest first.

        Only images that importance was averaged over, where there are enough of them.
        """
        slot = self.feature(class_index, feature).slot
        first, last = self._starts_of("train")[class_index : class_index + 2]
        ids = self._array("train", "order")[slot, first:last][::-1].astype(np.int64)
        if self.facts["table"][class_index]["rule"] != "label":
            mine = self._array("train", "grouped")[ids] == class_index
            ids = np.concatenate([ids[mine], ids[~mine]])
        return [int(i) for i in ids[:count]]

    def weakest(self, class_index: int, feature: int, count: int = 5) -> list[int]:
        """Training images of the class that show a feature least, the weakest first."""
        return [int(i) for i in self.page("train", class_index, feature, count=count).ids]

    # --- verdicts and gaps

    @property
    def subject(self) -> Subject:
        """What answers are about, as texts that they are kept with.

        The text of features changes when the encoder, a class or another cue does; that of
        components also when their number, the head, or the training images do.
        """
        encoder, cues = self.facts["encoder"], self.facts["cues"]
        components = self.facts.get("components")
        others = cues[: -components["each"]] if components else cues  # components come last
        features = of_all = _told([encoder["digest"], self.classes, others])
        if components:
            of_all = _told([encoder["digest"], self.classes, cues, components["key"]])
        return Subject(encoder["features"] + len(others), features, of_all)

    def verdicts(self) -> Verdicts:
        """What people said about the features; answers about others are refused."""
        return Verdicts(
            self.folder / "verdicts.sqlite", self._why_not, self.subject,
            lambda c, feature: self.feature(c, feature).rank,
        )  # fmt: skip

    def gaps(self) -> dict[str, Any]:
        """What gaps.json holds; `measure_gaps` writes it.

        Raises:
            DataError: nothing has been measured.
        """
        found = _read_json(self.folder / "gaps.json")
        if found is None:
            raise DataError(
                f"there are no gaps in {self.folder} yet: measure_gaps(audit) writes them"
            )
        return found

    def _why_not(self, class_index: int, feature: int) -> str:
        try:
            self.feature(class_index, feature)
        except DataError as error:
            return str(error)
        return ""

    def forget(self) -> None:
        """Let go of arrays, so that they are read anew: for whoever writes them."""
        self._arrays.clear()

    def _tensor(self, split: str, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._array(split, name)))

    def _array(self, split: str, name: str) -> npt.NDArray[Any]:
        """An array of a split, mapped from its file."""
        if split not in self.splits:
            raise ConfigError(f"there is no split '{split}' ({', '.join(self.splits)})")
        if (split, name) not in self._arrays:
            path = self.folder / split / f"{name}.npy"
            try:
                self._arrays[split, name] = np.load(path, mmap_mode="r")
            except FileNotFoundError:
                if name in {"spuriosity", "ranking"}:
                    raise DataError(
                        f"no feature has been judged spurious in {self.folder}, or the verdicts"
                        " have not been applied: measure_gaps(audit) does"
                    ) from None
                raise DataError(f"{path} is absent; make the audit again") from None
            except (OSError, ValueError, EOFError) as error:  # the last: the file is empty
                raise DataError(f"{path} cannot be read: {error}; make the audit again") from None
        return self._arrays[split, name]

    def _starts_of(self, split: str) -> npt.NDArray[np.int64]:
        """int64 [classes + 1], where each class begins in the orders of a split."""
        if split not in self._starts:
            counts = np.bincount(self._array(split, "labels"), minlength=len(self.classes))
            self._starts[split] = np.concatenate([[0], counts.cumsum()])
        return self._starts[split]


def _told(about: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


_AGAIN = "make the audit again, with --fresh in the same folder (fresh=True in Python)"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; {_AGAIN}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read: it is not a JSON object; {_AGAIN}")
    return found
