"""Cues that are named by texts, ranked and judged by a model of texts and images.

Never used unless asked for: answers are stored under the name `text`, are marked as automatic
wherever verdicts are shown, and give way to any person's answer about the same pair. Moayeri et al.
2023 (arXiv 2212.02648), appendix G, which offers it and does not measure it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from truecue.audit.audit import Audit, Feature
from truecue.audit.automatic import judgement
from truecue.audit.make import Cues
from truecue.audit.verdicts import TEXT
from truecue.data.sets import ImageSet
from truecue.errors import ConfigError, DataError

LEVEL = 0.05
"""False-discovery rate up to which a cue's gap counts."""
_BATCH = 256

Similarity = Callable[[Tensor, Sequence[str]], Tensor]
"""From images uint8 [n, c, h, w] and t texts to floating [n, t], larger where they fit better."""


class TextJudged(NamedTuple):
    """What became of one cue of a class that was given as a text."""

    feature: Feature
    gap: float | None
    """Of the model on validation images (test images where there are none); None: not measured."""
    q: float | None
    kept: bool
    """Whether it was judged spurious: a positive gap that random orders do not explain."""


def text_cues(similarity: Similarity, texts: Sequence[str]) -> Cues:
    """Cues that are named by texts, for `make_audit(..., cues=text_cues(model, texts))`.

    Every image gets its similarity to every text. Each text is then a candidate of every class:
    images are ranked by it, and gaps are measured, as with features. `judge_by_text` follows.

    Args:
        similarity: a model of texts and images, such as CLIP's cosine similarity.
        texts: cues that must not matter, such as "a photo with a person in it".

    Raises:
        ConfigError: a text is empty or given twice, or there is none. When called: DataError, the
            model gives something else than [n, t] finite numbers.
    """
    names = list(texts)
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ConfigError(f"give one or more different texts, none of them empty; got {names}")

    def values(split: str, part: ImageSet) -> dict[str, Tensor]:
        found = []
        for start in range(0, len(part), _BATCH):
            some = part.images[start : start + _BATCH]
            fits = similarity(some, names)
            if fits.shape != (len(some), len(names)) or not bool(fits.isfinite().all()):
                raise DataError(
                    f"the similarity of {len(some)} {split} images and {len(names)} texts must be"
                    f" [{len(some)}, {len(names)}] finite numbers; got {list(fits.shape)}"
                )
            found.append(fits.detach().float().cpu())
        return dict(zip(names, torch.cat(found).T, strict=True))

    return values


def judge_by_text(audit: Audit, texts: Sequence[str], *, level: float = LEVEL) -> list[TextJudged]:
    """Judge the cues of an audit that are texts: spurious where the model's gap is no chance.

    A text is spurious for a class if the model does better on images of the class that fit it, on
    validation images (test images where there are none), with a false-discovery rate of at most
    `level` over all pairs. Others are dropped: they get no answer. So are negative gaps, where the
    cue speaks for another class. Answers of an earlier call are replaced; `measure_gaps` follows.

    Args:
        audit: made with `text_cues`, and measured.
        texts: the cues.
        level: false-discovery rate.

    Raises:
        ConfigError: the level is not between 0 and 1.
        DataError: the audit has no such cue, or nothing has been measured.

    Source: Moayeri et al. 2023 (arXiv 2212.02648), appendix G.
    """
    if not 0 < level < 1:
        raise ConfigError(f"a false-discovery rate lies between 0 and 1; got {level}")
    unknown = [text for text in texts if text not in audit.facts["cues"]]
    if unknown:
        raise DataError(
            f"the audit has no cue '{unknown[0]}' (it has"
            f" {', '.join(audit.facts['cues']) or 'none'}); make it with cues=text_cues(similarity,"
            " texts)"
        )
    splits = audit.gaps()["splits"]
    rows = {(r["class"], r["feature"]): r for r in splits.get("val", splits["test"])["pairs"]}
    judged, answers = [], []
    verdicts = audit.verdicts()
    for f in audit.pairs():
        if f.rank is not None or f.name not in texts:
            continue
        row = rows[f.class_index, f.feature]
        if "gap" not in row:
            judged.append(TextJudged(f, None, None, kept=False))
            verdicts.remove(f.class_index, f.feature, TEXT)
            continue
        gap, q = float(row["gap"]["value"]), float(row["q"])
        judged.append(TextJudged(f, gap, q, kept=gap > 0 and q <= level))
        if judged[-1].kept:
            why = f"automatic: gap of {100 * gap:.0f} points with '{f.name}', q {q:.2g}"
            answers.append(judgement(audit, f, TEXT, "background", why))
        else:
            verdicts.remove(f.class_index, f.feature, TEXT)
    verdicts.add(*answers)
    return judged
