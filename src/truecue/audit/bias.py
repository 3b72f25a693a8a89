"""What bias a model learned, as pictures and numbers: everything that is shown of a paired VAE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truecue.audit import show
from truecue.audit.deepfool import Moved
from truecue.audit.halves import Seen, Separation, both_right, compare, look, separation
from truecue.audit.show import Gallery, Grid, Histogram, Maps
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.judge import aligned_mask
from truecue.errors import ConfigError, DataError
from truecue.nets.vae import PairedVAE

PROBED = 500
"""Images that are pushed to another class's bias, for the numbers and the average maps."""
FAR = 2.0
"""The smallest move only just crosses the boundary; times this, a picture shows it plainly."""
LEAK = 1.0
"""Slope below zero in the second try. On coloured digits, 1 brought 38 of 71 images there that had
not arrived, by moves of 10.4 on average; 0.1 brought 19, by 12.0."""


class Pushed(NamedTuple):
    """The images that were pushed to another class's bias, and how that went."""

    ids: Tensor
    """int64 [n], positions in the split that they are from."""
    y: Tensor
    """int64 [n], labels."""
    target: Tensor
    """int64 [n]."""
    moved: Moved
    shift: Tensor
    """float [n], length of the move in the latent."""
    separation: Separation
    """Of those that reached their target."""
    far: Separation
    """The same with moves that are `factor` times as long, in the same direction."""
    factor: float


@dataclass(frozen=True)
class BiasPictures:
    """Pictures and numbers about a learned bias."""

    classes: tuple[str, ...]
    split: str
    """The split that the pushed images are from."""
    gallery: tuple[Gallery, Gallery]
    """Training images with the lowest and the highest biased-half probability of their label."""
    histogram: Histogram
    auc: float | None
    """Chance that a conflicting training image has a lower probability than an aligned one; None
    without bias labels."""
    grids: Mapping[str, Grid] = field(default_factory=dict)
    """`push`, `strip`, `swap` and `pairs`, those that could be made."""
    heat: Maps | None = None
    """One map for each column of the grid `push`."""
    class_maps: Maps | None = None
    pushed: Pushed | None = None
    swapped: Separation | None = None
    """The same numbers where the whole bias latent of another image was put in."""
    notes: tuple[str, ...] = ()
    """What could not be made or did not work, in sentences."""

    def summary(self) -> dict[str, Any]:
        """The numbers about all images together, for a report's JSON."""
        push = _pushed(self.pushed, self.classes) or {}
        return {
            "split": self.split,
            "push": {key: value for key, value in push.items() if key != "images"} or None,
            "swap": self.swapped and self.swapped.to_dict(),
            "auc": self.auc,
            "notes": list(self.notes),
        }

    def to_dict(self) -> dict[str, Any]:
        """All numbers and captions, for JSON; the pictures themselves are left out."""
        return {
            "format": 1,
            "kind": "bias",
            "classes": list(self.classes),
            "split": self.split,
            "notes": list(self.notes),
            "push": _pushed(self.pushed, self.classes),
            "swap": self.swapped and self.swapped.to_dict(),
            "auc": self.auc,
            "grids": {key: _grid(grid) for key, grid in self.grids.items()},
            "class_maps": self.class_maps and _maps(self.class_maps),
            "gallery": {
                key: _gallery(sheet)
                for key, sheet in zip(("lowest", "highest"), self.gallery, strict=True)
            },
            "histogram": {
                "bins": show.BINS,
                "counts": dict(
                    zip(self.histogram.classes, self.histogram.counts.tolist(), strict=True)
                ),
            },
        }


def bias_pictures(
    vae: PairedVAE,
    data: Splits | ImageSet,
    *,
    seed: int = 0,
    target: str | None = None,
    steps: int = 20,
    leak: float = LEAK,
    factor: float = FAR,
    device: Device | None = None,
) -> BiasPictures:
    """Show what the biased half of a paired VAE goes by.

    Images that both halves get right are taken from the validation images (from the training images
    where there are none). Their bias latent is moved until the biased half says another class, and
    the picture is decoded again: what changes is what the biased half goes by. No bias label is
    looked at; where there are some, they mark the training images of the gallery and give `auc`.

    Args:
        vae: trained; put into evaluation mode and onto the device.
        data: the splits; a single set stands for all three.
        seed: of the choice of images, targets and pairs.
        target: the class whose bias all images are pushed to; None: another class for each,
            drawn at random.
        steps: most steps of DeepFool.
        leak: see `deepfool`; 0: as published, without a second try.
        factor: the smallest move is shown, and one in its direction that is so many times as long.
        device: where to compute; None: the best there is.

    Raises:
        ConfigError: there is no class `target`.
        DataError: the images are not those that the network was made for.
    """
    sets = _sets(data)
    train, part, test = sets.train, sets.pushed, sets.pairs
    _check(vae, train, target)
    device = device or Device()
    vae = vae.to(device.device).eval()

    seen_train = look(vae, train, device)
    seen = seen_train if part is train else look(vae, part, device)
    shown = BiasPictures(
        classes=train.classes,
        split=sets.split,
        gallery=show.galleries(train, seen_train, sets.agree),
        histogram=show.histogram(train, seen_train),
        auc=_auc(train, seen_train, sets.agree),
    )
    if len(test.y.unique()) > 1:
        pairs = show.pairs_grid(vae, test, look(vae, test, device), device, seed)
        shown = replace(shown, grids={"pairs": pairs})

    ids = both_right(part, seen, seed)
    if target is not None:
        ids = ids[part.y[ids] != train.classes.index(target)]
    ids = ids[:PROBED]
    if len(ids) == 0:
        besides = "" if target is None else f" and that is not labelled {target}"
        note = (
            f"None of the {len(part):,} images is one that both halves get right{besides}, so there"
            " is none to push to another class's bias. Train longer, or look at how well each half"
            " does by itself"
        )
        return replace(shown, notes=(note,))
    wanted = (
        show.targets_for(part.y[ids], len(train.classes), seed)
        if target is None
        else torch.full_like(ids, train.classes.index(target))
    )
    given = show.donors(seen.bias, wanted, seed)
    return _push(vae, shown, part, seen, ids, wanted, given, device,
                 steps=steps, leak=leak, factor=factor)  # fmt: skip


class _Sets(NamedTuple):
    train: ImageSet
    pushed: ImageSet
    """Where the images are from that are pushed to another class's bias."""
    pairs: ImageSet
    split: str
    """The name of `pushed`."""
    agree: Tensor | None
    """Of the training images, see `galleries`."""


def _sets(data: Splits | ImageSet) -> _Sets:
    if isinstance(data, ImageSet):
        return _Sets(data, data, data, "images", None)
    part, split = (data.train, "train") if data.val is None else (data.val, "val")
    return _Sets(data.train, part, data.test, split, _agree(data))


def _push(
    vae: PairedVAE, shown: BiasPictures, part: ImageSet, seen: Seen, ids: Tensor, target: Tensor,
    given: Tensor, device: Device, *, steps: int, leak: float, factor: float,
) -> BiasPictures:  # fmt: skip
    """Add what is seen when the bias latents of some images are changed.

    Args:
        vae: on the device, in evaluation mode.
        shown: what there is already.
        part: images.
        seen: what both halves make of them.
        ids: int64 [n], n > 0, the images that are pushed.
        target: int64 [n], to which class's bias.
        given: int64 [n], the images that give theirs in a swap; -1: none.
        device: where to compute.
        steps: see `deepfool`.
        leak: see `deepfool`.
        factor: see `bias_pictures`.
    """
    chosen, own = part.select(ids), seen.select(ids)
    moved = show.push(vae, own.z_b, target, device, steps=steps, leak=leak)
    there = moved.reached
    change = compare(vae, own.z_s, own.z_b, moved.z, chosen, device)
    further = own.z_b + factor * (moved.z - own.z_b)
    far = compare(vae, own.z_s, own.z_b, further, chosen, device)
    pushed = Pushed(
        ids, chosen.y, target, moved, (moved.z - own.z_b).norm(dim=1),
        separation(change.select(there), target[there]),
        separation(far.select(there), target[there]), factor,
    )  # fmt: skip
    grids = dict(shown.grids)
    grids["push"] = show.push_grid(chosen, target, there, {1.0: change, factor: far})
    grids["strip"] = show.strip(vae, chosen, own, device, steps=steps, leak=leak, factor=factor)
    n = len(grids["push"].columns)
    shown = replace(
        shown, pushed=pushed, grids=grids,
        heat=Maps(change.heat[:n], grids["push"].columns, (1,) * n),
        class_maps=show.class_maps(change.heat, target, there, part.classes),
    )  # fmt: skip
    have = given >= 0
    if not bool(have.any()):
        return shown
    images, given, target, own = chosen.select(have), given[have], target[have], own.select(have)
    swap = compare(vae, own.z_s, own.z_b, seen.z_b[given], images, device)
    smallest = show.push_grid(images, target, there[have], {1.0: change.select(have)})
    pictures = part.images[given[: show.COLUMNS]]
    grids = grids | {"swap": show.swap_grid(images, target, pictures, swap, smallest)}
    return replace(shown, grids=grids, swapped=separation(swap, target))


def _check(vae: PairedVAE, images: ImageSet, target: str | None) -> None:
    made, got = (vae.channels, vae.size, vae.size), images.shape
    if vae.n_classes != len(images.classes) or made != got:
        raise DataError(
            f"the network was made for {vae.n_classes} classes and images of shape {list(made)};"
            f" these have {len(images.classes)} classes and shape {list(got)}"
        )
    if target is not None and target not in images.classes:
        raise ConfigError(
            f"there is no class '{target}'; the classes are {', '.join(images.classes)}"
        )


def _agree(data: Splits) -> Tensor | None:
    """Whether each training image's bias agrees with its label: 1, 0, or -1 where not known."""
    mask, train = aligned_mask(data), data.train
    if mask is None or data.bias not in train.attributes:
        return None
    values = train.attributes[str(data.bias)].values
    return torch.where(values >= 0, mask[train.y, values.clamp(min=0)].long(), -1)


def _auc(train: ImageSet, seen: Seen, agree: Tensor | None) -> float | None:
    if agree is None or not bool((agree == 0).any()) or not bool((agree == 1).any()):
        return None
    from sklearn.metrics import roc_auc_score

    known = agree >= 0
    p = seen.p_bias.gather(1, train.y[:, None]).squeeze(1)
    return float(roc_auc_score(agree[known].numpy(), p[known].numpy()))


def _pushed(pushed: Pushed | None, classes: tuple[str, ...]) -> dict[str, Any] | None:
    if pushed is None:
        return None
    moved = pushed.moved
    columns = {
        "image": pushed.ids.tolist(),
        "label": [classes[y] for y in pushed.y.tolist()],
        "target": [classes[t] for t in pushed.target.tolist()],
        "reached": moved.reached.tolist(),
        "rescued": moved.rescued.tolist(),
        "steps": moved.steps.tolist(),
        "shift": [round(s, 4) for s in pushed.shift.tolist()],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "tried": len(rows),
        "reached": int(moved.reached.sum()),
        "rescued": int(moved.rescued.sum()),
        **pushed.separation.to_dict(),
        "factor": pushed.factor,
        "far": pushed.far.to_dict(),
        "images": rows,
    }


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "rows": list(grid.rows),
        "columns": list(grid.columns),
        "captions": [list(row) for row in grid.captions],
        "failed": grid.failed.tolist(),
    }


def _maps(maps: Maps) -> list[dict[str, Any]]:
    rows = zip(maps.titles, maps.counts, maps.values, strict=True)
    return [
        {"class": title, "pictures": n, "mean": float(v.mean()), "max": float(v.max())}
        for title, n, v in rows
    ]


def _gallery(sheet: Gallery) -> list[dict[str, Any]]:
    rows = zip(sheet.ids.tolist(), sheet.p.tolist(), sheet.captions, sheet.marks, strict=True)
    return [{"image": i, "p": p, "caption": c, "mark": m} for i, p, c, m in rows]
