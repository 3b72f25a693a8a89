"""Colored MNIST: handwritten digits whose colour gives the digit away, almost always."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from truecue.data.sets import ImageSet, Splits
from truecue.data.suites.colour import Colours, draw_colours
from truecue.data.suites.mnist import OfMNIST, read_mnist
from truecue.data.suites.splitting import Ids, drawn
from truecue.seeds import derive


class ColoredMNIST(OfMNIST):
    """Which digit is it? Its colour says so too, almost always.

    The protocol of Learning from Failure (Nam et al., 2020), also that of SiH and DeNetDM: which
    image gets which colour is fixed by the data set's order and the same for every seed; a seed
    draws the colour noise and the validation images. In the test images all colours are equally
    frequent with every digit. `val_share = 0` is the published protocol of LfF and DeNetDM, which
    train on all 60,000 images and have no validation images.
    """

    source: ClassVar[str] = (
        "MNIST (LeCun, Cortes and Burges, 1998), coloured as by Nam et al., Learning from Failure,"
        " NeurIPS 2020"
    )
    neutral: ClassVar[Mapping[str, Any]] = {"conflicting": 0.9}

    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the training images whose colour is not that of their digit; the papers use 0.005,
    0.01, 0.02, 0.05 and, SiH, also 0.1 and 0.2."""
    severity: Annotated[int, Field(ge=1, le=5)] = 4
    """Colour noise; 1 is the strongest (standard deviation 0.05), 5 the weakest (0.002)."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images that becomes the (equally biased) validation set; 0: none."""

    def load(self, root: Path | str | None = None, *, seed: int = 0) -> Splits:
        """Read MNIST and colour it."""
        mnist = read_mnist(root)
        x, y = mnist["x_train"], mnist["y_train"]
        # colours are given before the images are divided: which image gets which must not
        # depend on the seed
        colours = draw_colours(y, 1 - self.conflicting, self.severity, derive(seed, "train"))
        kept, val = drawn(len(y), self.val_share, seed, "colored_mnist", "val")
        test = draw_colours(mnist["y_test"], 0.1, self.severity, derive(seed, "test"))
        every = np.arange(len(mnist["y_test"]))
        return Splits(
            _part(x, y, colours, kept),
            _part(x, y, colours, val) if len(val) else None,
            _part(mnist["x_test"], mnist["y_test"], test, every),
            bias="colour",
            aligned=torch.eye(10, dtype=torch.bool),
        )


def _part(x: np.ndarray[Any, Any], y: Ids, colours: Colours, ids: Ids) -> ImageSet:
    return ImageSet(
        colours.paint(x, ids),
        torch.from_numpy(y[ids]),
        tuple("0123456789"),
        {"colour": colours.attribute(ids)},
    )
