"""Directions as a value, and the two files that they are kept in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from truecue.atomic import atomic
from truecue.errors import DataError
from truecue.nets.classifier import read_weights
from truecue.nets.generator import Generator

_FORMAT = 1


@dataclass(frozen=True)
class Directions:
    """Directions in a latent space; moving a code along one changes its image.

    Raises:
        DataError: the matrix is not float [k, d] or not finite, or the other lengths differ from k.
    """

    matrix: Tensor
    """float32 [k, d], one direction in each row, in main memory."""
    found_by: str
    """How they were found, in a few words."""
    names: tuple[str, ...] = ()
    """What each changes, where somebody has said so; left out: numbers from 0 on."""
    strengths: tuple[float, ...] = ()
    """What the finder ordered them by (eigenvalue, variance, accuracy); empty where nothing. Of
    refined directions, that of what each began as."""
    space: str = "z"
    """Where they live: "z" or "w"."""
    generator: str = ""
    """The generator's digest; empty where it is not known."""
    ranked_right: tuple[float, ...] = ()
    """Share of pairs that a scorer orders rightly along each; empty before refining."""

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.dim() != 2 or not matrix.is_floating_point() or 0 in matrix.shape:
            raise DataError(f"directions must be float [k, d]; got {list(matrix.shape)}")
        if not bool(matrix.isfinite().all()):
            raise DataError("directions hold a number that is not finite")
        object.__setattr__(self, "matrix", matrix.detach().float().cpu().contiguous())
        names = self.names or tuple(str(k) for k in range(len(matrix)))
        object.__setattr__(self, "names", names)
        for what in ("names", "strengths", "ranked_right"):
            values = getattr(self, what)
            if values and len(values) != len(matrix):
                raise DataError(f"there are {len(matrix)} directions and {len(values)} {what}")

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dim(self) -> int:
        """Length of a direction."""
        return self.matrix.shape[1]

    def select(self, ids: Tensor) -> Directions:
        """Those with these positions (int64 [m])."""
        chosen = ids.tolist()
        return Directions(
            self.matrix[ids],
            self.found_by,
            tuple(self.names[k] for k in chosen),
            tuple(self.strengths[k] for k in chosen) if self.strengths else (),
            self.space,
            self.generator,
            tuple(self.ranked_right[k] for k in chosen) if self.ranked_right else (),
        )

    def digest(self) -> str:
        """Names the matrix, in 16 hexadecimal digits."""
        return hashlib.blake2b(self.matrix.numpy().tobytes(), digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the matrix, for JSON."""
        return {
            "found_by": self.found_by,
            "directions": len(self),
            "dim": self.dim,
            "names": list(self.names),
            "strengths": list(self.strengths),
            "ranked_right": list(self.ranked_right),
            "space": self.space,
            "generator": self.generator,
        }

    def save(self, path: Path) -> None:
        """Write the matrix (safetensors) and a card beside it (JSON).

        Args:
            path: a name that ends in `.safetensors`, or a folder, which gets
                `directions.safetensors`.

        Raises:
            StorageError: a file could not be written.
        """
        weights = _file(Path(path))
        text = json.dumps({"format": _FORMAT, **self.to_dict()}, indent=1) + "\n"
        with atomic(weights) as new, atomic(weights.with_suffix(".json")) as card:
            new.write_bytes(to_safetensors({"directions": self.matrix}))
            card.write_text(text, encoding="utf-8")


def load_directions(path: Path) -> Directions:
    """Read what `Directions.save` wrote.

    Raises:
        DataError: a file is absent or unreadable, or holds something else.
    """
    weights = _file(Path(path))
    state = read_weights(weights)
    if set(state) != {"directions"}:
        raise DataError(f"{weights} holds no directions; 'truecue directions find' makes some")
    card = weights.with_suffix(".json")
    try:
        said = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{card}, the card of the directions, cannot be read: {error}") from None
    if not isinstance(said, dict) or said.get("format") != _FORMAT:
        raise DataError(f"{card} is not the card of directions of format {_FORMAT}")
    return Directions(
        state["directions"],
        str(said.get("found_by", "")),
        tuple(map(str, said.get("names", ()))),
        tuple(map(float, said.get("strengths", ()))),
        str(said.get("space", "z")),
        str(said.get("generator", "")),
        tuple(map(float, said.get("ranked_right", ()))),
    )


def check_fit(directions: Directions, generator: Generator) -> None:
    """Refuse directions of another space or of another generator.

    Raises:
        DataError: the lengths or the spaces differ, or both generators are known and differ.
    """
    if (directions.dim, directions.space) != (generator.dim, generator.space):
        raise DataError(
            f"the directions have {directions.dim} numbers in {directions.space}; the generator's"
            f" codes have {generator.dim} in {generator.space}"
        )
    known = generator.digest()
    if directions.generator not in ("", known):
        raise DataError(
            f"the directions are of the generator {directions.generator}, and this one is {known}:"
            " its weights or its settings are others. Find directions of this one; or, to use these"
            ' with it all the same, leave "generator" empty in their card, directions.json'
        )


def unit(rows: Tensor) -> Tensor:
    """Rows [k, d] of length 1; rows of zeros stay."""
    return torch.nn.functional.normalize(rows, dim=1)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Degrees [k] between rows of two matrices [k, d], in [0, 90]: signs do not count."""
    cosine = (unit(first) * unit(second)).sum(1).abs().clamp(max=1)
    return torch.rad2deg(torch.arccos(cosine))


def _file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / "directions.safetensors"
