"""Which images a report shows: examples, what changed, and the suspected bias-conflicting ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, predictions
from truecue.engine.judge import goes_with
from truecue.engine.run import Branch
from truecue.metrics.intervals import wilson
from truecue.nets.classifier import Classifier
from truecue.report.pictures import Picture
from truecue.seeds import derive

EXAMPLES = 20
"""Training images of each kind that are shown as examples."""
SHEET = 48
"""Suspected images that are shown."""


def example_pictures(
    data: Splits,
    seen: Splits,
    mask: Tensor | None,
    nets: Mapping[str, Classifier],
    before: str | None,
    after: str,
    device: Device,
) -> dict[str, Picture]:
    """Examples from the training images, and test images that only the second model gets right.

    Args:
        data: the splits with all attributes.
        seen: the same splits as the classifiers take them: images, or features.
        mask: bool [classes, values], the aligned cells; None without a bias.
        nets: the trained classifiers by name.
        before: name of the first model, or None.
        after: name of the second model.
        device: where to compute.
    """
    train, pictures = data.train, {}
    agree = goes_with(train, data.bias, mask)
    if agree is None:
        pictures["examples"] = picture_of(
            train, _spread(train, torch.ones(len(train)) > 0), None, None
        )
    else:
        pictures["examples_aligned"] = picture_of(
            train, _spread(train, agree == 1), data.bias, mask
        )
        pictures["examples_conflicting"] = picture_of(
            train, _spread(train, agree == 0), data.bias, mask
        )
    if before is not None:
        first = predictions(nets[before], seen.test, device)
        second = predictions(nets[after], seen.test, device)
        ids = _spread(data.test, (first != data.test.y) & (second == data.test.y))
        said = [f"{before} says {data.test.classes[first[i]]}" for i in ids.tolist()]
        pictures["before_wrong"] = picture_of(data.test, ids, data.bias, mask, said)
    return {key: picture for key, picture in pictures.items() if len(picture.images)}


def suspects(
    data: Splits,
    seen: Splits,
    mask: Tensor | None,
    branches: Mapping[str, Branch],
    model: str,
    device: Device,
) -> tuple[dict[str, Any] | None, Picture | None]:
    """Training images on which a biased and a debiased branch disagree.

    No bias label is used to find them; where there are some, they tell how many of the images found
    are bias-conflicting (precision) and how many of the conflicting ones were found (recall). The
    same is told of the stricter choice among them in which the debiased branch agrees with the
    label: those come first on the sheet, the surest ones ahead.

    Returns:
        The report's part and the contact sheet; None and None unless the method published a branch
        for each role.
    """
    roles = {made.role: (name, made.net) for name, made in branches.items()}
    if not {"biased", "debiased"} <= roles.keys():
        return None, None
    train = data.train
    (biased_name, biased), (clean_name, clean) = roles["biased"], roles["debiased"]
    biased_logits = apply(biased, seen.train, device)
    biased_says, clean_says = biased_logits.argmax(1), predictions(clean, seen.train, device)
    differ = biased_says != clean_says
    strict = differ & (clean_says == train.y)
    agree = goes_with(train, data.bias, mask)
    doubt = 1 - biased_logits.softmax(1).gather(1, train.y[:, None])[:, 0]
    order = (strict.float() * 2 + doubt).masked_fill(~differ, -1).argsort(descending=True)
    ids = order[: min(SHEET, int(differ.sum()))]
    said = [
        f"{biased_name} says {train.classes[biased_says[i]]},"
        f" {clean_name} says {train.classes[clean_says[i]]}"
        for i in ids.tolist()
    ]
    found = {
        "model": model,
        "branches": [biased_name, clean_name],
        "shown": len(ids),
        "of": len(train),
        **_found(differ, agree),
        "strict": _found(strict, agree),
    }
    return found, picture_of(train, ids, data.bias, mask, said)


def _found(chosen: Tensor, agree: Tensor | None) -> dict[str, Any]:
    """How many images were chosen, and how well that matches the conflicting ones."""
    numbers: dict[str, Any] = {"disagree": int(chosen.sum()), "precision": None, "recall": None}
    if agree is not None:
        right, known = int((chosen & (agree == 0)).sum()), int((chosen & (agree >= 0)).sum())
        numbers["precision"] = wilson(right, known).to_dict()
        numbers["recall"] = wilson(right, int((agree == 0).sum())).to_dict()
    return numbers


def _spread(part: ImageSet, wanted: Tensor) -> Tensor:
    """Positions of some wanted images, classes taking turns."""
    rng = torch.Generator().manual_seed(derive(len(part), "examples"))
    order = torch.randperm(len(part), generator=rng)
    order = order[wanted[order]]
    ranks = torch.zeros(len(order), dtype=torch.int64)
    for label in part.y.unique().tolist():
        own = part.y[order] == label
        ranks[own] = torch.arange(int(own.sum()))
    turns = (ranks * len(part.classes) + part.y[order]).argsort()
    return order[turns][:EXAMPLES]


def picture_of(
    part: ImageSet,
    ids: Tensor,
    bias: str | None,
    mask: Tensor | None,
    said: list[str] | None = None,
) -> Picture:
    """Images with their labels, bias values and what was said of them."""
    agree = goes_with(part, bias, mask)
    names = {1: "aligned", 0: "conflicting", -1: None}
    marks = [None if agree is None else names[int(agree[i])] for i in ids.tolist()]
    captions = []
    for k, i in enumerate(ids.tolist()):
        words = [f"labelled {part.classes[part.y[i]]}"]
        if bias is not None and bias in part.attributes:
            attribute = part.attributes[bias]
            value = int(attribute.values[i])
            words.append(attribute.names[value] if value >= 0 else f"{bias} not known")
        words += [said[k]] if said else []
        captions.append(" · ".join(words))
    return Picture(part.images[ids], captions, marks)
