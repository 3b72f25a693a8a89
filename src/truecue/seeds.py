"""Randomness as a function: a seed for every purpose, computed from what it is for."""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """A seed that depends on all parts and on nothing else.

    `derive(seed, "augment", step)` gives the same number in every process, on every machine and
    in every order of calls, so that step *k* can be recomputed without steps 0 to *k* - 1.

    Args:
        *parts: integers and strings, in order. 1 and "1" are different parts.

    Returns:
        An integer in [0, 2**63).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
