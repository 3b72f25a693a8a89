"""Bias scores: what the biased networks of trained methods make of images, as candidate cues.

Methods that need no bias labels train a network to follow the bias (the biased branch of LfF, LC,
DisEnt and SiH, the deep one of DeNetDM, the first one of JTT). What it says of an image is a score
that needs no label: the log-odds of every class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from truecue.audit.candidates import CueColumn
from truecue.audit.features import encode, logits_of
from truecue.data.sets import Splits
from truecue.engine.device import Device
from truecue.engine.evaluate import check_fits
from truecue.errors import DataError
from truecue.nets.classifier import Classifier, load_classifier

_SURE = 1e-9  # probabilities are kept so far from 0 and 1


def biased_networks(run: Path) -> dict[str, Classifier]:
    """The networks of a run that were trained to follow the bias, by their names in the run.

    Args:
        run: the folder of a training.

    Raises:
        DataError: the folder holds no finished run, or one without such a network.
    """
    try:
        told = json.loads((run / "report.json").read_text(encoding="utf-8"))
        method = str(told["after"])
        branches = dict(told["models"][method]["branches"])
    except FileNotFoundError:
        raise DataError(f"{run} holds no finished run: there is no report.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run}/report.json is not the report of a training: {error}") from None
    names = [name for name, branch in branches.items() if branch["role"] == "biased"]
    if not names:
        raise DataError(
            f"{run} is a run of {method}, which trains no biased network; give a run of lff, lc,"
            " disent, jtt, denetdm or sih"
        )
    return {name: load_classifier(run / f"{method}-{name}.safetensors") for name in names}


def score_columns(
    nets: Mapping[str, Classifier], data: Splits, rows: Mapping[str, Tensor], device: Device, *,
    quiet: bool,
) -> dict[str, CueColumn]:  # fmt: skip
    """What networks say of images, as candidates for `find_cues`.

    Features are kept in the cache shard by shard, as those of the audited model.

    Args:
        nets: by the name that the cue gets.
        data: the splits.
        rows: int64 [m], images of `train` and `test` that are wanted; no others are computed.
        device: where to compute.
        quiet: show no progress.

    Raises:
        DataError: a network does not fit the images.
    """
    found = {}
    for name, net in nets.items():
        check_fits(net, data.train)
        odds = {}
        for split, ids in rows.items():
            part, what = data.parts()[split].select(ids), f"{name}, {split}"
            logits = logits_of(encode(part, net, device, what=what, quiet=quiet), net.cpu().head)
            odds[split] = torch.logit(logits.double().softmax(1), eps=_SURE).float()
        about = "log-odds of every class by a network that was trained to follow the bias"
        found[name] = CueColumn(odds["train"], odds["test"], "score", about)
    return found
