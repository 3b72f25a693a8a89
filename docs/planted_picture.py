"""Draw docs/images/planted.webp, each cue on ten digits: `python docs/planted_picture.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from truecue import Digits
from truecue.data.cues import CUES, Given, plant

PICTURE = Path(__file__).parent / "images" / "planted.webp"
ZOOM, GAP, LEFT = 2, 4, 96  # the last two in pixels


def sheet() -> Image.Image:
    """A row for each cue, a column for each digit; value k where there are ten, else spread."""
    data = Digits(coloured=False, train_size=300, test_size=100).load(seed=2).train
    digits = data.images[:][[int((data.y == k).nonzero()[0]) for k in range(10)]]
    chance = torch.rand(10, 2, generator=torch.Generator().manual_seed(0))
    rows = {"none": digits}
    for name, cue in CUES.items():
        values = torch.arange(10) * cue.most // 10
        rows[name] = plant(digits, {name: Given(values, cue.most, chance)})
    side = ZOOM * digits.shape[-1]
    step = side + GAP
    picture = Image.new("RGB", (LEFT + 10 * step, len(rows) * step - GAP), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for r, (name, images) in enumerate(rows.items()):
        pen.text((4, r * step + side // 2), name, fill="black", font=font, anchor="lm")
        for k, image in enumerate(images):
            tile = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
            tile = tile.resize((side, side), Image.Resampling.NEAREST)
            picture.paste(tile, (LEFT + k * step, r * step))
    return picture


if __name__ == "__main__":
    sheet().save(PICTURE, "WEBP", lossless=True)
