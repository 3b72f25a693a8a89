"""Scores of real images by each direction, and the images that are nearest by some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from truecue.atomic import atomic
from truecue.data.sets import ImageSet
from truecue.directions.judge import guessed, warning_of
from truecue.engine.device import Device
from truecue.engine.evaluate import apply
from truecue.engine.features import digest_of_set
from truecue.errors import ConfigError, DataError
from truecue.metrics.retrieval import average_precision, precision_at_k
from truecue.nets.generator import Generator, as_uint8
from truecue.nets.scorer import Scorer
from truecue.seeds import derive

_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """Scores of a pool of images, ready to be searched.

    Raw scores of different directions have different scales; `calibrated` ones are comparable:
    each column minus its mean over the pool, divided by its deviation.

    Raises:
        DataError: the scores are not float [n, k], not finite, or the names do not fit.
    """

    scores: Tensor
    """float32 [n, k], as the scorer gives them."""
    names: tuple[str, ...]
    """Of the k directions."""
    ids: tuple[str, ...] = ()
    """Where each image came from; empty where that is not known."""
    guessed: tuple[str, ...] = ()
    """Directions for which the scorer was at chance on generated pairs: their scores mean
    nothing."""
    digest: str = ""
    """Names the images, their labels and order; empty where that is not known."""

    def __post_init__(self) -> None:
        if self.scores.dim() != 2 or len(self.scores) == 0:
            raise DataError(f"scores must be [n, k]; got {list(self.scores.shape)}")
        if not bool(self.scores.isfinite().all()):
            raise DataError("a score is not finite")
        if len(self.names) != self.scores.shape[1] or len(self.ids) not in (0, len(self.scores)):
            raise DataError("names do not fit the scores")

    @property
    def calibrated(self) -> Tensor:
        """Standardised scores [n, k]; a column without spread is 0."""
        return self.standardise(self.scores)

    def standardise(self, scores: Tensor) -> Tensor:
        """Other images' scores [m, k] on this pool's scale."""
        spread = self.scores.std(0, unbiased=False)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        return (scores - self.scores.mean(0)) / spread

    def known(self) -> tuple[str, ...]:
        """Names of the directions that the scorer does not just guess.

        Raises:
            ConfigError: it guesses all.
        """
        found = tuple(name for name in self.names if name not in self.guessed)
        if not found:
            raise ConfigError(warning_of(self.guessed, len(self.names)))
        return found

    def check_images(self, images: ImageSet) -> None:
        """Refuse images that are not those that were scored, in the same order.

        Raises:
            DataError: their number, content, labels or order differs; where the index has no
                digest: their number or names.
        """
        if len(images) != len(self.scores):
            raise DataError(
                f"the index has scores of {len(self.scores):,} images, and these are"
                f" {len(images):,}; give the data and part that it was made of"
            )
        if self.digest:
            same = self.digest == digest_of_set(images)
        else:
            same = not (self.ids and images.names) or self.ids == images.names
        if not same:
            raise DataError(
                f"these are {len(images):,} images, as many as were scored, but not the same ones"
                " in the same order; give the data, part and settings that the index was made of,"
                " or score these with 'truecue directions score'"
            )

    def columns(self, names: Sequence[str]) -> list[int]:
        """The positions of directions.

        Raises:
            ConfigError: there is no such direction, or none is named.
        """
        absent = [name for name in names if name not in self.names]
        if absent or not names:
            what = f"no direction '{absent[0]}'" if absent else "nothing to search by"
            raise ConfigError(f"there is {what}; the directions are {', '.join(self.names)}")
        return [self.names.index(name) for name in names]

    def save(self, folder: Path) -> None:
        """Write `scores.npy` (float32) and `scores.json` into a folder.

        Raises:
            StorageError: a file could not be written.
        """
        about = {"format": _FORMAT, "names": list(self.names), "at_chance": list(self.guessed),
                 "ids": list(self.ids), "digest": self.digest,
                 "images": len(self.scores), "mean": self.scores.mean(0).tolist(),
                 "std": self.scores.std(0, unbiased=False).tolist()}  # fmt: skip
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        text = text.encode("utf-8", "replace").decode()
        with atomic(folder / "scores.npy") as new, atomic(folder / "scores.json") as card:
            with new.open("wb") as file:
                np.save(file, self.scores.float().numpy())
            card.write_text(text, encoding="utf-8")


def load_index(folder: Path) -> Index:
    """Read what `Index.save` wrote.

    Raises:
        DataError: a file is absent or unreadable.
    """
    try:
        about: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        scores = torch.from_numpy(np.load(folder / "scores.npy"))
    except (OSError, ValueError, EOFError) as error:  # the last: an empty file
        raise DataError(
            f"{folder} holds no scores that can be read ({error}); make them with 'truecue"
            " directions score'"
        ) from None
    if about.get("format") != _FORMAT:
        raise DataError(f"{folder / 'scores.json'} is not of format {_FORMAT}")
    chance = tuple(about.get("at_chance", ()))
    digest = str(about.get("digest", ""))
    return Index(scores, tuple(about["names"]), tuple(about["ids"]), chance, digest)


def score(
    scorer: Scorer, images: ImageSet, device: Device, names: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Index:  # fmt: skip
    """Score real images by each direction.

    Args:
        scorer: on the device.
        images: as they are; see `Scorer.score` for what is done to them.
        device: where to compute.
        names: of the directions; left out: those on the scorer's card, or numbers from 0 on.
        progress: called with (images done, images in all).

    Raises:
        DataError: the images' channels do not fit, or they are features.
    """
    if images.encoded:
        raise DataError("scores are those of images; these are a frozen encoder's features")
    scorer.eval()
    found = apply(scorer.score, images, device, batch=250, progress=progress)
    own = scorer.spec.get("extra", {}).get("names") or map(str, range(scorer.k))
    return Index(
        found, tuple(names) or tuple(own), images.names, guessed(scorer), digest_of_set(images)
    )


def generated(
    score: Callable[[Tensor], Tensor], generator: Generator, n: int = 1000, seed: int = 0
) -> Tensor:
    """Scores [n, k] of generated images, to compare real ones with: a scorer may drift on those.

    Args:
        score: from images, uint8 [b, c, h, w], to scores [b, k]: `Scorer.score`, for one.
        generator: on any device.
        n: images.
        seed: of their codes.

    Raises:
        DataError: an image is not finite.
    """
    made = []
    with torch.no_grad():
        for i, start in enumerate(range(0, n, 250)):
            codes = generator.codes(min(250, n - start), seed, "scores", i)
            pictures = as_uint8(generator(codes), seed)
            made.append(score(pictures).float().cpu())
    return torch.cat(made)


def retrieve(
    pool: Tensor, query: Tensor, columns: Sequence[int], top: int = 6
) -> tuple[Tensor, Tensor]:
    """The images of a pool that are nearest to queries by some scores.

    Args:
        pool: float [n, k]; calibrated scores where several columns are used.
        query: float [q, k], on the same scale.
        columns: which scores count. Distances are sums of absolute differences.
        top: how many images; of smaller pools, all. A query that is in the pool comes first.

    Returns:
        Positions int64 [q, top] and distances [q, top], nearest first, ties by position.

    Raises:
        ConfigError: no column, or top is not positive.
    """
    chosen = list(columns)
    if not chosen or top < 1:
        raise ConfigError("a search needs at least one direction and one image to find")
    apart = torch.cdist(query[:, chosen].double(), pool[:, chosen].double(), p=1)
    distance, order = apart.sort(dim=1, stable=True)
    return order[:, :top], distance[:, :top]


def by_class(
    index: Index, columns: Sequence[int], y: Tensor, pixels: Tensor | None = None, seed: int = 0,
    most: int = 500,
) -> dict[str, Any]:  # fmt: skip
    """How often images that are near by a direction are of the query's class.

    Args:
        index: of n images.
        columns: directions, each used by itself, and then all together but those that the scorer
            only guesses.
        y: int64 [n], classes.
        pixels: float [n, m], to compare with neighbours by pixels; see `small_pixels`.
        seed: of the choice of queries.
        most: queries.

    Returns:
        For each direction, for all together and for pixels: `precision` at 5 and
        `average_precision`, means over queries, the query itself left out, and whether the scorer
        is `at_chance`; and `chance`, the precision of a random order.

    Raises:
        DataError: there is a single image.
    """
    if len(y) < 2:
        raise DataError("there is one image: a query needs others to find")
    rng = torch.Generator().manual_seed(derive(seed, "queries"))
    chosen = torch.randperm(len(y), generator=rng)[:most]
    pool = index.calibrated
    uses = [(index.names[c], pool[:, [c]]) for c in columns]
    sure = [c for c in columns if index.names[c] not in index.guessed]
    uses += [("together", pool[:, sure])] if len(sure) > 1 else []
    uses += [] if pixels is None else [("pixels", pixels)]
    same = torch.bincount(y)[y[chosen]].double() - 1
    return {
        "queries": len(chosen),
        "directions": [
            {"name": name, **_near(by, y, chosen), "at_chance": name in index.guessed}
            for name, by in uses
        ],
        "chance": float((same / (len(y) - 1)).mean()),
    }


def small_pixels(images: ImageSet, device: Device) -> Tensor:
    """Images averaged down to at most 16 x 16 pixels, flat: float [n, c * 256], in [0, 1]."""

    def reduce(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.float() / 255, 16).flatten(1)

    return apply(reduce, images, device)


def _near(by: Tensor, y: Tensor, chosen: Tensor) -> dict[str, float]:
    """Precision and average precision of the queries' classes, a few queries at a time."""
    wanted = []
    for part in chosen.split(max(1, 5_000_000 // len(y))):
        order, _ = retrieve(by, by[part], range(by.shape[1]), len(y))
        others = order[order != part[:, None]].view(len(part), -1)
        wanted.append(y[others] == y[part][:, None])
    found = torch.cat(wanted)
    return {
        "precision": float(precision_at_k(found, 5).mean()),
        "average_precision": float(average_precision(found).nanmean()),
    }
