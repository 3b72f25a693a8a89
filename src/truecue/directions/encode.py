"""An encoder from images to where their codes lie along directions, to be held against factors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from truecue.config import Config
from truecue.data.loader import Batch
from truecue.data.sets import ImageSet
from truecue.directions.directions import Directions, check_fit
from truecue.engine.evaluate import apply
from truecue.engine.learner import Learner, Step
from truecue.engine.plan import Adam, Patience, Plan, Steps
from truecue.engine.run import Run
from truecue.nets.generator import Generator, as_uint8

STAGE = "encode"


class Encode(Config):
    """How the encoder is trained; the defaults are those of SRE's released code."""

    images: PositiveInt = 10_000
    """Generated images to train on; a tenth as many, drawn separately, to stop by."""
    epochs: PositiveInt = 20
    """Passes over them; the learning rate is halved after ten."""
    hidden: PositiveInt = 256
    """Units before the last layer."""
    lr: PositiveFloat = 1e-3
    """Adam's learning rate."""


class Encoder(nn.Module):
    """Four convolutions of 4x4 and stride 2, and two linear layers: images to k numbers.

    Args:
        shape: (c, h, w) of the images.
        k: numbers.
        hidden: units before the last layer.

    Source: evaluation of SRE's released code, github VSSILPA/disentagled_latent_dirs.
    """

    def __init__(self, shape: tuple[int, int, int], k: int, hidden: int = 256):
        super().__init__()
        layers: list[nn.Module] = []
        before, sides = shape[0], list(shape[1:])
        for after in (32, 32, 64, 64):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
            before, sides = after, [max(side // 2, 1) for side in sides]
        n = 64 * sides[0] * sides[1]
        out = nn.Linear(hidden, k)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(n, hidden), nn.ReLU(), out)

    def forward(self, x: Tensor) -> Tensor:
        """K numbers [b, k] of images uint8 [b, c, h, w]."""
        codes: Tensor = self.layers(x.float() / 127.5 - 1)
        return codes


class Encoding(Learner):
    """An encoder under squared error; the targets are looked up by the images' positions."""

    targets: Tensor

    def __init__(self, net: Encoder, targets: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("targets", targets, persistent=False)

    def forward(self, batch: Batch) -> Step:
        """The mean squared error."""
        error = (self.net(batch.x) - self.targets[batch.ids]).square().mean()
        return Step(error, {})

    def branches(self) -> dict[str, nn.Module]:  # type: ignore[override]
        """None: this is no classifier."""
        return {}


class Encoded(NamedTuple):
    """A trained encoder."""

    net: Encoder
    error: float
    """Mean squared error on fresh images; 1 is what the mean of the targets gives."""


def encoder_for(
    generator: Generator, directions: Directions, run: Run, settings: Encode | None = None
) -> Encoded:
    """Train an encoder on generated images whose codes are known.

    The targets are the codes' coordinates along the directions, standardised. Images are those of
    the released code: cut off at [-1, 1] and rounded to bytes; training and validation images are
    drawn separately, which there they are not.

    Args:
        generator: on the run's device.
        directions: k of them.
        run: where it is trained; its stage is "encode".
        settings: how; left out: the defaults.

    Raises:
        DataError: the directions are of another generator, or an image is not finite.
    """
    settings = settings or Encode()
    check_fit(directions, generator)
    n, held = settings.images, max(settings.images // 10, 2)
    x, t = _drawn(generator, directions, n, run.seed, "train")
    x_val, t_val = _drawn(generator, directions, held, run.seed, "val")
    mean, spread = t.mean(0), t.std(0) + 1e-5
    shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))

    def make() -> Encoding:
        return Encoding(Encoder(shape, len(directions), settings.hidden), (t - mean) / spread)

    def error(learner: Encoding) -> float:
        said = apply(learner.net, _as_set(x_val), run.device)
        return float((said - (t_val - mean) / spread).square().mean())

    plan = Plan(
        epochs=settings.epochs, batch_size=128, optimizer=Adam(lr=settings.lr),
        schedule=Steps(at=(10,), factor=0.5), stop=Patience(epochs=10), select="val_loss",
    )  # fmt: skip
    trained = run.train(STAGE, make, _as_set(x), plan, watch=error)
    return Encoded(trained.net.eval(), error(trained))


@torch.no_grad()
def _drawn(
    generator: Generator, directions: Directions, n: int, seed: int, what: str
) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, c, h, w] and coordinates [n, k] of their codes."""
    images, targets = [], []
    for i, start in enumerate(range(0, n, 250)):
        codes = generator.codes(min(250, n - start), seed, "encode", what, i)
        images.append(as_uint8(generator(codes), seed).cpu())
        targets.append(codes.cpu() @ directions.matrix.T)
    return torch.cat(images), torch.cat(targets)


def _as_set(images: Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("image",))
