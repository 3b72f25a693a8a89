"""The learner of SRE: a scorer and directions that take turns on pairs of moved images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from truecue.directions.directions import angles, unit
from truecue.directions.maps import DirectionMap
from truecue.engine.device import Device
from truecue.engine.learner import Learner, Step
from truecue.errors import ConfigError
from truecue.losses.ordering import moved_further, ranked_right, scale_ranking
from truecue.nets.generator import Generator, finite
from truecue.nets.scorer import Scorer
from truecue.seeds import derive

STAGE = "refine"


class Pairs(NamedTuple):
    """Latents, and two random steps from each."""

    z: Tensor
    """float [b, n_latent]."""
    eps1: Tensor
    """float [b, k], in [-S, S]."""
    eps2: Tensor
    """float [b, k]."""
    step: int
    """For which step of the loop they were drawn."""


class PairSource:
    """Pairs for every step of the loop, as a function of the step.

    Args:
        generator: draws the latents.
        k: directions.
        reach: S; steps are drawn from [-S, S].
        images: in a step, over all processes; two make a pair.
        steps: of the loop.
        seed: of what is drawn.
        device: where pairs are wanted.

    Raises:
        ConfigError: there are fewer pairs than processes.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        k: int,
        reach: float,
        images: int,
        steps: int,
        seed: int,
        device: Device,
    ):
        pairs = images // 2
        if pairs < device.world:
            raise ConfigError(f"{pairs} pairs cannot be shared by {device.world} processes")
        self._generator, self._k, self._reach, self._seed = generator, k, reach, seed
        self._pairs, self._device = pairs // device.world, device
        self.per_epoch, self.samples = steps, steps * images

    def batch(self, step: int) -> Pairs:
        """The pairs of a step."""
        rng = torch.Generator().manual_seed(self.seed_of(step))
        z = self._generator.sample(self._pairs, rng)
        eps = (torch.rand(2, self._pairs, self._k, generator=rng) * 2 - 1) * self._reach
        where = self._device.device
        return Pairs(z.to(where), eps[0].to(where), eps[1].to(where), step)

    def seed_of(self, step: int) -> int:
        """What the pairs of a step are drawn with."""
        return derive(self._seed, STAGE, "pairs", step, self._device.rank)


class ScaleRanking(Learner):
    """A scorer and directions that take turns; the generator is frozen and not saved with them."""

    broken: Tensor

    def __init__(self, generator: Generator, scorer: Scorer, directions: DirectionMap):
        super().__init__()
        self.scorer, self.map = scorer, directions
        self._held = (generator,)  # not a module of this one: checkpoints leave it out
        self.register_buffer("broken", torch.tensor(-1))
        self.register_buffer("_first", unit(directions.matrix()))

    def forward(self, pairs: Pairs) -> Step:
        """The mean ranking loss over pairs and directions.

        In the scorer's turn images come without a gradient and the scorer is in training mode; in
        the directions' turn the gradient goes through scorer and generator, and the scorer is in
        evaluation mode.
        """
        ranks = self.turn != "directions"
        self.scorer.train(ranks)
        self.map.train(not ranks)
        with torch.set_grad_enabled(not ranks and torch.is_grad_enabled()):
            if ranks:  # directions have just been moved; in their own turn they are as they were
                self.map.settle()
            images = self.images(pairs)
        broken = ~finite(images) & (self.broken < 0)
        self.broken.copy_(torch.where(broken, pairs.step, self.broken))
        s1, s2 = self.scorer(images).float().chunk(2)
        y = moved_further(pairs.eps1, pairs.eps2)
        loss = scale_ranking(s1, s2, y).mean()
        right = ranked_right(s1, s2, y).float().mean()
        name = "scorer" if ranks else "directions"
        return Step(loss, {name: loss.detach(), "ranked_right": right} | self._turned(ranks))

    def images(self, pairs: Pairs) -> Tensor:
        """The 2b images in [-1, 1]: those of the first steps, then those of the second."""
        (generator,) = self._held
        u = generator.to_space(pairs.z)
        images: Tensor = generator(torch.cat([u, u]), self.map(torch.cat([pairs.eps1, pairs.eps2])))
        return images

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Scorer, and directions where there is something to train."""
        own = list(self.map.parameters())
        scorer = {"scorer": self.scorer.parameters()}
        return {**scorer, "directions": own} if own else {**scorer}

    @torch.no_grad()
    def _turned(self, ranks: bool) -> dict[str, Tensor]:
        """By how many degrees directions have turned, on average; once in each update."""
        if ranks:
            return {}
        return {"turned": angles(self.get_buffer("_first"), self.map.matrix()).mean()}
