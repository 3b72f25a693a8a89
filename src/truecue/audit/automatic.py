"""Judging without a person, by object masks.

A substitute, never used unless asked for. Its answers are stored under the name `masks`, are marked
as automatic wherever verdicts are shown, and give way to any person's answer about the same pair.
Moayeri et al. 2023 (arXiv 2212.02648), appendix G, which offers it and does not measure it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.atomic import write_text
from truecue.audit.audit import Audit, Feature
from truecue.audit.maps import resized, stored_maps
from truecue.audit.masks import MaskFile
from truecue.audit.verdicts import MASKS, Answer, Judgement
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError
from truecue.nets.maps import FeatureMaps

IMAGES = 5
"""Most activating images that a feature is judged by, those that a person is shown."""
OUTSIDE = 0.5
"""Share of a feature's map outside the object from which on it is judged spurious."""
_OBJECT = 0.005  # share of the image; with less object in its middle, a mask says nothing


class MaskJudged(NamedTuple):
    """What the masks say about one feature of a class."""

    feature: Feature
    outside: float | None
    """Mean share of the feature's map that lies outside the object; None: not judged."""
    even: float | None
    """What it would be if the map were the same everywhere: the share of the image that is not the
    object. With small objects it is above one half from the start."""
    images: tuple[int, ...]
    """The training images that count: with a mask that shows an object, and a map above 0."""

    @property
    def spurious(self) -> bool | None:
        """None: not judged, since fewer than half of the images count."""
        return None if self.outside is None else self.outside > OUTSIDE


def judge_by_masks(
    audit: Audit, data: Splits, masks: Path | Tensor, *, images: int = IMAGES,
    device: Device | None = None,
) -> list[MaskJudged]:  # fmt: skip
    """Judge an audit's features by where they look: spurious if mostly outside the object.

    For each feature of each class the most activating training images are taken, as a person is
    shown them. Of each one's activation map, the share outside the object's mask is computed; above
    one half in the mean, the feature is judged `background`, otherwise `main_object`. Which of the
    things outside the object it is on, masks do not say. Answers of an earlier call are replaced;
    masks.json in the audit's folder has the numbers. `measure_gaps` follows.

    Args:
        audit: opened. Cues that are no features are not judged.
        data: the audited images.
        masks: a folder or an `.npz` file, see `MaskFile`; or bool or floating [n, h, w] in [0, 1],
            the object's share in each pixel of the training images.
        images: most activating images of each feature.
        device: where maps are computed; None: the best there is.

    Raises:
        ConfigError: no image is asked for.
        DataError: the images are not those of the audit or have no names, no mask is found, a mask
            cannot be read, or the images are features of a frozen encoder.
        StorageError: something could not be written.

    Source: Moayeri et al. 2023 (arXiv 2212.02648), appendix G.
    """
    if images < 1:
        raise ConfigError(f"a feature is judged by at least 1 image; got {images}")
    audit.check(data)
    features = [f for f in audit.pairs() if f.rank is not None]
    top = [audit.strongest(f.class_index, f.feature, images) for f in features]
    ids = torch.tensor([i for found in top for i in found], dtype=torch.int64)
    counts = [len(found) for found in top]
    wanted = torch.tensor([f.feature for f in features], dtype=torch.int64)
    wanted = wanted.repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    objects = _objects(data.train, masks, ids)
    source = FeatureMaps(audit.encoder())
    maps = stored_maps(source, data.train, ids, wanted, device or Device()).split(counts)
    _, *size = data.train.shape
    judged = [_outside(*one, objects, size) for one in zip(features, top, maps, strict=True)]
    _store(audit, judged)
    return judged


def _objects(train: ImageSet, masks: Path | Tensor, ids: Tensor) -> dict[int, Tensor]:
    """The masks of some training images that show an object, by position."""
    height, width = train.shape[1:]
    alone = ids.unique().tolist()
    if isinstance(masks, Tensor):
        shape = (len(train), height, width)
        if masks.shape != shape:
            raise DataError(f"masks must be {list(shape)}; got {list(masks.shape)}")
        found = {i: masks[i].float() for i in alone}
        if not all(bool(((m >= 0) & (m <= 1)).all()) for m in found.values()):
            raise DataError("masks must be truth values or lie in [0, 1]")
    else:
        if not train.names:
            raise DataError("masks are found by the images' names, and these images have none")
        file = MaskFile(masks)
        read = {i: file.of(train.names[i], height, width) for i in alone}
        found = {i: m for i, m in read.items() if m is not None}
        if alone and not found:
            places = " or ".join(file.places(train.names[alone[0]]))
            raise DataError(
                f"none of {len(alone):,} training images has a mask in {masks}; that of"
                f" {train.names[alone[0]]} would be {places}"
            )
    return {i: m for i, m in found.items() if float(m.mean()) >= _OBJECT}


def _outside(
    feature: Feature, ids: list[int], maps: Tensor, objects: dict[int, Tensor], size: list[int]
) -> MaskJudged:
    use = [j for j, i in enumerate(ids) if i in objects and bool(maps[j].any())]
    if not use or 2 * len(use) < len(ids):
        return MaskJudged(feature, None, None, tuple(ids[j] for j in use))
    nams = resized(maps[use].float() / 255, *size)
    rest = 1 - torch.stack([objects[ids[j]] for j in use])
    share = (nams * rest).sum((1, 2)) / nams.sum((1, 2))
    used = tuple(ids[j] for j in use)
    return MaskJudged(feature, float(share.mean()), float(rest.mean()), used)


def _store(audit: Audit, judged: list[MaskJudged]) -> None:
    verdicts, answers = audit.verdicts(), []
    for j in judged:
        if j.outside is None or j.even is None:
            verdicts.remove(j.feature.class_index, j.feature.feature, MASKS)
            continue
        why = (
            f"automatic: {j.outside:.0%} of the map outside the masks of {len(j.images)} images"
            f" ({j.even:.0%} if it were even)"
        )
        answer: Answer = "background" if j.spurious else "main_object"
        answers.append(judgement(audit, j.feature, MASKS, answer, why, j.images))
    verdicts.add(*answers)
    rows = [
        {"class": j.feature.class_index, "feature": j.feature.feature, "outside": j.outside,
         "even": j.even, "images": list(j.images), "spurious": j.spurious}
        for j in judged
    ]  # fmt: skip
    told = {"format": 1, "kind": "masks", "outside": OUTSIDE, "features": rows}
    write_text(audit.folder / "masks.json", json.dumps(told, indent=1) + "\n")


def judgement(
    audit: Audit, f: Feature, annotator: str, answer: Answer, why: str,
    images: tuple[int, ...] = (),
) -> Judgement:  # fmt: skip
    """An automatic answer about a feature."""
    rule = str(audit.facts["table"][f.class_index]["rule"])
    name = audit.classes[f.class_index]
    return Judgement(
        f.class_index, f.feature, annotator, answer, reason=why, class_name=name, rank=f.rank,
        group_rule=rule, images=images,
    )  # fmt: skip
