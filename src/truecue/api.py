"""One run from start to report: hide what the method may not see, fit, measure, write it down."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from truecue.atomic import LOCK, locked
from truecue.audit.bias import bias_pictures
from truecue.audit.pairs import pair_numbers
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import check_fits
from truecue.engine.judge import aligned_mask
from truecue.engine.run import claim
from truecue.errors import ConfigError
from truecue.fitting import REFERENCE, Fitting, check_supervision, plainly
from truecue.methods.base import Method, method_name
from truecue.methods.erm import ERM
from truecue.nets.classifier import Classifier, save_classifier
from truecue.nets.pretrained import Pretrained
from truecue.nets.vae import PairedVAE, save_vae
from truecue.report import parts
from truecue.report.bias_page import write_bias_page
from truecue.report.lowrank import lowrank_part
from truecue.report.report import write_report
from truecue.report.show import example_pictures, suspects

__all__ = ["Trained", "digest", "evaluate", "train"]


@dataclass(frozen=True)
class Trained:
    """What `train` gives back."""

    net: Classifier
    """From uint8 images to logits, on the CPU, in evaluation mode."""
    report: dict[str, Any]
    """What `report.json` holds."""
    others: Mapping[str, Classifier] = field(default_factory=dict)
    """The baseline and the branches, by name."""
    kept: Mapping[str, PairedVAE] = field(default_factory=dict)
    """What else the method made, by name: SiH's `vae`, of which pictures of the bias are made."""


def train(
    method: Method,
    data: Splits,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    arch: str | None = None,
    baseline: bool = True,
    device: Device | None = None,
    fresh: bool = False,
    quiet: bool = True,
    facts: Mapping[str, Any] | None = None,
    checkpoint_seconds: float = 300.0,
    pretrained: Pretrained | None = None,
    root: Path | None = None,
) -> Trained:
    """Train a classifier by a method, measure it, and write the model and the report.

    Interrupted and started again with the same arguments, it goes on where it was. Torch's own
    random state is left as it was.

    Args:
        method: with its settings.
        data: the splits, with all attributes; the method sees only those that it declares.
        out: folder for everything that is kept; None keeps nothing.
        seed: of initialisation, order and augmentation.
        arch: architecture of the network that is delivered; None: by the method and image size.
        baseline: also train the same network plainly, with the same plan, as the "before".
        device: where to compute; None: the best there is.
        fresh: start over where `out` holds an earlier run.
        quiet: show no progress.
        facts: what is known of where the data comes from, for the report: `data` (its name),
            `settings`, `command`.
        checkpoint_seconds: time between checkpoints.
        pretrained: weights that training begins with or, frozen, features that a last layer is
            trained on.
        root: where a relative file name of weights is looked for, beside the working directory.

    Raises:
        ConfigError: `arch` and `pretrained` are both given, or a setting cannot be used here.
        RunMismatch: `out` holds a run with other settings.
        StorageError: another process is training in `out`, or it cannot be written.
        SupervisionError: the method needs attributes that the data does not have.
        TruecueError: anything else that the user can mend.
    """
    began = time.monotonic()
    facts = dict(facts or {})
    device = device or Device()
    folder = None if out is None else Path(out)
    check_supervision(method, data)
    if pretrained is not None and arch is not None:
        raise ConfigError("give arch or pretrained weights, which are for a network of their own")
    with ExitStack() as held:
        if folder is not None and device.first:
            held.enter_context(
                locked(
                    folder / LOCK,
                    f"another process is training in {folder}; wait for it, or give another folder"
                    " by --out",
                )
            )
            asked = {
                "data": facts.get("data"),
                "data_settings": facts.get("settings"),
                "method": method_name(method),
                "settings": method.to_dict(),
                "seed": seed,
                "arch": arch,
                "pretrained": pretrained
                and pretrained.to_dict() | {"digest": pretrained.digest(root)},
                "baseline": baseline,
                "precision": device.precision,
                "images": digest(data),
            }
            runs = (method_name(method), "erm", REFERENCE)
            claim(folder, asked, {"versions": parts.versions()}, runs=runs, fresh=fresh)
        device.barrier()

        with torch.random.fork_rng():
            fitting = Fitting(
                data,
                seed=seed,
                device=device,
                arch=arch,
                pretrained=pretrained,
                root=root,
                quiet=quiet,
                checkpoint_seconds=checkpoint_seconds,
                folder=folder,
            )
            seen, name = fitting.seen, method_name(method)
            fitted = fitting.fit(method, name)
            net, run = fitted.net, fitted.run
            models = {name: parts.model_part(method, fitted, seen, device)}
            lowrank, highest = lowrank_part(method, fitted, data, device)
            nets = {name: net} | {f"{name}-{b}": made.net for b, made in run.branches.items()}
            before = None
            if baseline and not isinstance(method, ERM):
                plain = ERM(plan=plainly(method.plan))
                again = fitting.fit(plain, "erm", None if fitting.start else net.spec["arch"])
                models = {"erm": parts.model_part(plain, again, seen, device)} | models
                before, nets["erm"] = "erm", again.net

        report = {
            "format": 1,
            "kind": "train",
            **parts.circumstances(device, seed, facts),
            "task": parts.task_part(data, facts),
            "labels_used": method.labels_used(),
            "selection": method.selection(),
            "pretrained": pretrained and pretrained.to_dict(),
            "before": before,
            "after": name,
            "models": models,
            "seconds": round(time.monotonic() - began, 2),
        }
        mask = aligned_mask(data)
        pictures = example_pictures(data, seen, mask, nets, before, name, device)
        if lowrank is None:
            found, sheet = suspects(data, seen, mask, run.branches, name, device)
            report |= {"suspects": found} if found else {}
            pictures |= {"suspects": sheet} if sheet else {}
        else:
            report |= {"lowrank": lowrank}
            pictures |= {"highest": highest} if highest else {}
        if run.pairs is not None:
            compared = {key: nets[key] for key in (before, name) if key is not None}
            guide = run.branches.get(run.pairs.guessed_by or "")
            similar = pair_numbers(
                compared, seen.test, data.bias, run.pairs, guide and guide.net, run.log.rows, device
            )
            report |= {"pairs": similar} if similar else {}
        nets = {key: fitting.whole(value).cpu().eval() for key, value in nets.items()}
        shown = {key: bias_pictures(vae, data, seed=seed, device=device)
                 for key, vae in run.kept.items()}  # fmt: skip
        for made in shown.values():
            report |= {"bias": made.summary()}
        kept = {key: vae.cpu().eval() for key, vae in run.kept.items()}
        if folder is not None and device.first:
            extra = {
                "classes": list(data.train.classes), "seed": seed, "data": facts.get("data")
            }  # fmt: skip
            for key, value in nets.items():
                path = folder / ("model.safetensors" if key == name else f"{key}.safetensors")
                save_classifier(value, path, extra | {"method": key})
            for key, vae in kept.items():
                save_vae(vae, folder / f"{name}-{key}.safetensors", extra | {"method": name})
                about = {"data": facts.get("data"), "model": name}
                about |= parts.circumstances(device, seed, facts)
                write_bias_page(shown[key], folder / "bias", about)
            write_report(report, pictures, folder, bias=next(iter(shown.values()), None))
        device.barrier()
        return Trained(nets.pop(name), report, nets, kept)


def evaluate(
    net: Classifier,
    data: Splits,
    *,
    name: str = "model",
    device: Device | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a classifier on the validation and test images.

    Args:
        net: from uint8 images to logits.
        data: the splits.
        name: what to call the model in the report.
        device: where to compute; None: the best there is.
        facts: see `train`.

    Returns:
        A report like that of `train`, with one model.

    Raises:
        DataError: the model's classes or image channels are not those of the data.
    """
    began = time.monotonic()
    device = device or Device()
    check_fits(net, data.test)
    net = net.to(device.device)
    model = {
        "arch": net.spec.get("arch"),
        "parameters": parts.size_of(net),
        **parts.measures(net, data, device),
    }
    return {
        "format": 1,
        "kind": "evaluate",
        **parts.circumstances(device, None, dict(facts or {})),
        "task": parts.task_part(data, dict(facts or {})),
        "before": None,
        "after": name,
        "models": {name: model},
        "seconds": round(time.monotonic() - began, 2),
    }


def digest(data: Splits) -> str:
    """A short text that tells these splits from others: all labels, and some of the images."""
    digest = hashlib.blake2b(digest_size=8)
    for name, part in data.parts().items():
        digest.update(f"{name} {part.classes} {len(part)} {part.shape}".encode())
        digest.update(part.y.numpy().tobytes())
        for key, attribute in sorted(part.attributes.items()):
            digest.update(f"{key} {attribute.names}".encode())
            digest.update(attribute.values.numpy().tobytes())
        some = torch.arange(0, len(part), max(1, len(part) // 64))
        digest.update(part.images[some].numpy().tobytes())
    return digest.hexdigest()
