"""Pictures of a learned bias, as plain data: images with what is written beside them.

"Signal is Harder" (arXiv 2305.19671): grids of the released code, and some beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.audit.deepfool import Moved, deepfool
from truecue.audit.halves import Change, Seen, as_bytes, decode, far_enough, look, turns
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.nets.classifier import Classifier
from truecue.nets.vae import PairedVAE
from truecue.seeds import derive

COLUMNS = 5
"""Images in a grid."""
STRIPS = 3
"""Images that are shown with every class's bias."""
MOST_CLASSES = 12
"""Classes whose bias is shown in a strip, of more the first ones."""
SHEET = 24
"""Images at either end of the gallery."""
BINS = 20
SIGNAL, MODEL = "signal", "model"
"""Who judges pictures beside the biased half: the signal half, or the classifier that the biased
half follows."""


class Grid(NamedTuple):
    """Pictures in rows and columns."""

    images: Tensor
    """uint8 [rows, columns, c, h, w]."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    """What is written below each picture, row by row; may be empty."""
    failed: Tensor
    """bool [rows, columns], pictures made of a latent of which the biased half does not say what
    it was meant to; where it follows a classifier, pictures of which that one does not."""
    another: Tensor
    """bool [rows, columns], pictures of which the biased half says another class than it was meant
    to, shown them; none where it follows a classifier, which is in `failed`."""


class Maps(NamedTuple):
    """Where pictures changed."""

    values: Tensor
    """float [m, h, w], mean absolute change of a pixel, in [0, 1]."""
    titles: tuple[str, ...]
    counts: tuple[int, ...]
    """Pictures that each map is the mean of."""


class Gallery(NamedTuple):
    """Training images by how likely the biased half thinks their label."""

    images: Tensor
    """uint8 [m, c, h, w]."""
    ids: Tensor
    """int64 [m], positions among the training images."""
    p: Tensor
    """float [m], the biased half's probability of the label."""
    captions: tuple[str, ...]
    marks: tuple[str | None, ...]
    """"aligned" or "conflicting" where bias labels tell."""


class Histogram(NamedTuple):
    """How the biased half's probability of the label is spread, class by class."""

    counts: Tensor
    """int64 [k, bins], images with p in [b / bins, (b + 1) / bins); the last bin holds 1 too."""
    classes: tuple[str, ...]


def as_words(factor: float) -> str:
    """How many times, in words."""
    return "twice" if factor == 2 else f"{factor:g} times"


def targets_for(y: Tensor, n_classes: int, seed: int) -> Tensor:
    """For each label another class, each with the same chance: int64 [n]."""
    rng = torch.Generator().manual_seed(derive(seed, "bias pictures", "targets"))
    return (y + torch.randint(1, n_classes, y.shape, generator=rng)) % n_classes


def push(
    vae: PairedVAE, z_b: Tensor, target: Tensor, device: Device, *, steps: int, leak: float
) -> Moved:
    """Move bias latents [n, d] until the biased half says the targets; see `deepfool`."""
    where = device.device
    moved = deepfool(vae.logits_b, z_b.to(where), target.to(where), steps=steps, leak=leak)
    return Moved(*(part.cpu() for part in moved))


def push_grid(
    part: ImageSet, target: Tensor, rows: Sequence[str], changes: Sequence[Change],
    failed: Sequence[Tensor], judge: str = SIGNAL,
) -> Grid:  # fmt: skip
    """Original, reconstruction, and reconstructions with the bias moved to another class.

    Args:
        part: the images, n.
        target: int64 [n].
        rows: names of the changes.
        changes: of the same images.
        failed: bool [n], of each change.
        judge: what to call it.
    """
    names, n = part.classes, min(COLUMNS, len(part))
    pairs = list(zip(part.y[:n].tolist(), target[:n].tolist(), strict=True))
    first, nothing = changes[0], torch.zeros(2, n, dtype=torch.bool)
    pictures = [change.after[:n] for change in changes]
    another = [_another(change.then, target, n, judge) for change in changes]
    said = (_says(change.then, names, n, judge) for change in changes)
    return Grid(
        torch.stack([_pixels(part, n), first.before[:n], *pictures]),
        ("original", "reconstruction", *rows),
        tuple(f"{names[y]} → bias of {names[t]}" for y, t in pairs),
        (("",) * n, _says(first.first, names, n, judge), *said),
        torch.cat([nothing, *(f[None, :n] for f in failed)]),
        torch.cat([nothing, *(a[None] for a in another)]),
    )


def strip(
    vae: PairedVAE, part: ImageSet, seen: Seen, device: Device, *, steps: int, leak: float,
    factor: float, model: Classifier | None = None, first: int | None = None,
) -> Grid:  # fmt: skip
    """Some images, each with the bias of every class.

    Args:
        vae: on the device, in evaluation mode.
        part: the images; the first ones are shown.
        seen: what both halves make of them.
        device: where to compute.
        steps: see `deepfool`.
        leak: see `deepfool`.
        factor: how many times the smallest move is made; with `model`, at most.
        model: the move is made until it says the class; see `far_enough`.
        first: the class to begin with, where one is asked for.
    """
    classes = sorted(range(len(part.classes)), key=lambda c: c != first)[:MOST_CLASSES]
    n, k = min(STRIPS, len(part)), len(classes)
    z_s, z_b = (z[:n].repeat_interleave(k, 0) for z in (seen.z_s, seen.z_b))
    target = torch.tensor(classes).repeat(n)
    moved = push(vae, z_b, target, device, steps=steps, leak=leak)
    reached, move = moved.reached, moved.z - z_b
    times = torch.full((len(z_b),), factor)
    if model is not None:
        times = far_enough(vae, z_s, z_b, move, target, model, device, factor)
        reached = times.isfinite()
    further = z_b + times.clamp(max=factor)[:, None] * move
    after = as_bytes(decode(vae, z_s, further, device))
    then = look(vae, ImageSet(after, target, part.classes), device, model)
    another = _another(then, target, n * k, SIGNAL if model is None else MODEL)
    before = as_bytes(decode(vae, seen.z_s[:n], seen.z_b[:n], device))
    nothing = torch.zeros(n, 2, dtype=torch.bool)
    return Grid(
        torch.cat([torch.stack([_pixels(part, n), before], 1), after.unflatten(0, (n, k))], 1),
        tuple(part.classes[y] for y in part.y[:n].tolist()),
        ("original", "reconstruction", *(f"bias of {part.classes[c]}" for c in classes)),
        (("",) * (k + 2),) * n,
        torch.cat([nothing, ~reached.view(n, k)], 1),
        torch.cat([nothing, another.view(n, k)], 1),
    )


def donors(bias: Tensor, target: Tensor, seed: int) -> Tensor:
    """For each target an image for which the biased half says that class: int64 [n]; -1: none."""
    rng = torch.Generator().manual_seed(derive(seed, "bias pictures", "donors"))
    found = torch.full_like(target, -1)
    for t in target.unique().tolist():
        pool, wanted = (bias == t).nonzero().squeeze(1), target == t
        if len(pool):
            drawn = torch.randint(len(pool), (int(wanted.sum()),), generator=rng)
            found[wanted] = pool[drawn]
    return found


def swap_grid(
    part: ImageSet, target: Tensor, given: Tensor, change: Change, pushed: Grid,
    judge: str = SIGNAL,
) -> Grid:  # fmt: skip
    """The same images with the whole bias latent of another image, below the smallest move.

    Args:
        part: the images, n.
        target: int64 [n].
        given: uint8 [n, c, h, w], the images that gave their bias latent.
        change: the swap.
        pushed: the grid of the smallest move, of the same images.
        judge: what to call it.
    """
    n = min(COLUMNS, len(part))
    failed, another = torch.zeros(2, 2, n, dtype=torch.bool)
    failed[1] = (change.then.judge[:n] != target[:n]) & (judge == MODEL)
    another[1] = _another(change.then, target, n, judge)
    return Grid(
        torch.cat([pushed.images[:, :n], torch.stack([given[:n], change.after[:n]])]),
        (*pushed.rows, "an image with that bias", "with its whole bias latent"),
        pushed.columns[:n],
        (
            *(row[:n] for row in pushed.captions),
            ("",) * n,
            _says(change.then, part.classes, n, judge),
        ),
        torch.cat([pushed.failed[:, :n], failed]),
        torch.cat([pushed.another[:, :n], another]),
    )


def pairs_grid(
    vae: PairedVAE, part: ImageSet, seen: Seen, device: Device, seed: int, n_pairs: int = 2
) -> Grid:
    """Pairs of images of different classes, drawn at random, that exchange their bias latents."""
    rng = torch.Generator().manual_seed(derive(seed, "bias pictures", "pairs"))
    order = torch.randperm(len(part), generator=rng)
    ids: list[int] = []
    for i in order.tolist():
        if len(ids) == 2 * n_pairs:
            break
        if len(ids) % 2 == 0 or part.y[i] != part.y[ids[-1]]:
            ids.append(i)
    chosen = torch.tensor(ids[: len(ids) // 2 * 2])
    other = chosen.view(-1, 2).flip(1).flatten()
    made = [as_bytes(decode(vae, seen.z_s[chosen], seen.z_b[z], device)) for z in (chosen, other)]
    shown, n = part.select(chosen), len(chosen)
    letters = [f"{'AB'[k % 2]}{k // 2 + 1}" for k in range(n)]
    return Grid(
        torch.stack([_pixels(shown, n), *made], 1),
        tuple(f"{a}: {part.classes[y]}" for a, y in zip(letters, shown.y.tolist(), strict=True)),
        ("original", "reconstruction", "own signal, bias of the other"),
        (("", "", ""),) * n,
        *torch.zeros(2, n, 3, dtype=torch.bool),
    )


def class_maps(heat: Tensor, target: Tensor, reached: Tensor, classes: tuple[str, ...]) -> Maps:
    """Where pictures changed on the way to each class's bias, on average over those that got there.

    Args:
        heat: float [n, h, w].
        target: int64 [n].
        reached: bool [n].
        classes: names; a class that no picture reached is left out.
    """
    values, titles, counts = [], [], []
    for t, name in enumerate(classes):
        own = reached & (target == t)
        if bool(own.any()):
            values.append(heat[own].mean(0))
            titles.append(name)
            counts.append(int(own.sum()))
    shape = heat.shape[1:]
    stacked = torch.stack(values) if values else torch.zeros(0, *shape)
    return Maps(stacked, tuple(titles), tuple(counts))


def galleries(part: ImageSet, seen: Seen, agree: Tensor | None) -> tuple[Gallery, Gallery]:
    """The training images whose label the biased half thinks least, and most, likely.

    Of the most likely ones, each class has the same number: there, one class often comes first.

    Args:
        part: the training images.
        seen: what both halves make of them.
        agree: int64 [n], 1 for aligned, 0 for conflicting, -1 not known; None without bias labels.
    """
    p = seen.p_bias.gather(1, part.y[:, None]).squeeze(1)
    order, names = p.argsort(stable=True), {1: "aligned", 0: "conflicting", -1: None}

    def sheet(ids: Tensor) -> Gallery:
        captions = tuple(
            f"labelled {part.classes[part.y[i]]}, biased half: {part.classes[seen.bias[i]]}"
            for i in ids.tolist()
        )
        marks = tuple(None if agree is None else names[int(agree[i])] for i in ids.tolist())
        return Gallery(part.images[ids], ids, p[ids], captions, marks)

    n, sure = min(SHEET, len(part) // 2), order.flip(0)
    return sheet(order[:n]), sheet(sure[turns(part.y[sure], len(part.classes))][:n])


def histogram(part: ImageSet, seen: Seen) -> Histogram:
    """How the biased half's probability of the label is spread, class by class."""
    p = seen.p_bias.gather(1, part.y[:, None]).squeeze(1)
    place = (p * BINS).long().clamp(max=BINS - 1) + BINS * part.y
    counts = torch.bincount(place, minlength=BINS * len(part.classes))
    return Histogram(counts.view(-1, BINS), part.classes)


def _pixels(part: ImageSet, n: int) -> Tensor:
    return part.images[torch.arange(n)]


def _another(then: Seen, target: Tensor, n: int, judge: str) -> Tensor:
    """Of which pictures the biased half says another class than the target: bool [n]."""
    return (then.bias[:n] != target[:n]) & (judge == SIGNAL)


def _says(seen: Seen, names: tuple[str, ...], n: int, judge: str) -> tuple[str, ...]:
    """What the biased half and the judge say of the pictures, seen again."""
    pairs = zip(seen.bias[:n].tolist(), seen.judge[:n].tolist(), strict=True)
    return tuple(f"biased {names[b]} · {judge} {names[s]}" for b, s in pairs)
