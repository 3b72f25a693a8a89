"""What the two halves of a paired VAE make of images, and of images whose bias was changed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.evaluate import apply
from truecue.nets.classifier import Classifier
from truecue.nets.vae import PairedVAE
from truecue.seeds import derive

BATCH = 250
"""Images that are decoded at a time."""
RUNGS = 9
"""Lengths that are tried of a move, from the smallest to the longest one, each by the same factor
longer than the one before."""

Pair = tuple[Tensor, Tensor]
"""Signal and bias latents, float [n, d] each."""


class Seen(NamedTuple):
    """What the biased half and a judge make of n images; nothing is sampled.

    The judge is the signal half. Where the biased half follows a classifier, it is that classifier.
    """

    z_s: Tensor
    """float [n, d], means of the signal latent."""
    z_b: Tensor
    """float [n, d], means of the bias latent."""
    judge: Tensor
    """int64 [n], the class that the signal half says, or the classifier in its place."""
    bias: Tensor
    """int64 [n], the class that the biased half says."""
    p_bias: Tensor
    """float [n, k], the biased half's probability of each class."""

    def select(self, ids: Tensor) -> Seen:
        """Those of some images: positions (int64 [m]) or a mask (bool [n])."""
        return Seen(*(value[ids] for value in self))


class Change(NamedTuple):
    """n images before and after something was done to their bias latent, as pictures."""

    before: Tensor
    """uint8 [n, c, h, w], the reconstruction."""
    after: Tensor
    """uint8 [n, c, h, w], the reconstruction with the other bias latent."""
    heat: Tensor
    """float [n, h, w], mean over channels of the absolute difference, pixels in [0, 1]."""
    first: Seen
    """What both halves make of the pictures `before`."""
    then: Seen
    """What both halves make of the pictures `after`."""

    def select(self, ids: Tensor) -> Change:
        """Those of some images: positions (int64 [m]) or a mask (bool [n])."""
        before, after, heat = (value[ids] for value in self[:3])
        return Change(before, after, heat, self.first.select(ids), self.then.select(ids))


@torch.no_grad()
def look(vae: PairedVAE, images: ImageSet, device: Device, model: Classifier | None = None) -> Seen:
    """What both halves make of images.

    Args:
        vae: on the device, in evaluation mode, as is `model`.
        images: n of them.
        device: where to compute.
        model: the judge in place of the signal half.
    """

    def both(x: Tensor) -> Tensor:
        latents = vae.encode(x)
        judged = vae.logits_s(latents.z_s_mean) if model is None else model(x)
        judge = judged.argmax(1, keepdim=True)
        p_bias = vae.logits_b(latents.z_b_mean).float().softmax(1)
        return torch.cat([latents.z_s_mean, latents.z_b_mean, judge, p_bias], 1)

    told = apply(both, images, device)
    k = len(images.classes)
    z_s, z_b = told[:, : -k - 1].chunk(2, dim=1)
    p_bias = told[:, -k:]
    return Seen(z_s, z_b, told[:, -k - 1].long(), p_bias.argmax(1), p_bias)


@torch.no_grad()
def decode(vae: PairedVAE, z_s: Tensor, z_b: Tensor, device: Device) -> Tensor:
    """The pictures of latents [n, d] each: float [n, c, h, w] in [0, 1], in main memory."""
    pairs = zip(z_s.split(BATCH), z_b.split(BATCH), strict=True)
    made = [vae.image(s.to(device.device), b.to(device.device)).float().cpu() for s, b in pairs]
    return torch.cat(made)


def compare(
    vae: PairedVAE, old: Pair, new: Pair, part: ImageSet, device: Device,
    model: Classifier | None = None,
) -> Change:  # fmt: skip
    """Put other latents in the place of those of some images.

    Args:
        vae: on the device, in evaluation mode.
        old: signal and bias latents, float [n, d] each, n > 0.
        new: what replaces them.
        part: the n images.
        device: where to compute.
        model: see `look`.
    """
    before, after = (decode(vae, *latents, device) for latents in (old, new))
    pictures = as_bytes(before), as_bytes(after)
    sets = (ImageSet(shown, part.y, part.classes) for shown in pictures)
    first, then = (look(vae, shown, device, model) for shown in sets)
    return Change(*pictures, (after - before).abs().mean(1), first, then)


@torch.no_grad()
def far_enough(
    vae: PairedVAE, z_s: Tensor, z_b: Tensor, move: Tensor, target: Tensor, model: Classifier,
    device: Device, most: float,
) -> Tensor:  # fmt: skip
    """How many times a move of the bias latent must be made until a classifier says the target.

    Args:
        vae: on the device, in evaluation mode, as is `model`.
        z_s: float [n, d].
        z_b: float [n, d], where the moves begin.
        move: float [n, d], the smallest moves.
        target: int64 [n].
        model: is shown the decoded pictures.
        device: where to compute.
        most: the longest move, in smallest ones, at least 1.

    Returns:
        float [n], the first of `RUNGS` lengths in [1, most] that does; infinite where none does.
    """
    times = torch.full((len(target),), float("inf"))
    for rung in range(RUNGS):
        left = times.isinf().nonzero().squeeze(1)
        if len(left) == 0:
            break
        length = most ** (rung / (RUNGS - 1))
        shown = as_bytes(decode(vae, z_s[left], z_b[left] + length * move[left], device))
        says = torch.cat([model(x.to(device.device)).argmax(1).cpu() for x in shown.split(BATCH)])
        times[left[says == target[left]]] = length
    return times


def both_right(part: ImageSet, seen: Seen, seed: int) -> Tensor:
    """Positions of the images that both halves, or half and model, get right: int64 [m].

    In the order in which they are shown: classes take turns.

    No bias label is looked at. As the biased half is right as well, most of them are bias-aligned.
    """
    rng = torch.Generator().manual_seed(derive(seed, "bias pictures", "choose"))
    order = torch.randperm(len(part), generator=rng)
    order = order[((seen.judge == part.y) & (seen.bias == part.y))[order]]
    return order[turns(part.y[order], len(part.classes))]


def turns(y: Tensor, n_classes: int) -> Tensor:
    """Positions of labels [n] in an order in which classes take turns, each in its own order."""
    own = F.one_hot(y, n_classes).cumsum(0).gather(1, y[:, None]).squeeze(1)
    return own.argsort(stable=True)


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as uint8."""
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)
