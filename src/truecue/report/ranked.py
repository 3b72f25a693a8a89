"""A class's images by spuriosity: the two ends as a picture, and how the scores are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from truecue.data.sets import ImageSet
from truecue.errors import DataError
from truecue.report.figures import AFTER, BEFORE
from truecue.report.sheet import Caption, sheet
from truecue.report.svg import beside, svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIP = 8
"""Images at either end of a strip."""
LOW, HIGH = "#0b62a8", "#c2500f"
"""Colours of the low and the high end."""
_SIDE = 140
_BINS = 40


def ranked_strip(
    images: ImageSet,
    order: Tensor,
    s: Tensor,
    predicted: Tensor | None = None,
    *,
    k: int = STRIP,
    rows: tuple[str, str] = ("least spurious", "most spurious"),
    ranks: bool = True,
) -> bytes:
    """The least and the most spurious images of a class in two rows.

    Below each stand its score, its rank (1 is the least spurious), and what the model says: green
    with a tick where it is right, red with a cross where it is not.

    Args:
        images: pixels, labels and names of the classes.
        order: int64 [n_c], the positions of the class's images, ascending in spuriosity.
        s: float [n], the scores of all images; only those in `order` are looked at.
        predicted: int64 [n], the model's classes; None leaves them out.
        k: images in a row, at most half of the class.
        rows: what the two rows are called.
        ranks: whether ranks are written; False where `order` has the ends of a ranking only.

    Returns:
        A WebP file (JPEG where Pillow has no WebP).

    Raises:
        DataError: the class has fewer than two images, or a score is not a number.
    """
    n = len(order)
    k = min(k, n // 2)
    if k < 1:
        raise DataError(f"a ranking needs two images of a class; this one has {n}")
    ends = torch.cat([order[:k], order[n - k :]])
    if bool(s[ends].isnan().any()):
        raise DataError("an image of the ranking has no spuriosity score (nan)")
    places = [*range(1, k + 1), *range(n - k + 1, n + 1)]
    captions = []
    for i, rank in zip(ends.tolist(), places, strict=True):
        score = f"s = {float(s[i]):.2f}"
        caption = Caption((score, f"rank {rank:,}") if ranks else (score,))
        if predicted is not None:
            said = int(predicted[i])
            lines = (*caption.lines, images.classes[said])
            caption = Caption(lines, said == int(images.y[i]))
        captions.append(caption)
    pixels = images.images[ends].unflatten(0, (2, k))
    pairs = [captions[:k], captions[k:]]
    return sheet(pixels, rows, [""] * k, captions=pairs, side=_SIDE, lossy=True)


def score_histogram(scores: Tensor, k: int) -> str:
    """How a class's spuriosity scores are spread, with the two ends that gaps are measured on.

    Args:
        scores: float [n_c], finite.
        k: images at either end, at most half of the class.

    Returns:
        The text of an SVG file.

    Raises:
        DataError: there is no score, or one is not finite.
    """
    if not len(scores) or not bool(scores.isfinite().all()):
        raise DataError("a histogram needs finite spuriosity scores of a class")
    values = scores.double().sort().values
    k = min(k, len(values) // 2)

    def draw(axes: Axes) -> None:
        axes.hist(values.numpy(), bins=min(_BINS, max(5, len(values) // 5)), color=BEFORE)
        if k:
            ends = (LOW, values[:k], "low"), (HIGH, values[len(values) - k :], "high")
            for colour, end, name in ends:
                axes.axvspan(float(end[0]), float(end[-1]), color=colour, alpha=0.2, linewidth=0)
                middle = float(end[0] + end[-1]) / 2
                place = axes.get_xaxis_transform()
                axes.text(middle, 1.02, f"{name} {k}", color=colour, ha="center", transform=place)
        axes.set(xlabel="spuriosity", ylabel="images")
        axes.grid(axis="y")

    return svg_file(4.2, 2.0, draw, top=0.3).decode()


def accuracy_by_rank(curves: dict[str, Tensor], chance: float | None = None) -> str:
    """Accuracy against spuriosity, averaged over classes, a line for each model.

    Args:
        curves: for each model float [bins], the accuracy in [0, 1] of the images from the least to
            the most spurious share of their class; nan where there are none.
        chance: accuracy of guessing, as a dotted line; None: no line.

    Returns:
        The text of an SVG file.
    """
    colours = (BEFORE, AFTER, "#c2500f", "#12785a", "#7a4a9c", "#a67c00")
    marks = "osD^vP"

    def draw(axes: Axes) -> None:
        for number, (name, curve) in enumerate(curves.items()):
            x = (torch.arange(len(curve)) + 0.5) / max(len(curve), 1) * 100
            axes.plot(
                x.numpy(), (100 * curve.double()).numpy(), label=name, markersize=4,
                color=colours[number % 6], marker=marks[number % 6] if len(curve) <= 25 else None,
            )  # fmt: skip
        if chance is not None:
            axes.axhline(100 * chance, color="#b6bdc8", linewidth=1, linestyle=":")
        axes.set(xlim=(0, 100), xlabel="spuriosity rank in the class, %", ylabel="accuracy, %")
        axes.set(ylim=(-3, 103))
        axes.grid(axis="y")
        if curves:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))

    right = beside(list(curves))
    return svg_file(4.0 + right, 2.8, draw, right=right).decode()
