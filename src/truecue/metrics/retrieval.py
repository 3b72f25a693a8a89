"""How good a ranked list is, where it is known which entries are wanted."""

from __future__ import annotations

from torch import Tensor

from truecue.errors import DataError


def precision_at_k(wanted: Tensor, k: int) -> Tensor:
    """The share of wanted entries among the first k of each list.

    Args:
        wanted: bool [queries, n], whether each entry is wanted, best-ranked first.
        k: how many are looked at; of shorter lists, all.

    Returns:
        float [queries].

    Raises:
        DataError: the table is not bool [queries, n], or k is not positive.
    """
    _check(wanted)
    if k < 1:
        raise DataError(f"precision is that of at least one entry; k is {k}")
    return wanted[:, :k].double().mean(1)


def average_precision(wanted: Tensor) -> Tensor:
    """The mean, over the wanted entries of each list, of the precision at their places.

    Args:
        wanted: bool [queries, n], whether each entry is wanted, best-ranked first.

    Returns:
        float [queries]; nan for a list without a wanted entry. The expected value for a random
        order is a little above the share of wanted entries.

    Raises:
        DataError: the table is not bool [queries, n].
    """
    _check(wanted)
    hits = wanted.double().cumsum(1)
    places = hits.new_ones(wanted.shape).cumsum(1)
    return (hits / places * wanted).sum(1) / wanted.sum(1)


def _check(wanted: Tensor) -> None:
    if wanted.dim() != 2 or str(wanted.dtype) != "torch.bool" or wanted.shape[1] == 0:
        raise DataError(
            f"a table of wanted entries must be bool [queries, n]; got {wanted.dtype}"
            f" {list(wanted.shape)}"
        )
