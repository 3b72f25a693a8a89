"""Making an audit: encode, head, importance, columns, rankings; each step can be found done."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from truecue.atomic import LOCK, atomic, locked, write_text
from truecue.audit.audit import FORMAT, Audit
from truecue.audit.components import class_components, names_of
from truecue.audit.features import Store, encode, predict
from truecue.audit.head import EPOCHS, fit_head
from truecue.audit.reviews import Reviews
from truecue.config import Config, read_toml
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import check_fits
from truecue.engine.features import digest_of, digest_of_set
from truecue.engine.plan import SGD, Adam, AdamW
from truecue.engine.run import claim
from truecue.errors import ConfigError, DataError
from truecue.metrics.ranking import is_small, rank
from truecue.metrics.spurious import FEW, GroupRule, Importance, importance
from truecue.nets.classifier import BUILT_FROM, Classifier, save_classifier
from truecue.nets.pretrained import LastLayer, joined

Cues = Callable[[str, ImageSet], Mapping[str, Tensor]]
"""From a split's name and its images to other cues' values: a name and float [n] each, the same
names for every split."""


class AuditSettings(Config):
    """How candidate features are found."""

    features: PositiveInt = 5
    """Features of each class, the most important ones."""
    group: GroupRule = "correct"
    """Over which training images contributions are averaged: `correct` (images of the class that
    the encoder's head gets right), `label` (all of the class) or `predicted` (all that the head
    puts into the class)."""
    head: Annotated[SGD | Adam | AdamW, Field(discriminator="kind")] = SGD(lr=0.01, momentum=0.9)
    """Optimizer of the last layer, where the encoder needs a new one."""
    head_epochs: PositiveInt = EPOCHS
    """Epochs of the last layer."""
    components: PositiveInt | None = None
    """Leading principal components of each class (neural PCA) that are candidates, too; None: no
    components."""


def make_audit(
    folder: Path | str,
    data: Splits,
    net: Classifier | None = None,
    *,
    encoder: Classifier | None = None,
    settings: AuditSettings | None = None,
    cues: Cues | None = None,
    seed: int = 0,
    device: Device | None = None,
    facts: Mapping[str, Any] | None = None,
    fresh: bool = False,
    quiet: bool = True,
) -> Audit:
    """Find the features that a classifier may go by, and rank all images by them.

    Killed and called again with the same arguments, it goes on where it was: features are kept
    shard by shard in the cache, and everything after them takes seconds. A finished audit is read
    back, and made again where some of its files are lost or damaged. `measure_gaps` follows.

    Args:
        folder: for all that is kept.
        data: the splits. Importance is by the training images; attributes are not looked at.
        net: the model that is audited; None: the encoder with a new last layer.
        encoder: the network whose features are looked at; None: the model itself. Its own head is
            used where it was trained on the same classes (as its card says), otherwise a new one is
            fitted to its features.
        settings: None: the defaults.
        cues: other cues than features; they are candidates of every class.
        seed: of a new last layer.
        device: where to compute; None: the best there is.
        facts: where the data comes from, see `truecue.train`.
        fresh: make it again where the folder holds an audit with other settings. Verdicts are kept;
            those about another encoder's features or about other classes no longer count.
        quiet: show no progress.

    Raises:
        ConfigError: neither a model nor an encoder is given, or one was not made by `build`.
        DataError: a network does not fit the images, or the cues do not.
        RunMismatch: the folder holds an audit with other settings, images or networks.
        StorageError: something could not be written, or another process is making an audit there.

    Source: Moayeri et al. 2023 (arXiv 2212.02648), section 3.
    """
    folder, settings, device = Path(folder), settings or AuditSettings(), device or Device()
    maker = _Maker(folder, data, settings, seed, device, quiet)
    eyes = net if encoder is None else encoder
    if eyes is None:
        raise ConfigError("an audit needs a model, an encoder, or both")
    for network in (net, encoder):
        _check_card(network)
    if net is not None:
        check_fits(net, data.train)
    images = {name: digest_of_set(part) for name, part in data.parts().items()}
    asked = {
        "data": (facts or {}).get("data"),
        "data_settings": (facts or {}).get("settings"),
        "seed": seed,
        "settings": settings.to_dict(),
        "model": net and digest_of(net, head=True),
        # a head that will not be used is drawn anew each time that weights are loaded
        "encoder": encoder and digest_of(encoder, head=maker.knows_classes(encoder)),
        "images": images,
        "cues": cues is not None,
        "precision": device.precision,
    }
    with locked(
        folder / LOCK,
        f"another process is making an audit in {folder}; wait for it, or use another folder",
    ):
        if fresh:
            _keep_reviews(folder)
            (folder / "audit.json").unlink(missing_ok=True)
        claim(folder, asked, {"versions": _versions()}, fresh=fresh)
        if (folder / "audit.json").is_file():
            found = Audit(folder)
            if _is_of(found.facts, asked, eyes) and found.is_whole():
                return found
            (folder / "audit.json").unlink()
        with torch.random.fork_rng():
            return maker.make(net, eyes, cues, dict(facts or {}))


class _Maker:
    """The steps of one audit."""

    def __init__(
        self, folder: Path, data: Splits, settings: AuditSettings, seed: int, device: Device,
        quiet: bool,
    ):  # fmt: skip
        self.folder, self.parts, self.settings = folder, data.parts(), settings
        self.classes, self.seed, self.device, self.quiet = data.train.classes, seed, device, quiet

    def make(
        self, net: Classifier | None, eyes: Classifier, cues: Cues | None, facts: dict[str, Any]
    ) -> Audit:
        stores = {name: self._encode(name, eyes) for name in self.parts}
        own_head = eyes is net or self.knows_classes(eyes)
        if not own_head:
            eyes = self._with_head(eyes, stores["train"].features)
        head = deepcopy(eyes.head).cpu()
        weight, bias = head.weight.detach(), head.bias.detach()
        grouped = {name: predict(store, head) for name, store in stores.items()}
        predicted = grouped
        if net is not None and net is not eyes:
            head = deepcopy(net.head).cpu()
            predicted = {name: predict(self._encode(name, net), head) for name in self.parts}
        train = self.parts["train"]
        found = importance(
            stores["train"].features, train.y, weight, bias,
            group=self.settings.group, keep=self.settings.features, pred=grouped["train"],
        )  # fmt: skip
        others = {name: self._cues(name, cues) for name in self.parts}
        components = self._add_components(others, stores, weight)
        names = list(others["train"])
        negative = False
        for name, part in self.parts.items():
            if list(others[name]) != names:
                raise DataError(
                    f"the {name} images have the cues {', '.join(others[name]) or 'none'} and the"
                    f" training images {', '.join(names) or 'none'}; they must be the same"
                )
            columns = stores[name].own_columns(part.y, found.top)
            negative |= bool((columns < 0).any())
            columns = torch.cat([columns, *(v[:, None] for v in others[name].values())], 1)
            whole = columns.nan_to_num(nan=0.0)  # classes without such a feature keep their places
            order = [rank(column, part.y, len(self.classes)).order for column in whole.T]
            arrays = {"labels": part.y, "predicted": predicted[name], "grouped": grouped[name],
                      "columns": columns, "order": torch.stack(order).int()}  # fmt: skip
            self._write(name, {key: value.numpy() for key, value in arrays.items()})
        extra = {"classes": list(self.classes)}
        save_classifier(eyes if net is None else net, self.folder / "model.safetensors", extra)
        (self.folder / "encoder.safetensors").unlink(missing_ok=True)
        if net is not None and eyes is not net:
            save_classifier(eyes, self.folder / "encoder.safetensors", extra)
        told = self._facts(found, names, eyes, own_head=own_head) | {"components": components}
        told["model"] = {"arch": (net or eyes).spec.get("arch"), "is_encoder": net in (None, eyes),
                         "digest": digest_of(net or eyes, head=True)}  # fmt: skip
        told["notes"] = self._notes(found, negative=negative)
        kept = ("data", "changed", "command", "trained")
        told |= {key: facts[key] for key in kept if key in facts}
        settings = facts.get("settings") or {}
        place = settings.get("table") or settings.get("root")  # of images of one's own
        told["place"] = place or facts.get("data")
        told |= {"versions": _versions(), "device": self.device.describe(), "seed": self.seed}
        for of_another in ("gaps.json", "cues.json"):
            (self.folder / of_another).unlink(missing_ok=True)
        write_text(self.folder / "audit.json", json.dumps(told, indent=1) + "\n")
        return Audit(self.folder)

    def _encode(self, name: str, net: Classifier) -> Store:
        return encode(self.parts[name], net, self.device, what=name, quiet=self.quiet)

    def knows_classes(self, net: Classifier) -> bool:
        """Whether a network's card names the classes of these images: its head is then used."""
        known = net.spec.get("extra", {}).get("classes")
        return known is not None and tuple(known) == self.classes

    def _with_head(self, eyes: Classifier, features: npt.NDArray[np.float16]) -> Classifier:
        weight, bias = fit_head(
            features, self.parts["train"].y, len(self.classes), seed=self.seed,
            optimizer=self.settings.head, epochs=self.settings.head_epochs, quiet=self.quiet,
        )  # fmt: skip
        last = LastLayer(eyes.n_features, len(self.classes))
        last.load_state_dict({"head.weight": weight, "head.bias": bias})
        return joined(eyes.cpu(), last)

    def _cues(self, name: str, cues: Cues | None) -> dict[str, Tensor]:
        found = {} if cues is None else dict(cues(name, self.parts[name]))
        for cue, values in found.items():
            if values.shape != (len(self.parts[name]),) or not bool(values.isfinite().all()):
                raise DataError(
                    f"the cue '{cue}' needs one finite value for each of the"
                    f" {len(self.parts[name]):,} {name} images; got shape {list(values.shape)}"
                )
        return {cue: values.float() for cue, values in found.items()}

    def _add_components(
        self, others: dict[str, dict[str, Tensor]], stores: Mapping[str, Store], weight: Tensor
    ) -> dict[str, Any] | None:
        """Put each class's components beside other cues; how many, and a text that tells them."""
        each = self.settings.components
        if each is None:
            return None
        found = class_components(stores["train"], self.parts["train"].y, weight, each)
        for name, part in self.parts.items():
            values = found.own(stores[name], part.y)
            for i, component in enumerate(names_of(each)):
                if component in others[name]:
                    raise DataError(f"there is already a component '{component}'; rename your cue")
                others[name][component] = values[:, i]
        return {"each": each, "key": found.key}

    def _write(self, split: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
        for old in ("spuriosity", "ranking"):
            (self.folder / split / f"{old}.npy").unlink(missing_ok=True)
        for key, array in arrays.items():
            write_array(self.folder / split / f"{key}.npy", array)

    def _facts(
        self, found: Importance, cues: list[str], eyes: Classifier, *, own_head: bool
    ) -> dict[str, Any]:
        width, n_features = found.top.shape[1], eyes.n_features
        counts = {name: torch.bincount(part.y, minlength=len(self.classes)).tolist()
                  for name, part in self.parts.items()}  # fmt: skip
        positive = found.values.clamp(min=0).sum(1)
        table = []
        for c, class_name in enumerate(self.classes):
            rows: list[dict[str, Any]] = []
            for slot, feature in enumerate(found.top[c].tolist()):
                if feature >= 0:
                    value = float(found.values[c, feature])
                    rows.append({"feature": feature, "slot": slot, "rank": slot + 1,
                                 "importance": value, "share": value / float(positive[c]),
                                 "name": f"feature {feature}"})  # fmt: skip
            for j, cue in enumerate(cues):
                rows.append({"feature": n_features + j, "slot": width + j, "rank": None,
                             "importance": None, "share": None, "name": cue})  # fmt: skip
            table.append({"class": class_name, "n": {name: n[c] for name, n in counts.items()},
                          "rule": found.rules[c], "group": int(found.counts[c]),
                          "features": rows})  # fmt: skip
        return {
            "format": FORMAT,
            "kind": "audit",
            "classes": list(self.classes),
            "settings": self.settings.to_dict(),
            "splits": {name: {"n": len(part), "digest": digest_of_set(part)}
                       for name, part in self.parts.items()},
            "encoder": {"arch": eyes.spec.get("arch"), "features": n_features,
                        "digest": digest_of(eyes), "head": "own" if own_head else "fitted"},
            "width": width + len(cues),
            "cues": cues,
            "table": table,
        }  # fmt: skip

    def _notes(self, found: Importance, *, negative: bool) -> list[str]:
        notes = []
        if negative:
            notes.append(
                "The encoder's features can be negative, so that a low value is not the same as an"
                " absent cue"
            )
        fell = [name for name, rule in zip(self.classes, found.rules, strict=True)
                if rule != self.settings.group]  # fmt: skip
        if fell:
            notes.append(
                f"No training image fits the rule '{self.settings.group}' for {_listed(fell)};"
                " importance is averaged over all images of the class"
            )
        words = {"val": "validation", "test": "test"}
        for name, part in self.parts.items():
            if name != "train":
                counts = torch.bincount(part.y, minlength=len(self.classes)).tolist()
                few = [c for c, n in zip(self.classes, counts, strict=True) if is_small(n)]
                if few:
                    notes.append(
                        f"Fewer than {FEW} {words[name]} images show {_listed(few)}: two ends mean"
                        " little there; look at the rank correlation instead"
                    )
        return notes


def _is_of(facts: Mapping[str, Any], asked: Mapping[str, Any], eyes: Classifier) -> bool:
    """Whether a finished audit is of the networks, images and settings that run.toml tells."""
    images = {name: part["digest"] for name, part in facts["splits"].items()}
    return (
        images == asked["images"]
        and facts["settings"] == asked["settings"]
        and facts["encoder"]["digest"] == digest_of(eyes)
        and asked["model"] in (None, facts["model"]["digest"])
    )


def _keep_reviews(folder: Path) -> None:
    """Let answers about labels that an earlier version wrote be about the images of then."""
    run = folder / "run.toml"
    if run.is_file():
        images = read_toml(run).get("asked", {}).get("images", {})
        Reviews(folder / "labels.sqlite", images).all()


def _check_card(net: Classifier | None) -> None:
    """Refuse a network that the audit could not be opened with again.

    Raises:
        ConfigError: it was not made by `build`.
    """
    absent = [] if net is None else [name for name in BUILT_FROM if name not in net.spec]
    if absent:
        raise ConfigError(
            "an audit keeps its networks, and only those made by `build` can be loaded back; this"
            f" one's spec does not say {', '.join(absent)}"
        )


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array file in full or not at all."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("truecue", "torch", "numpy")}
