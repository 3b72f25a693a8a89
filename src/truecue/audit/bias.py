"""What bias a model learned, as pictures and numbers: everything that is shown of a paired VAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.audit import show
from truecue.audit.halves import Change, Seen, both_right, compare, far_enough, look
from truecue.audit.separation import Effect, Separation, effect, separation
from truecue.audit.show import MODEL, SIGNAL, Maps
from truecue.audit.shown import BiasPictures, Pushed
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.judge import aligned_mask, goes_with
from truecue.errors import ConfigError, DataError
from truecue.metrics.intervals import wilson
from truecue.nets.classifier import Classifier
from truecue.nets.vae import PairedVAE

PROBED = 500
"""Images that are pushed to another class's bias, for the numbers and the average maps."""
FAR = 2.0
"""The smallest move only just crosses the boundary; times this, a picture shows it plainly."""
MOST = 6.0
"""The longest move by which a classifier is tried, in smallest ones."""
SMALLEST, ENOUGH = "smallest change", "until the model says it"
"""Rows of pictures."""
LEAK = 1.0
"""Slope below zero in the second try. On coloured digits, 1 brought 38 of 71 images there that had
not arrived, by moves of 10.4 on average; 0.1 brought 19, by 12.0."""


def bias_pictures(
    vae: PairedVAE,
    data: Splits | ImageSet,
    *,
    seed: int = 0,
    target: str | None = None,
    steps: int = 20,
    leak: float = LEAK,
    factor: float | None = None,
    model: Classifier | None = None,
    device: Device | None = None,
) -> BiasPictures:
    """Show what the biased half of a paired VAE goes by.

    Images that both halves get right are taken from the validation images (from the training images
    where there are none). Their bias latent is moved until the biased half says another class, and
    the picture is decoded again: what changes is what the biased half goes by. No bias label is
    looked at; where there are some, they mark the training images of the gallery and give `auc`.

    Where the biased half follows a classifier (`show_bias`), that classifier stands for the signal
    half: it must be right about the images, and is shown the pictures to see whether they change
    its answer.

    Args:
        vae: trained; put into evaluation mode and onto the device.
        data: the splits; a single set stands for all three.
        seed: of the choice of images, targets and pairs.
        target: the class whose bias all images are pushed to; None: another class for each,
            drawn at random.
        steps: most steps of DeepFool.
        leak: see `deepfool`; 0: as published, without a second try.
        factor: the smallest move is shown, and one in its direction that is so many times as long;
            None: 2. With `model`: moves in that direction grow until it says the target, at most
            so many times as long; None: 6. Above 1.
        model: the classifier that the biased half follows.
        device: where to compute; None: the best there is.

    Raises:
        ConfigError: there is no class `target`, or `factor` is not above 1.
        DataError: the images are not those that the network was made for.
    """
    check_factor(factor)
    sets = _sets(data)
    train, part, test = sets.train, sets.pushed, sets.pairs
    _check(vae, train, target)
    device = device or Device()
    vae = vae.to(device.device).eval()
    model = model and model.to(device.device).eval()
    if factor is None:
        factor = FAR if model is None else MOST

    seen_train = look(vae, train, device, model)
    seen = seen_train if part is train else look(vae, part, device, model)
    shown = BiasPictures(
        classes=train.classes,
        split=sets.split,
        gallery=show.galleries(train, seen_train, sets.agree),
        histogram=show.histogram(train, seen_train),
        auc=_auc(train, seen_train, sets.agree),
        judge=SIGNAL if model is None else MODEL,
        notes=_resized(vae),
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
        both, cure = (
            ("both halves get", "look at how well each half does by itself")
            if model is None
            else ("the model and the half that follows it get", "look at how well the model does")
        )
        note = (
            f"None of the {len(part):,} images is one that {both} right{besides}, so there"
            f" is none to push to another class's bias. Train longer, or {cure}"
        )
        return replace(shown, notes=(*shown.notes, note))
    asked = None if target is None else train.classes.index(target)
    wanted = (
        show.targets_for(part.y[ids], len(train.classes), seed)
        if asked is None
        else torch.full_like(ids, asked)
    )
    given = show.donors(seen.bias, wanted, seed)
    return _push(vae, shown, part, seen, ids, wanted, given, device,
                 steps=steps, leak=leak, factor=factor, model=model, asked=asked)  # fmt: skip


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
    agree = goes_with(data.train, data.bias, aligned_mask(data))
    return _Sets(data.train, part, data.test, split, agree)


def _push(
    vae: PairedVAE, shown: BiasPictures, part: ImageSet, seen: Seen, ids: Tensor, target: Tensor,
    given: Tensor, device: Device, *, steps: int, leak: float, factor: float,
    model: Classifier | None, asked: int | None,
) -> BiasPictures:  # fmt: skip
    """Add what is seen when the bias latents of some images are changed.

    Args:
        vae: on the device, in evaluation mode, as is `model`.
        shown: what there is already.
        part: images.
        seen: what is made of them.
        ids: int64 [n], n > 0, the images that are pushed.
        target: int64 [n], to which class's bias.
        given: int64 [n], the images that give their latents in a swap; -1: none.
        device: where to compute.
        steps: see `deepfool`.
        leak: see `deepfool`.
        factor: see `bias_pictures`.
        model: see `bias_pictures`.
        asked: the class in `target`, where the user chose one for all.
    """
    chosen, own, judge = part.select(ids), seen.select(ids), shown.judge
    moved = show.push(vae, own.z_b, target, device, steps=steps, leak=leak)
    there, move, old = moved.reached, moved.z - own.z_b, (own.z_s, own.z_b)
    change = compare(vae, old, (own.z_s, moved.z), chosen, device, model)
    measured: Callable[[Change, Tensor], Separation | Effect]
    if model is None:
        times, longer, measured = None, torch.full((len(ids),), factor), separation
        rows = SMALLEST, f"{show.as_words(factor)} that change"
        failed = ~there, ~there
    else:
        times = far_enough(vae, *old, move, target, model, device, factor)
        longer, measured = times.clamp(max=factor), effect
        rows, failed = (SMALLEST, ENOUGH), (change.then.judge != target, times.isinf())
    far = compare(vae, old, (own.z_s, own.z_b + longer[:, None] * move), chosen, device, model)
    pushed = Pushed(
        ids, chosen.y, target, moved, move.norm(dim=1),
        measured(change.select(there), target[there]),
        measured(far.select(there), target[there]), factor, times,
    )  # fmt: skip
    grids, order = dict(shown.grids), pushed.order
    first = order[: show.COLUMNS]
    grids["push"] = show.push_grid(
        chosen.select(first), target[first], rows, [c.select(first) for c in (change, far)],
        [f[first] for f in failed], judge,
    )  # fmt: skip
    grids["strip"] = show.strip(
        vae, chosen.select(first), own.select(first), device,
        steps=steps, leak=leak, factor=factor, model=model, first=asked,
    )  # fmt: skip
    # where a classifier is followed, the smallest change need not mean anything to it
    mapped, columns = (change if model is None else far), grids["push"].columns
    shown = replace(
        shown, pushed=pushed, grids=grids,
        heat=Maps(mapped.heat[first], columns, (1,) * len(columns)),
        class_maps=show.class_maps(mapped.heat, target, pushed.reached, part.classes),
    )  # fmt: skip
    if model is not None:
        same = int((change.first.judge == own.judge).sum())
        shown = replace(shown, faithful=wilson(same, len(ids)))
    have = order[given[order] >= 0]
    if len(have) == 0:
        note = (
            f"The biased half says a class that was aimed at of none of the {len(part):,} images,"
            " so there is none whose bias latent could be swapped in"
        )
        return replace(shown, notes=(*shown.notes, note))
    images, given, target, own = chosen.select(have), given[have], target[have], own.select(have)
    old, other, which = (own.z_s, own.z_b), seen.select(given), int(model is not None)
    swap = compare(vae, old, (own.z_s, other.z_b), images, device, model)
    pair = show.push_grid(
        images, target, rows[which:][:1], ((change, far)[which].select(have),),
        (failed[which][have],), judge,
    )  # fmt: skip
    pictures = part.images[given[: show.COLUMNS]]
    grids = grids | {"swap": show.swap_grid(images, target, pictures, swap, pair, judge)}
    shown = replace(shown, grids=grids, swapped=measured(swap, target))
    if model is None:
        return shown
    control = compare(vae, old, (other.z_s, own.z_b), images, device, model)
    return replace(shown, control=effect(control, target))


def _check(vae: PairedVAE, images: ImageSet, target: str | None) -> None:
    made, got = (vae.channels, vae.size, vae.size), images.shape
    if vae.n_classes != len(images.classes) or made != got:
        resize = f". For your own images set data.size={vae.size}" if made[1:] != got[1:] else ""
        raise DataError(
            f"the network was made for {vae.n_classes} classes and images of shape {list(made)};"
            f" these have {len(images.classes)} classes and shape {list(got)}{resize}"
        )
    check_target(images, target)


def check_factor(factor: float | None) -> None:
    """Refuse a longer move that is none.

    Raises:
        ConfigError: `factor` is not a number above 1.
    """
    if factor is not None and not 1 < factor < float("inf"):
        raise ConfigError(
            f"factor is how many times as far as the smallest move the longer one goes, a number"
            f" above 1; got {factor:g}. The smallest move, which is 1, is shown in any case"
        )


def check_target(images: ImageSet, target: str | None) -> None:
    """Refuse a class that is not there.

    Raises:
        ConfigError: there is no class `target`.
    """
    if target is not None and target not in images.classes:
        raise ConfigError(
            f"there is no class '{target}'; the classes are {', '.join(images.classes)}"
        )


def _resized(vae: PairedVAE) -> tuple[str, ...]:
    """A note where the networks do not work on images of the size that is shown."""
    side, size = vae.side, vae.size
    if side == size:
        return ()
    finer = ", which show nothing finer" if side < size else ""
    return (
        f"The networks work on {side} x {side} pixels: the images' {size} x {size} are resized for"
        f" them, and so are the pictures afterwards{finer}",
    )


def _auc(train: ImageSet, seen: Seen, agree: Tensor | None) -> float | None:
    if agree is None or not bool((agree == 0).any()) or not bool((agree == 1).any()):
        return None
    from sklearn.metrics import roc_auc_score

    known = agree >= 0
    p = seen.p_bias.gather(1, train.y[:, None]).squeeze(1)
    return float(roc_auc_score(agree[known].numpy(), p[known].numpy()))
