"""What can be said of directions and a scorer after training, and what to be warned of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from truecue.directions.directions import Directions, unit
from truecue.directions.maps import DirectionMap
from truecue.directions.traverse import Effects, effects
from truecue.losses.ordering import moved_further, ranked_right
from truecue.nets.generator import Generator, check_finite
from truecue.nets.scorer import Scorer
from truecue.seeds import derive

JUDGED = 1024
"""Fresh pairs on which scorer and directions are measured."""
LIKE = 0.95
"""Cosine from which two directions count as the same."""


class Measured(NamedTuple):
    """What fresh pairs say of k directions and a scorer."""

    accuracy: Tensor
    """float [k], share of pairs that the scorer orders rightly; 0.5 is chance."""
    effects: Effects
    pairs: int


@torch.no_grad()
def measure(
    generator: Generator, scorer: nn.Module, directions: DirectionMap, reach: float, seed: int,
    pairs: int = JUDGED,
) -> Measured:  # fmt: skip
    """How often a scorer orders fresh pairs rightly, and what each direction changes.

    Args:
        generator: on the scorer's device.
        scorer: images [b, c, h, w] in [-1, 1] to scores [b, k].
        directions: from steps to shifts; on the same device, in evaluation mode.
        reach: S; all directions move at once, as in training. The change of images is that of one
            direction at a time, from -S to S.
        seed: of codes and steps.
        pairs: how many.

    Raises:
        DataError: an image is not finite.
    """
    k, rows = directions.k, directions.matrix()
    rng = torch.Generator().manual_seed(derive(seed, "measure"))
    right = torch.zeros(k)
    was = scorer.training
    scorer.eval()
    for start in range(0, pairs, 128):
        b = min(128, pairs - start)
        z = generator.sample(b, rng).to(generator.device)
        eps = ((torch.rand(2, b, k, generator=rng) * 2 - 1) * reach).to(z.device)
        u = generator.to_space(z)
        images = generator(torch.cat([u, u]), directions(torch.cat([*eps])))
        check_finite(images, seed)
        s1, s2 = scorer(images).chunk(2)
        right += ranked_right(s1, s2, moved_further(*eps)).sum(0).cpu()
    scorer.train(was)
    found = effects(generator, rows, generator.codes(32, seed, "effects"), reach, seed)
    return Measured(right / pairs, found, pairs)


def at_chance(accuracy: Tensor, pairs: int) -> Tensor:
    """Directions [k] whose accuracy lies within three standard errors of 0.5."""
    return accuracy < 0.5 + 3 * 0.5 / math.sqrt(pairs)


def guessed(scorer: Scorer) -> tuple[str, ...]:
    """Names of the directions that a scorer only guesses, by what `refine` wrote on its card."""
    told = scorer.spec.get("extra", {})
    if "ranked_right" not in told:
        return ()
    chance = at_chance(torch.tensor(told["ranked_right"]), int(told["pairs"])).tolist()
    return tuple(str(n) for n, guess in zip(told["names"], chance, strict=True) if guess)


def warning_of(guessed: Sequence[str], k: int) -> str:
    """What a reader of scores must know (without a full stop); empty where all is well.

    Args:
        guessed: names of the directions that the scorer only guesses.
        k: directions in all.
    """
    if not guessed:
        return ""
    if len(guessed) == k:
        return (
            "The scorer is at chance for every direction: its scores mean nothing. Refine for more"
            " steps, or with a larger step or learning rate"
        )
    return f"The scorer is at chance for: {', '.join(guessed)}. These scores mean nothing"


def warnings_of(directions: Directions, measured: Measured, reach: float) -> list[str]:
    """What a reader must know before trusting directions or scores, one sentence each."""
    said, names = [], directions.names
    hidden = [
        n for n, seen in zip(names, measured.effects.visible.tolist(), strict=True) if not seen
    ]
    if len(hidden) == len(names):
        said.append(
            "No visible effect: none of the directions changes any pixel by half a grey level"
        )
    elif hidden:
        said.append(f"Invisible, no pixel changes by half a grey level: {', '.join(hidden)}")
    chance = at_chance(measured.accuracy, measured.pairs)
    if bool(chance.all()):
        said.append(
            f"The scorer is at chance for every direction (best {measured.accuracy.max():.1%} of"
            f" {measured.pairs:,} pairs): its scores mean nothing. Train for more steps, or with a"
            " larger step or learning rate"
        )
    elif bool(chance.any()):
        lost = [n for n, at in zip(names, chance.tolist(), strict=True) if at]
        said.append(f"The scorer is at chance for: {', '.join(lost)}")
    k, d = directions.matrix.shape
    longest, usual = reach * math.sqrt(k / 3), math.sqrt(d)
    if directions.space == "z" and longest > usual:
        said.append(
            f"Steps leave the range of codes: together they have a length of about {longest:.1f},"
            f" and codes of about {usual:.1f}; lower the step"
        )
    near = unit(directions.matrix)
    same = ((near @ near.T).abs().triu(1) > LIKE).nonzero().tolist()
    if same:
        pairs = ", ".join(f"{names[i]} and {names[j]}" for i, j in same[:5])
        said.append(f"Directions that have become (nearly) the same: {pairs}")
    return said
