"""The official files of CIFAR-10: records of bytes, and Python's serialised batches, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from truecue.errors import DataError

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]
"""Values uint8 [n, 3072], red, green and blue one after the other, and labels [n]."""

_VALUES = 3 * 32 * 32


def read_binary(path: Path) -> Batch:
    """A batch of the binary version: for each image one byte for the label, 3,072 for the pixels.

    Raises:
        DataError: the file does not hold whole records.
    """
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % (_VALUES + 1):
        raise DataError(
            f"{path} should hold records of {_VALUES + 1:,} bytes and holds {len(data):,} bytes;"
            " was it copied in full?"
        )
    rows = data.reshape(-1, _VALUES + 1)
    return rows[:, 1:], rows[:, 0]


def read_python(path: Path) -> Batch:
    """A batch of the Python version, a serialised dictionary with `data` and `labels`.

    Python's own reader runs what such a file asks for. This one only takes the file apart.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    try:
        found = _take_apart(path.read_bytes())
        x, y = _array(found[b"data"]), np.array(found[b"labels"])
    # a damaged file may go wrong anywhere
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be read as a batch of CIFAR-10 ({reason})") from error
    if x.ndim != 2 or x.shape[1] != _VALUES or y.shape != x.shape[:1]:
        raise DataError(
            f"{path} should hold values [n, {_VALUES}] and n labels; it holds {list(x.shape)} and"
            f" {y.size:,} labels"
        )
    return x, y


@dataclass
class _Object:
    """What the file would have made by a call, and the state that it would have set."""

    call: Any
    arguments: Any
    state: Any = None


def _array(found: Any) -> npt.NDArray[np.uint8]:
    """A numpy array of bytes from its state: version, shape, dtype, order, contents."""
    known = {b"numpy.core.multiarray _reconstruct", b"numpy._core.multiarray _reconstruct"}
    if not isinstance(found, _Object) or found.call not in known:
        made = found.call.decode() if isinstance(found, _Object) else type(found).__name__
        raise ValueError(f"its data are not an array but {made}")
    _, shape, kind, by_columns, content = found.state
    if kind.call != b"numpy dtype" or kind.arguments[0] != b"u1" or by_columns:
        raise ValueError(f"its data are not bytes in rows but {kind.arguments[0].decode()}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _take_apart(data: bytes) -> Any:
    """The contents of a serialised file (protocols 2 to 4), without making objects of them.

    Dictionaries, lists, tuples, strings (as bytes), integers, truth values and None become what
    they are; whatever would be made by a call becomes an `_Object`.
    """
    at, stack, marks, memo = 0, [], [], {}  # type: int, list[Any], list[int], dict[int, Any]

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(data):
            raise ValueError("the file ends too early")
        return data[at - count : at]

    def number(count: int, *, signed: bool = False) -> int:
        return int.from_bytes(take(count), "little", signed=signed)

    def line() -> bytes:
        return take(data.index(b"\n", at) + 1 - at)[:-1]

    def since_mark() -> list[Any]:
        start = marks.pop()
        above = stack[start:]
        del stack[start:]
        return above

    def last(count: int) -> list[Any]:
        return [stack.pop() for _ in range(count)][::-1]

    def build(state: Any) -> None:
        stack[-1].state = state

    values: dict[bytes, Callable[[], Any]] = {  # these put a value on the stack
        b"}": dict,
        b"]": list,
        b")": tuple,
        b"N": lambda: None,
        b"\x88": lambda: True,
        b"\x89": lambda: False,
        b"K": lambda: number(1),
        b"M": lambda: number(2),
        b"J": lambda: number(4, signed=True),
        b"U": lambda: take(number(1)),
        b"C": lambda: take(number(1)),
        b"\x8c": lambda: take(number(1)),
        b"T": lambda: take(number(4)),
        b"B": lambda: take(number(4)),
        b"X": lambda: take(number(4)),
        b"\x8e": lambda: take(number(8)),
        b"t": lambda: tuple(since_mark()),
        b"\x85": lambda: tuple(last(1)),
        b"\x86": lambda: tuple(last(2)),
        b"\x87": lambda: tuple(last(3)),
        b"c": lambda: line() + b" " + line(),
        b"\x93": lambda: b" ".join(last(2)),
        b"R": lambda: _Object(*last(2)),
        b"h": lambda: memo[number(1)],
        b"j": lambda: memo[number(4)],
    }
    actions: dict[bytes, Callable[[], Any]] = {  # and these do not
        b"\x80": lambda: take(1),
        b"\x95": lambda: take(8),
        b"(": lambda: marks.append(len(stack)),
        b"q": lambda: memo.update({number(1): stack[-1]}),
        b"r": lambda: memo.update({number(4): stack[-1]}),
        b"\x94": lambda: memo.update({len(memo): stack[-1]}),
        b"a": lambda: stack[-2].append(stack.pop()),
        b"e": lambda: _extend(since_mark()),
        b"s": lambda: _set(last(2)),
        b"u": lambda: _set(since_mark()),
        b"b": lambda: build(stack.pop()),
    }

    def _extend(items: list[Any]) -> None:
        stack[-1].extend(items)

    def _set(items: list[Any]) -> None:
        stack[-1].update(zip(items[::2], items[1::2], strict=True))

    while (code := take(1)) != b".":
        if code in values:
            stack.append(values[code]())
        elif code in actions:
            actions[code]()
        else:
            raise ValueError(f"byte {code!r} at {at - 1:,} means nothing that a batch has")
    return stack.pop()
