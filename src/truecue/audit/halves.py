"""What the two halves of a paired VAE make of images, and of images whose bias was changed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.evaluate import apply
from truecue.metrics.intervals import Estimate, wilson
from truecue.nets.vae import PairedVAE
from truecue.seeds import derive

BATCH = 250
"""Images that are decoded at a time."""


class Seen(NamedTuple):
    """What both halves make of n images; nothing is sampled."""

    z_s: Tensor
    """float [n, d], means of the signal latent."""
    z_b: Tensor
    """float [n, d], means of the bias latent."""
    signal: Tensor
    """int64 [n], the class that the signal half says."""
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


class Separation(NamedTuple):
    """How well the latents are separated: what changing the bias latent does to both halves.

    The changed pictures are given to both encoders again, and compared with the reconstructions.
    """

    n: int
    """Pictures judged."""
    flips: Estimate
    """Share in which the biased half says another class than for the reconstruction."""
    to_target: Estimate
    """Share in which it says the class that was aimed at."""
    stays: Estimate
    """Share in which the signal half says the same class as for the reconstruction."""
    separated: Estimate
    """Share in which both happen: the biased half flips and the signal half stays."""
    change: float
    """Mean absolute change of the pixels, in [0, 1]."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            key: value.to_dict() if isinstance(value, Estimate) else value
            for key, value in self._asdict().items()
        }


@torch.no_grad()
def look(vae: PairedVAE, images: ImageSet, device: Device) -> Seen:
    """What both halves make of images; the network must be on the device, in evaluation mode."""

    def both(x: Tensor) -> Tensor:
        latents = vae.encode(x)
        signal = vae.logits_s(latents.z_s_mean).argmax(1, keepdim=True)
        p_bias = vae.logits_b(latents.z_b_mean).float().softmax(1)
        return torch.cat([latents.z_s_mean, latents.z_b_mean, signal, p_bias], 1)

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
    vae: PairedVAE, z_s: Tensor, z_b: Tensor, other: Tensor, part: ImageSet, device: Device
) -> Change:
    """Put other bias latents in the place of those of some images.

    Args:
        vae: on the device, in evaluation mode.
        z_s: float [n, d], n > 0.
        z_b: float [n, d].
        other: float [n, d], what replaces `z_b`.
        part: the n images.
        device: where to compute.
    """
    before, after = (decode(vae, z_s, z, device) for z in (z_b, other))
    pictures = as_bytes(before), as_bytes(after)
    first, then = (look(vae, ImageSet(shown, part.y, part.classes), device) for shown in pictures)
    return Change(*pictures, (after - before).abs().mean(1), first, then)


def separation(change: Change, target: Tensor) -> Separation:
    """How often the biased half's answer flips while the signal half's stays.

    Args:
        change: n images before and after.
        target: int64 [n], the class that the biased half was meant to say.
    """
    n = len(target)
    flips, to_target = change.first.bias != change.then.bias, change.then.bias == target
    stays = change.first.signal == change.then.signal
    hits = flips, to_target, stays, flips & stays
    one, two, three, both = (wilson(int(hit.sum()), n) for hit in hits)
    mean = float(change.heat.mean()) if n else float("nan")
    return Separation(n, one, two, three, both, mean)


def both_right(part: ImageSet, seen: Seen, seed: int) -> Tensor:
    """Positions of the images that both halves get right, classes taking turns: int64 [m].

    No bias label is looked at. As the biased half is right as well, most of them are bias-aligned.
    """
    rng = torch.Generator().manual_seed(derive(seed, "bias pictures", "choose"))
    order = torch.randperm(len(part), generator=rng)
    order = order[((seen.signal == part.y) & (seen.bias == part.y))[order]]
    return order[turns(part.y[order], len(part.classes))]


def turns(y: Tensor, n_classes: int) -> Tensor:
    """Positions of labels [n] in an order in which classes take turns, each in its own order."""
    own = F.one_hot(y, n_classes).cumsum(0).gather(1, y[:, None]).squeeze(1)
    return own.argsort(stable=True)


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as uint8."""
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)
