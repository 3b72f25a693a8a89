"""Finding directions without training: SeFa, GANSpace, Jacobians, and random ones to compare with.

SeFa: Shen & Zhou, CVPR 2021, arXiv 2007.06600; GANSpace: Härkönen et al., NeurIPS 2020, arXiv
2004.02546.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truecue.config import suggest
from truecue.directions.directions import Directions, unit
from truecue.errors import ConfigError, DataError
from truecue.nets.generator import Generator, check_finite
from truecue.seeds import derive

FinderName = Literal["sefa", "sefa-raw", "ganspace", "jacobian", "random"]
BATCH = 250
"""Codes that are rendered or mapped at a time."""
MOST_FEATURES = 8192
"""Features of an early layer that GANSpace works on; larger maps are averaged down first."""


def find_directions(how: FinderName, generator: Generator, k: int, seed: int = 0) -> Directions:
    """Directions by the name of a finder, with its default settings.

    Args:
        how: "sefa" (rows of the first linear maps scaled to unit length, as in the official code),
            "sefa-raw", "ganspace", "jacobian" or "random".
        generator: on any device.
        k: how many.
        seed: of what is drawn.

    Raises:
        ConfigError: there is no such finder, it cannot work with this generator, or k is out of
            range.
    """
    known = list(get_args(FinderName))
    if how not in known:
        raise ConfigError(f"there is no finder '{how}'{suggest(how, known)} ({', '.join(known)})")
    if how in ("sefa", "sefa-raw"):
        return sefa(generator, k, normalise=how == "sefa")
    finders: dict[str, Callable[[Generator, int], Directions]] = {
        "ganspace": lambda g, n: ganspace(g, n, seed=seed),
        "jacobian": lambda g, n: jacobian(g, n, seed=seed),
        "random": lambda g, n: random_directions(g, n, seed=seed),
    }
    return finders[how](generator, k)


def sefa(generator: Generator, k: int, *, normalise: bool = True) -> Directions:
    """Directions that the first linear maps stretch most.

    The eigenvectors of A^T A with the largest eigenvalues, A being the maps' matrices one below the
    other. Nothing is drawn or rendered.

    Args:
        generator: must know its first linear maps.
        k: how many, at most the length of a code.
        normalise: scale each row of A to unit length first, as the official code does.

    Raises:
        ConfigError: the generator knows no such maps, or k is out of range.
    """
    _check_count(k, generator)
    maps = generator.first_linear_maps()
    if not maps:
        raise ConfigError(
            "SeFa needs the layers that see a code first, and this generator names none; name them"
            " (first=..., styles=...), or use 'ganspace' or 'jacobian'"
        )
    a = torch.cat([m.detach().double().cpu() for m in maps])
    values, vectors = _largest(gram(unit(a) if normalise else a), k)
    how = "SeFa" if normalise else "SeFa, rows not scaled"
    return _made(generator, vectors, how, values)


def ganspace(
    generator: Generator, k: int, *, n: int = 20_000, seed: int = 0, layer: str | None = None
) -> Directions:
    """Principal components of the codes, or of the features of an early layer.

    In w, components of n mapped codes. In z, where the prior has no direction of its own:
    components of a layer's features over n codes, each scaled to unit variance, and the least-
    squares map from these coordinates back to the latent; its rows, normalised, are the directions.
    There, n is at most 10,000.

    Args:
        generator: on any device.
        k: how many.
        n: codes.
        seed: of the codes.
        layer: name of the layer; left out: the second one with weights. The first one's features
            are linear in the latent, which would give SeFa's directions without scaled rows.

    Returns:
        Directions of unit length, with the variances of their components.

    Raises:
        ConfigError: k is out of range, there is no such layer, or it has fewer features than k.
        DataError: codes or features are not finite.
    """
    _check_count(k, generator)
    if generator.space == "w" and layer is None:
        mapped = torch.cat([generator.codes(b, seed, i, "ganspace") for i, b in _batches(n)])
        _check_sound(mapped, "the mapping gives codes")
        _, components, spread = principal(mapped, k)
        return _made(generator, components, f"GANSpace, {n:,} codes in w", spread.square())
    n = min(n, 10_000)
    chosen = _early(generator, layer)
    codes, features = _features(generator, chosen, n, seed)
    if features.shape[1] < k:
        raise ConfigError(
            f"the layer '{chosen}' has {features.shape[1]} features, too few for {k} directions"
        )
    _check_sound(features, f"the layer '{chosen}' gives features")
    mean, components, spread = principal(features, k)
    places = (features.double() - mean) @ components.T / spread.clamp(min=1e-12)
    solved = torch.linalg.lstsq(places, codes.double() - codes.double().mean(0)).solution
    what = f"GANSpace, features of '{chosen}' over {n:,} codes"
    return _made(generator, unit(solved), what, spread.square())


def jacobian(
    generator: Generator, k: int, *, n: int = 32, rounds: int = 6, seed: int = 0
) -> Directions:
    """Directions that change images most, for any generator that can be differentiated.

    The eigenvectors with the largest eigenvalues of the mean over codes of J^T J, J being the
    derivative of an image by its code; by subspace iteration from a random start, with products of
    J and J^T with vectors. Not from a paper.

    Args:
        generator: on any device.
        k: how many.
        n: codes.
        rounds: of the iteration.
        seed: of codes and start.

    Raises:
        ConfigError: k is out of range.
        DataError: an image is not finite.
    """
    _check_count(k, generator)
    codes = generator.codes(n, seed, "jacobian")
    with torch.no_grad():
        check_finite(generator(codes), seed)
    width = min(generator.dim, k + 5)
    rng = torch.Generator().manual_seed(derive(seed, "jacobian", "start"))
    start = torch.randn(generator.dim, width, generator=rng).to(codes.device)
    basis, _ = torch.linalg.qr(start)
    for _ in range(rounds):
        basis, _ = torch.linalg.qr(_stretched(generator, codes, basis))
    small = basis.T @ _stretched(generator, codes, basis)
    values, vectors = _largest((small + small.T).double().cpu() / 2, k)
    rows = vectors @ basis.T.double().cpu()
    return _made(generator, rows, f"Jacobians of {n} images", values)


def random_directions(generator: Generator, k: int, *, seed: int = 0) -> Directions:
    """Random orthonormal directions, to compare others with.

    Raises:
        ConfigError: k is out of range.
    """
    _check_count(k, generator)
    rng = torch.Generator().manual_seed(derive(seed, "random directions"))
    q, _ = torch.linalg.qr(torch.randn(generator.dim, k, generator=rng, dtype=torch.float64))
    return _made(generator, q.T, "random")


def gram(a: Tensor) -> Tensor:
    """A^T A [d, d] of a matrix [m, d]."""
    return a.T @ a


def principal(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [d], first k principal components [k, d] and their deviations [k] of samples [n, d].

    In float64 and main memory; deviations divide by n - 1.
    """
    x = x.double().cpu()
    mean = x.mean(0)
    centred = x - mean
    n, d = x.shape
    if d <= n:
        values, rows = _largest(gram(centred) / (n - 1), k)
    else:  # the smaller of the two products has the same eigenvalues
        values, left = _largest(centred @ centred.T / (n - 1), k)
        rows = unit(left @ centred)
    return mean, rows, values.clamp(min=0).sqrt()


def _largest(symmetric: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues and their eigenvectors in rows, signs so that the sum is >= 0."""
    if len(symmetric) > 500 and 10 * k < len(symmetric):  # a fraction of the time
        from scipy.sparse.linalg import eigsh

        start = torch.ones(len(symmetric), dtype=symmetric.dtype)
        found = eigsh(symmetric.numpy(), k, which="LA", v0=start.numpy())
        values, vectors = (torch.from_numpy(part.copy()) for part in found)
    else:
        values, vectors = torch.linalg.eigh(symmetric)
    rows = vectors.flip(1)[:, :k].T
    signs = torch.where(rows.sum(1, keepdim=True) < 0, -1.0, 1.0)
    return values.flip(0)[:k], rows * signs


def _stretched(generator: Generator, codes: Tensor, basis: Tensor) -> Tensor:
    """The mean over codes of J^T J times each column of a basis [d, m]."""
    columns = []
    for column in basis.T:
        tangent = column.expand_as(codes).contiguous()
        # the derivative of (J^T w) v by w is J v: two passes back, where forward mode may be absent
        _, moved = torch.autograd.functional.jvp(generator, codes, tangent)
        _, back = torch.autograd.functional.vjp(generator, codes, moved)
        columns.append(back.mean(0))
    return torch.stack(columns, 1)


def _early(generator: Generator, layer: str | None) -> str:
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    known = [name for name, module in generator.named_modules() if isinstance(module, kinds)]
    if layer is not None:
        if layer not in dict(generator.named_modules()):
            raise ConfigError(f"the generator has no layer '{layer}' ({', '.join(known[:12])})")
        return layer
    if len(known) < 2:
        raise ConfigError(
            "GANSpace in z looks at the features of an early layer, and this generator has no two"
            " layers with weights; use 'jacobian'"
        )
    second: str = known[1]
    return second


@torch.no_grad()
def _features(generator: Generator, layer: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codes [n, d] and the features [n, m] that a layer makes of them, in main memory."""
    seen: list[Tensor] = []

    def look(_: nn.Module, __: object, out: Tensor) -> None:
        seen.append(_flat(out).cpu())
        raise _EnoughError  # the layers behind it need not be computed

    hook = generator.get_submodule(layer).register_forward_hook(look)
    codes = []
    try:
        for i, b in _batches(n):
            codes.append(generator.codes(b, seed, i, "ganspace"))
            with suppress(_EnoughError):
                generator.render(codes[-1])
    finally:
        hook.remove()
    return torch.cat(codes).cpu(), torch.cat(seen)


def _check_sound(values: Tensor, what: str) -> None:
    bad = int((~values.isfinite().all(1)).sum())
    if bad:
        raise DataError(
            f"{what} that are not finite, for {bad:,} of {len(values):,} codes; GANSpace needs a"
            " generator, and a layer, that is sound for all codes"
        )


class _EnoughError(Exception):
    """Ends a forward pass."""


def _flat(out: Tensor) -> Tensor:
    """Features [n, m]; large maps are averaged down to at most `MOST_FEATURES`."""
    while out.dim() == 4 and out[0].numel() > MOST_FEATURES and min(out.shape[2:]) > 1:
        out = F.avg_pool2d(out, 2)
    return out.flatten(1)


def _batches(n: int) -> list[tuple[int, int]]:
    return [(i, min(BATCH, n - start)) for i, start in enumerate(range(0, n, BATCH))]


def _made(
    generator: Generator, rows: Tensor, found_by: str, values: Tensor | None = None
) -> Directions:
    strengths = () if values is None else tuple(values.tolist())
    return Directions(
        rows, found_by, strengths=strengths, space=generator.space, generator=generator.digest()
    )


def _check_count(k: int, generator: Generator) -> None:
    if not 1 <= k <= generator.dim:
        raise ConfigError(
            f"this generator's codes have {generator.dim} numbers, so that there are 1 to"
            f" {generator.dim} orthogonal directions; got {k}"
        )
