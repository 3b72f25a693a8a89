"""A small VAE of coloured digits, to probe classifiers with: `benchmarks/digits_vae.py:make`.

`python benchmarks/digits_vae.py DIR [CONFLICTING]` trains it on the training images of the suite
`digits` and writes `digits_vae.pt`; `make` wraps the decoder that DIGITS_VAE names. The code has 12
numbers, and the prior counts in full (weight 1), so that drawn codes give digits. `colour` measures
images, for directions that change it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import truecue

DIM = 12


class Decoder(nn.Module):
    """Codes [n, 12] to images [n, 3, 28, 28], before the sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(DIM, 256), nn.ReLU(), nn.Linear(256, 64 * 49), nn.ReLU()),
            *(nn.Unflatten(1, (64, 7, 7)), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()),
            nn.ConvTranspose2d(32, 3, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


def encoder() -> nn.Module:
    """Images [n, 3, 28, 28] in [0, 1] to means and log-variances [n, 24]."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 49, 256), nn.ReLU(), nn.Linear(256, 2 * DIM)),
    )


def train(images: Tensor, epochs: int = 60, seed: int = 0) -> Decoder:
    """Train on uint8 images; cross-entropy of pixels, and the prior with weight 1."""
    torch.manual_seed(seed)
    code, decode = encoder(), Decoder()
    adam = torch.optim.Adam([*code.parameters(), *decode.parameters()], 1e-3)
    for epoch in range(epochs):
        total = 0.0
        for ids in torch.randperm(len(images)).split(128):
            x = images[ids].float() / 255
            mean, logvar = code(x).chunk(2, 1)
            z = mean + torch.randn_like(mean) * (logvar / 2).exp()
            error = F.binary_cross_entropy_with_logits(decode(z), x, reduction="sum")
            prior = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum()
            loss = (error + prior) / len(ids)
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(ids)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: {total / len(images):.1f}", flush=True)
    return decode.eval()


def make() -> truecue.PlainGenerator:
    """The generator; the file of its weights is named by the variable DIGITS_VAE."""
    net = Decoder()
    net.load_state_dict(torch.load(os.environ["DIGITS_VAE"], weights_only=True))
    return truecue.PlainGenerator(net, dim=DIM, image_range=(0, 1), logits=True)


def colour(images: Tensor) -> dict[str, Tensor]:
    """What colour the ink of images, uint8 [n, 3, h, w], has: shares of red, green and blue."""
    ink = images.float().sum((2, 3)) + 1
    red, green, blue = (ink / ink.sum(1, keepdim=True)).unbind(1)
    return {"red or blue": red - blue, "green or purple": green - (red + blue) / 2}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    data = truecue.Digits(conflicting=float(sys.argv[2]) if len(sys.argv) > 2 else 0.02).load()
    torch.save(train(data.train.images).state_dict(), out / "digits_vae.pt")
