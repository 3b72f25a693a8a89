"""Pictures of what a classifier goes by that was trained elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from truecue.api import digest
from truecue.audit.bias import bias_pictures, check_factor, check_target
from truecue.audit.shown import BiasPictures
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import check_fits, predictions
from truecue.engine.features import digest_of
from truecue.engine.run import Run, claim
from truecue.errors import DataError
from truecue.methods.bias_half import BiasHalf
from truecue.nets.classifier import Classifier
from truecue.nets.vae import PairedVAE, save_vae
from truecue.report import parts
from truecue.report.bias_page import write_bias_page

TRAINING = "training"
"""The folder that stages are kept in."""
BLURRED = 0.8
"""Share of reconstructions below which there is a note: the classifier must see in them what it
sees in the images."""


class ShownBias(NamedTuple):
    """What `show_bias` gives back."""

    pictures: BiasPictures
    vae: PairedVAE
    """The half that follows the classifier, and the decoder; its signal classifier is untrained.
    On the CPU, in evaluation mode."""
    page: Path | None
    """`index.html`; None where nothing is kept."""


def show_bias(
    net: Classifier,
    data: Splits,
    *,
    out: Path | str | None = None,
    settings: BiasHalf | None = None,
    seed: int = 0,
    arch: str | None = None,
    target: str | None = None,
    steps: int = 20,
    factor: float | None = None,
    device: Device | None = None,
    fresh: bool = False,
    quiet: bool = True,
    facts: Mapping[str, Any] | None = None,
    checkpoint_seconds: float = 300.0,
) -> ShownBias:
    """Show what a classifier goes by, whatever it was trained by.

    Only the biased half of a paired VAE is trained, to follow the classifier's answers; then its
    latent is changed in images, and the classifier itself is shown the pictures. Needs no labels to
    train; class labels choose the images that are shown, bias labels are not looked at.

    Interrupted and started again with the same arguments, training goes on where it was; finished,
    it is read back, and pictures are made anew with other choices. The classifier and torch's
    random state are left as they were.

    Args:
        net: from uint8 images to logits.
        data: the splits; validation images are needed.
        out: folder for the networks (`vae.safetensors`) and all that `write_bias_page` writes; None
            keeps nothing.
        settings: of the training.
        seed: of the training, and of the choice of images, targets and pairs.
        arch: of the encoders, `vae-KIND`; None: by image size.
        target: see `bias_pictures`, like `steps` and `factor`.
        steps: see there.
        factor: see there.
        device: where to compute; None: the best there is.
        fresh: start over where `out` holds an earlier training.
        quiet: show no progress.
        facts: see `train`.
        checkpoint_seconds: time between checkpoints.

    Raises:
        ConfigError: there are no validation images, no class `target`, or no decoder for `arch`; or
            `factor` is not above 1.
        DataError: the images are not such as the classifier takes, are not square, or it is right
            about none of the validation images.
        RunMismatch: `out` holds a training with other settings.
        TruecueError: anything else that the user can mend.
    """
    device, facts, settings = device or Device(), dict(facts or {}), settings or BiasHalf()
    folder = None if out is None else Path(out)
    net = copy.deepcopy(net).to(device.device).eval()
    check_fits(net, data.test)
    settings.check(data, arch)
    check_target(data.train, target)
    check_factor(factor)
    _check_right(net, data, device)
    if folder is not None and device.first:
        asked = {
            "data": facts.get("data"),
            "data_settings": facts.get("settings"),
            "model": digest_of(net, head=True),
            "settings": settings.to_dict(),
            "seed": seed,
            "arch": arch,
            "precision": device.precision,
            "images": digest(data),
        }
        claim(folder, asked, {"versions": parts.versions()}, runs=(TRAINING,), fresh=fresh)
    device.barrier()
    with torch.random.fork_rng():
        run = Run(
            folder / TRAINING if folder else None, seed, device, arch=arch, quiet=quiet,
            checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
        vae = settings.fit(net, data, run)
    pictures = bias_pictures(
        vae, data, seed=seed, target=target, steps=steps, factor=factor, model=net, device=device
    )
    pictures = replace(pictures, notes=(*pictures.notes, *_notes(pictures)))
    vae, page = vae.cpu().eval(), None
    if folder is not None and device.first:
        extra = {"classes": list(data.train.classes), "seed": seed, "data": facts.get("data")}
        save_vae(vae, folder / "vae.safetensors", extra | {"signal_classifier": "untrained"})
        about = {"data": facts.get("data"), "model": facts.get("model")}
        about |= parts.circumstances(device, seed, facts)
        page = write_bias_page(pictures, folder, about)
    device.barrier()
    return ShownBias(pictures, vae, page)


def _check_right(net: Classifier, data: Splits, device: Device) -> None:
    val = data.val
    if val is not None and not bool((predictions(net, val, device) == val.y).any()):
        raise DataError(
            f"the model is right about none of the {len(val):,} validation images, so there is"
            " nothing to show of what it goes by. Give the data that it was trained for, its"
            " classes in the same order"
        )


def _notes(pictures: BiasPictures) -> list[str]:
    """What the reader must know about reconstructions, in sentences."""
    same = pictures.faithful
    if same is None or same.value >= BLURRED:
        return []
    return [
        f"The model says of only {same.value:.0%} of the reconstructions what it says of the"
        " images: the decoder does not paint all that the model goes by"
    ]
