"""Applying a classifier to a whole image set, shared out over the processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.engine.learner import Predict, gather_rows
from truecue.errors import DataError, SupervisionError
from truecue.metrics.groups import GroupCounts, group_counts
from truecue.nets.classifier import Classifier

BATCH = 1000
"""Images in one forward pass; large enough to keep small networks busy, small enough for memory."""
CPU_PIXELS = 8 * 224 * 224
"""Pixels in one forward pass on a CPU: activations of more do not stay in its caches."""


def batch_size(data: ImageSet, device: Device, most: int = BATCH) -> int:
    """Images in one forward pass: `most`, on a CPU fewer where images are large.

    At 224 pixels a CPU takes about twice as long for each image in batches of 64 as in
    batches of 8; at 20 pixels and below it gets 1,000 at once.
    """
    if device.device.type != "cpu":
        return most
    _, height, width = data.shape
    return max(1, min(most, CPU_PIXELS // (height * width)))


@torch.no_grad()
def apply(
    fn: Callable[[Tensor], Tensor], data: ImageSet, device: Device, *, batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:  # fmt: skip
    """The outputs of a function for all images, in their order.

    Args:
        fn: from uint8 [b, c, h, w] to a tensor [b, ...]. A network is put into evaluation mode
            for the time of the call.
        data: n images.
        device: where to compute. With several processes each does its part and all get the whole.
        batch: images in one forward pass, at most; see `batch_size`.
        progress: called with (images done, images in all) after each forward pass.

    Returns:
        A tensor [n, ...] in main memory, float32 where the outputs are floating.
    """
    was_training = isinstance(fn, nn.Module) and fn.training
    if isinstance(fn, nn.Module):
        fn.eval()
    lo, hi = (len(data) * (device.rank + k) // device.world for k in (0, 1))
    batch, parts = batch_size(data, device, batch), []
    with device.autocast():
        for start in range(lo, hi, batch):
            images = data.images[start : min(start + batch, hi)].to(device.device)
            out = fn(images)
            parts.append((out.float() if out.is_floating_point() else out).cpu())
            if progress is not None:
                progress(min(start + batch, hi) - lo, hi - lo)
    if was_training:
        fn.train()  # type: ignore[attr-defined]
    if not parts:  # more processes than images
        parts = [fn(data.images[:1].to(device.device))[:0].cpu()]
    return gather_rows(torch.cat(parts))


def predictions(fn: Predict, data: ImageSet, device: Device) -> Tensor:
    """The predicted class of every image: int64 [n]."""
    return apply(fn, data, device).argmax(1)


def count(pred: Tensor, data: ImageSet, bias: str | None) -> GroupCounts:
    """Hits and totals by class and bias value; by class alone where the bias is not known.

    Args:
        pred: int64 [n], predicted classes.
        data: n images with labels.
        bias: name of an attribute, or None.

    Raises:
        SupervisionError: the images do not have that attribute.
    """
    k = len(data.classes)
    if bias is None:
        return group_counts(pred, data.y, torch.zeros_like(data.y), n_classes=k, n_values=1)
    if bias not in data.attributes:
        known = ", ".join(sorted(data.attributes)) or "none"
        raise SupervisionError(f"these images have no attribute '{bias}' (attributes: {known})")
    attribute = data.attributes[bias]
    return group_counts(pred, data.y, attribute.values, n_classes=k, n_values=len(attribute.names))


def check_fits(net: Classifier, data: ImageSet) -> None:
    """Refuse images that a network was not made for.

    Raises:
        DataError: its classes, channels or image size are not those of the images.
    """
    known = net.spec.get("extra", {}).get("classes")
    if known is not None and tuple(known) != data.classes:
        raise DataError(
            f"the model knows the classes {', '.join(known)}; the data has"
            f" {', '.join(data.classes)}. Give the data that it was trained for"
        )
    if net.n_classes != len(data.classes) or net.channels != data.shape[0]:
        raise DataError(
            f"the model takes {net.channels} channels and tells {net.n_classes} classes apart; the"
            f" data has {data.shape[0]} channels and {len(data.classes)} classes"
        )
    size = net.spec.get("size")
    if size is not None and size != max(data.shape[1:]):
        raise DataError(
            f"the model was trained on images of {size} pixels; these have"
            f" {max(data.shape[1:])}. For your own images set data.size={size}"
        )
