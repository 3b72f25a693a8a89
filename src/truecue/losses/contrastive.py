"""Supervised contrastive losses with a margin between positives and negatives.

Barbano, Dufumier, Tartaglione, Grangetto, Gori, ICLR 2023, arXiv 2211.05568. All of them look at
cosine similarities alone; `similarities` makes them, once for several losses.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from truecue.errors import ConfigError
from truecue.losses.precision import wide

Form = Literal["supinfonce", "supinfonce-in", "supcon", "supcon-in"]
"""Which condition the loss stands for; see `contrastive`."""


class Contrast(NamedTuple):
    """A contrastive loss and what it was taken of."""

    loss: Tensor
    """Scalar; 0 where no anchor has a positive."""
    each: Tensor
    """[n], the loss of every anchor; 0 for one without a positive."""
    anchors: Tensor
    """Scalar, how many anchors have a positive."""


def similarities(z: Tensor) -> Tensor:
    """Cosine similarities of all pairs of rows.

    Args:
        z: float [n, d], of any length; rows are scaled to length 1 here.

    Returns:
        [n, n] in [-1, 1]; float32, also under mixed precision, or float64 where `z` is.
    """
    with torch.autocast(z.device.type, enabled=False):
        unit = F.normalize(wide(z), dim=1, eps=1e-12)
        return unit @ unit.T


def contrastive(
    s: Tensor,
    y: Tensor,
    form: Form = "supinfonce",
    *,
    eps: float = 0.0,
    tau: float = 0.1,
    base_temperature: float | None = None,
    count_empty_anchors: bool = False,
) -> Contrast:
    """A contrastive loss with margin; positives share the label, negatives do not.

    With logits L = s / tau, positives P and negatives N of an anchor, itself in neither:

    - `supinfonce`: mean over p in P of -L_p + ln(e^(L_p - eps) + sum over N of e^L);
    - `supinfonce-in`: -ln(sum over P of e^L) + ln(mean over P of e^(L - eps) + sum over N of e^L);
    - `supcon`: mean over p in P of -L_p + ln(sum over P of e^(L - eps) + sum over N of e^L), which
      also pulls all positives to one point. The paper's constant eps is left out;
    - `supcon-in`: -ln(sum over P of e^L) + the same logarithm.

    With one positive for each anchor `supinfonce` and `supcon` are the same. Values below 0 are
    right: an anchor's loss tends to -eps as its negatives go away.

    Args:
        s: float [n, n], cosine similarities; see `similarities`.
        y: int64 [n], labels; the positions of samples, where positives are other views of the same
            sample.
        form: which loss.
        eps: margin of the logits, at least 0: a cosine margin of eps * tau.
        tau: temperature, above 0.
        base_temperature: multiplies the loss by tau / base_temperature, as released code does with
            0.07; None: by 1.
        count_empty_anchors: let the mean run over all anchors, as in the released code; else over
            those that have a positive.

    Returns:
        The loss, its parts and a count.

    Raises:
        ConfigError: a number is out of range, or there is no such form.

    Source: sections 3.1 and 3.2; the released code takes the mean over positives.
    """
    _check(form, eps, tau, base_temperature)
    logits = wide(s) / tau
    same = y[:, None] == y
    positive = same & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    count = positive.sum(1)
    some = count > 0
    # a row without a positive gets all pairs for positives, so that it stays finite, and counts 0
    among = positive | ~some[:, None]
    among_count = among.sum(1).to(logits.dtype)
    against = _log_sum(logits, ~same)
    if form == "supinfonce":
        terms = torch.logaddexp(logits.new_full((), -eps), against[:, None] - logits)
        each = terms.masked_fill(~among, 0).sum(1) / among_count
    else:
        together = _log_sum(logits, among)
        beside = together - among_count.log() if form == "supinfonce-in" else together
        pulled = together
        if form == "supcon":
            pulled = logits.masked_fill(~among, 0).sum(1) / among_count
        each = torch.logaddexp(beside - eps, against) - pulled
    scale = 1.0 if base_temperature is None else tau / base_temperature
    each = scale * each.masked_fill(~some, 0)
    anchors = some.sum()
    over = len(y) if count_empty_anchors else anchors.clamp(min=1)
    return Contrast(each.sum() / over, each, anchors)


def info_nce(
    views: Tensor, *, eps: float = 0.0, tau: float = 0.1, base_temperature: float | None = None
) -> Contrast:
    """InfoNCE with margin: positives are the other views of the same sample; no labels.

    With two views and eps = 0 this is the loss of SimCLR.

    Args:
        views: float [v, n, d], v views of n samples.
        eps: see `contrastive`.
        tau: see `contrastive`.
        base_temperature: see `contrastive`.

    Returns:
        The loss; anchors lie view by view.
    """
    v, n, _ = views.shape
    y = torch.arange(n, device=views.device).repeat(v)
    s = similarities(views.flatten(0, 1))
    return contrastive(s, y, eps=eps, tau=tau, base_temperature=base_temperature)


def _log_sum(logits: Tensor, mask: Tensor) -> Tensor:
    """The logarithm of the sum of e^logits at a row's marked places: [n]; -inf where none is."""
    return logits.masked_fill(~mask, -math.inf).logsumexp(1)


def _check(form: Form, eps: float, tau: float, base_temperature: float | None) -> None:
    known = get_args(Form)
    if form not in known:
        raise ConfigError(f"there is no contrastive loss '{form}'; there are {', '.join(known)}")
    if not 0 <= eps < math.inf:
        raise ConfigError(f"the margin eps of a contrastive loss must be at least 0; got {eps}")
    if not tau > 0:
        raise ConfigError(f"the temperature of a contrastive loss must be above 0; got {tau}")
    if base_temperature is not None and not base_temperature > 0:
        raise ConfigError(f"base_temperature must be above 0; got {base_temperature}")
