"""The corruptions of Corrupted CIFAR-10: each takes a batch, a level and random numbers.

The operations and their parameters are those of ImageNet-C for images of 32 x 32 (Hendrycks and
Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*, ICLR
2019), in the selection of Learning from Failure (Nam et al., NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable

from truecue.data.corruptions.blur import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from truecue.data.corruptions.digital import contrast, elastic, jpeg, pixelate, saturate
from truecue.data.corruptions.draws import Draws as Draws
from truecue.data.corruptions.lens import spatter
from truecue.data.corruptions.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from truecue.data.corruptions.pixels import Images as Images
from truecue.data.corruptions.weather import brightness, fog, frost, snow


def original(images: Images, level: int, draws: Draws) -> Images:
    """Leave the images as they are."""
    del level, draws
    return images.copy()


Corruption = Callable[[Images, int, Draws], Images]
"""Takes uint8 [n, 32, 32, 3], a level from 1 (weak) to 5 (strong) and random numbers for n images;
returns uint8 [n, 32, 32, 3]."""

CORRUPTIONS: dict[str, Corruption] = {
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "spatter": spatter,
    "elastic": elastic,
    "jpeg": jpeg,
    "pixelate": pixelate,
    "saturate": saturate,
    "gaussian noise": gaussian_noise,
    "shot noise": shot_noise,
    "impulse noise": impulse_noise,
    "speckle noise": speckle_noise,
    "gaussian blur": gaussian_blur,
    "defocus blur": defocus_blur,
    "glass blur": glass_blur,
    "motion blur": motion_blur,
    "zoom blur": zoom_blur,
    "original": original,
}
"""The corruptions by name, those of type 0 and then those of type 1, in the order of the classes
that they are aligned with."""
