"""Maps from steps along k directions to shifts of a code: the directions that are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.errors import ConfigError

MapName = Literal["ortho", "linear", "proj", "id", "random", "ortho-exp", "fc"]
"""How steps become shifts; see `make_map`."""
Retraction = Literal["qr", "polar"]
"""How trained directions are made orthonormal again."""
WIDE = 1024
"""Units of the hidden layers of "fc"."""


class DirectionMap(nn.Module, ABC):
    """From steps [b, k] to shifts [b, d]."""

    def __init__(self, k: int, dim: int):
        super().__init__()
        self.k, self.dim = k, dim

    @abstractmethod
    def forward(self, eps: Tensor) -> Tensor:
        """Shifts [b, d] of steps [b, k]."""

    def settle(self) -> None:
        """Put the parameters where they must be before they are used."""

    @torch.no_grad()
    def matrix(self) -> Tensor:
        """The directions as they are used: the shifts [k, d] of steps of 1 along each."""
        self.settle()
        was = self.training
        self.eval()
        rows: Tensor = self(torch.eye(self.k, device=self._device)).clone()
        self.train(was)
        return rows

    @property
    def _device(self) -> torch.device:
        held = [*self.parameters(), *self.buffers()]
        return held[0].device if held else torch.device("cpu")


class Linear(DirectionMap):
    """shift = eps W^T, without a bias: one would move every code by the same random amount."""

    def __init__(self, rows: Tensor):
        super().__init__(*rows.shape)
        self.weight = nn.Parameter(rows.T.clone().float())

    def forward(self, eps: Tensor) -> Tensor:
        """Shifts of steps."""
        shift: Tensor = eps @ self.weight.T
        return shift


class Projected(Linear):
    """The linear shift, scaled to the length of the steps."""

    def forward(self, eps: Tensor) -> Tensor:
        """Shifts of steps; a shift of length 0 stays."""
        shift = super().forward(eps)
        length = shift.norm(dim=1, keepdim=True)
        safe = torch.where(length > 0, length, torch.ones_like(length))
        scaled: Tensor = shift * (eps.norm(dim=1, keepdim=True) / safe)
        return scaled


class Ortho(Linear):
    """Linear with orthonormal columns, restored before each use.

    The gradient is that of the raw entries; they are made orthonormal again without a gradient.
    """

    def __init__(self, rows: Tensor, retraction: Retraction = "qr"):
        k, dim = rows.shape
        if k > dim:
            raise ConfigError(
                f"{k} orthonormal directions do not fit into {dim} numbers; ask for fewer, or use"
                " map 'linear'"
            )
        super().__init__(rows)
        self.retraction: Retraction = retraction
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Make the columns orthonormal."""
        self.weight.copy_(retract(self.weight, self.retraction))


class Identity(DirectionMap):
    """Steps along the coordinates of the code; nothing is trained."""

    def forward(self, eps: Tensor) -> Tensor:
        """Steps, cut or filled with zeros."""
        return fitted(eps, self.dim)


class Fixed(DirectionMap):
    """Directions that stay as they are."""

    rows: Tensor

    def __init__(self, rows: Tensor):
        super().__init__(*rows.shape)
        self.register_buffer("rows", rows.clone().float())

    def forward(self, eps: Tensor) -> Tensor:
        """Shifts of steps."""
        return eps @ self.rows


class OrthoExp(DirectionMap):
    """A rotation, by the exponential of an antisymmetric matrix (Voynov & Babenko)."""

    def __init__(self, k: int, dim: int, rng: torch.Generator, scale: float = 0.001):
        super().__init__(k, dim)
        self.free = nn.Parameter(scale * torch.randn(k, k, generator=rng))

    def forward(self, eps: Tensor) -> Tensor:
        """Rotated steps, cut or filled with zeros."""
        return fitted(eps @ torch.linalg.matrix_exp(self.free - self.free.T).T, self.dim)


class Deep(DirectionMap):
    """Four linear layers with shortcuts (Voynov & Babenko's "fc"); the shift depends on the steps.

    Its directions are the shifts of single steps of 1.
    """

    def __init__(self, k: int, dim: int):
        super().__init__(k, dim)
        linear = nn.Linear
        self.layers = nn.ModuleList(
            [linear(k, WIDE), linear(WIDE, WIDE), linear(WIDE, WIDE), linear(WIDE, k)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(WIDE) for _ in range(3)])

    def forward(self, eps: Tensor) -> Tensor:
        """Shifts, cut or filled with zeros."""
        total, a = torch.zeros((), device=eps.device), eps
        for layer, norm in zip(self.layers, self.norms, strict=False):
            total = total + layer(a)
            a = F.elu(norm(total))
        return fitted(self.layers[3](a) + eps, self.dim)


def make_map(
    name: MapName,
    k: int,
    dim: int,
    *,
    rows: Tensor | None = None,
    rng: torch.Generator,
    retraction: Retraction = "qr",
) -> DirectionMap:
    """A map from steps to shifts.

    Args:
        name: "ortho": orthonormal directions; "linear": any; "proj": any, shifts scaled to the
            length of the steps; "id": the coordinates; "random": `rows`, or random orthonormal
            directions, which are not trained; "ortho-exp": a rotation of the coordinates; "fc": a
            network.
        k: directions.
        dim: length of a code.
        rows: float [k, d] to begin with. "id", "ortho-exp" and "fc" take none. Left out: the
            coordinates, for "ortho" with a little noise, before they are made orthonormal.
        rng: for what is drawn.
        retraction: of "ortho": "qr" keeps the direction of the first column and lets later ones
            give way, "polar" treats all alike.

    Raises:
        ConfigError: more orthonormal directions than numbers, or `rows` for a map that takes none.
    """
    if name in ("id", "ortho-exp", "fc"):
        if rows is not None:
            raise ConfigError(
                f"map '{name}' begins with the coordinates of the code and takes no directions; use"
                " ortho, linear or proj"
            )
        if name == "id":
            return Identity(k, dim)
        if name == "ortho-exp":
            return OrthoExp(k, dim, rng)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.initial_seed())
            return Deep(k, dim)
    if name == "random":
        if rows is None:
            if k > dim:
                raise ConfigError(f"{k} orthonormal directions do not fit into {dim} numbers")
            rows = torch.linalg.qr(torch.randn(dim, k, generator=rng)).Q.T
        return Fixed(rows)
    begun = torch.eye(k, dim) if rows is None else rows
    if name == "ortho":
        noise = 0.001 * torch.randn(k, dim, generator=rng) if rows is None else 0.0
        return Ortho(begun + noise, retraction)
    return Linear(begun) if name == "linear" else Projected(begun)


def retract(d: Tensor, how: Retraction = "qr") -> Tensor:
    """The nearest orthonormal columns, by QR or by the polar decomposition.

    Args:
        d: float [d, k], k <= d.
        how: "qr": the Q factor, its columns' signs such that R has no negative diagonal entry, so
            that the first column keeps its direction; "polar": U V^T of the singular value
            decomposition, which treats columns alike.

    Returns:
        [d, k], an orthonormal matrix is its own.
    """
    if how == "polar":
        u, _, vh = torch.linalg.svd(d, full_matrices=False)
        nearest: Tensor = u @ vh
        return nearest
    q, r = torch.linalg.qr(d)
    signed: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return signed


def fitted(shift: Tensor, dim: int) -> Tensor:
    """Shifts [b, m] as [b, d]: cut, or filled with zeros."""
    return F.pad(shift, (0, dim - shift.shape[1]))
