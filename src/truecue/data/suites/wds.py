"""WebDataset shards: tar files in which the members of a sample share the beginning of their name.

`000.jpg` with `000.cls` or `000.json` is one sample. The tar files are read with Python's tarfile:
their headers once, the images from where they lie. Nothing is unpacked to disk.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truecue.data.files import SUFFIXES, fingerprint
from truecue.data.suites.listing import SPLITS, as_text, natural
from truecue.data.suites.records import Records
from truecue.errors import DataError

_TEXT = 1 << 16  # bytes: longer members are not taken for a label or an attribute
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 100_000  # shards of a pattern


@dataclass
class _Sample:
    shard: Path
    key: str
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By extension: where the bytes lie, and how many."""
    values: dict[str, str | None] = field(default_factory=dict)


def find_shards(given: Path) -> list[Path]:
    """The shards that a path stands for, sorted; none where it stands for something else.

    A `.tar` file; a pattern such as `train-{000..004}.tar`; or a folder that holds `.tar` files,
    itself or in folders called train, val and test.

    Raises:
        DataError: a shard of a pattern is absent.
    """
    if given.suffix.lower() == ".tar" and _RANGE.search(given.name):
        return _expand(given)
    if given.suffix.lower() == ".tar" and given.is_file():
        return [given]
    if not given.is_dir():
        return []
    inside = [p for p in given.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
    # a tar file that lies beside class folders is none of ours
    folders = [p for p in inside if p.name.lower() in SPLITS] if inside else [given]
    found = [p for f in folders for p in f.glob("*.tar") if not p.name.startswith(".")]
    return sorted(found, key=lambda p: natural(p.as_posix()))


def _expand(pattern: Path) -> list[Path]:
    names = [pattern.name]
    while found := _RANGE.search(names[0]):
        low, high = found[1], found[2]
        if not 0 <= int(high) - int(low) < _MOST // len(names):
            raise DataError(f"{pattern.name}: {found[0]} is not a range of shards")
        numbers = [str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)]
        names = [_RANGE.sub(number, name, count=1) for name in names for number in numbers]
    paths = [pattern.with_name(name) for name in names]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise DataError(
            f"{len(absent):,} of the {len(paths):,} shards of {pattern} are not there; the first is"
            f" {absent[0]}"
        )
    return paths


def read_shards(shards: list[Path], image: str | None, split: str = "split") -> Records:
    """The images and columns of shards.

    Columns are the keys of a sample's `.json` and the extensions of its text members; `cls` counts
    as `label` where nothing is called label. The split is a shard's, by the name of its folder or a
    word in its own name (`birds-train-003.tar`), unless the samples have a column for it.

    Args:
        shards: tar files.
        image: extension of the images, e.g. `jpg` or `seg.png`; None takes any known one.
        split: what to call the column with the splits.

    Raises:
        DataError: a shard is damaged, or only some shards have a split in their names.
    """
    samples = [sample for shard in shards for sample in _samples(shard)]
    names = sorted({name for sample in samples for name in sample.values}, key=natural)
    columns = {name: [sample.values.get(name) for sample in samples] for name in names}
    if "cls" in columns and "label" not in columns:
        columns["label"] = columns.pop("cls")
    parts = {shard: _split(shard) for shard in shards}
    if any(parts.values()) and split not in columns:
        lost = next((shard for shard, part in parts.items() if part is None), None)
        if lost is not None:
            raise DataError(
                f"{lost} does not say whether it is for training, validation or testing, and other"
                " shards do: put a word such as train into the name of every shard or of its folder"
            )
        columns[split] = [parts[sample.shard] for sample in samples]
    chosen = [_image(sample, image) for sample in samples]

    def read(i: int) -> bytes:
        start, length = samples[i].images[chosen[i][0]]
        with samples[i].shard.open("rb") as file:
            file.seek(start)
            return file.read(length)

    return Records(
        shards[0].name if len(shards) == 1 else shards[0].parent.name,
        read,
        [reason for _, reason in chosen],
        [
            f"{s.shard.name}/{s.key}.{kind}" if len(shards) > 1 else f"{s.key}.{kind}"
            for s, (kind, _) in zip(samples, chosen, strict=True)
        ],
        [f"{s.shard.name}: {s.key}" for s in samples],
        columns,
        f"{fingerprint(shards)} {image}",
    )


def _samples(shard: Path) -> Iterator[_Sample]:
    """The samples of a shard: runs of members with one key."""
    now: _Sample | None = None
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                plain = member.isreg() and not member.issparse()
                if not plain or not stem or not kind or stem.startswith("__"):
                    continue
                key = f"{folder}/{stem}".removeprefix("./").removeprefix("/")
                if now is None or key != now.key:
                    if now is not None:
                        yield now
                    if key in seen:
                        raise DataError(
                            f"{shard}: the members of sample '{key}' do not follow one another"
                        )
                    seen.add(key)
                    now = _Sample(shard, key)
                _take(now, kind.lower(), member, tar)
            _check_end(tar)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"{shard} cannot be read as a tar file ({error}); was it copied in full?"
        ) from error
    if now is not None:
        yield now


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse a file that stops where a member could begin: tarfile takes that for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("there is no end mark after the last member")


def _take(sample: _Sample, kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    """Note where an image lies, or read a label or attributes."""
    if f".{kind.rpartition('.')[2]}" in SUFFIXES:
        sample.images[kind] = (member.offset_data, member.size)
        return
    if member.size > _TEXT:
        return
    file = tar.extractfile(member)
    held = b"" if file is None else file.read()
    place = f"{sample.shard}: {member.name}"
    if len(held) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    if kind == "json":
        try:
            values = json.loads(held)
        except ValueError as error:
            raise DataError(f"{place} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{place} must hold names and values, {{...}}")
        sample.values |= {str(k): _scalar(v) for k, v in values.items()}
        return
    try:
        sample.values[kind] = as_text(held.decode())
    except UnicodeDecodeError:
        return  # some other member, such as an array


def _scalar(value: Any) -> str | None:
    return None if isinstance(value, list | dict) else as_text(value)


def _image(sample: _Sample, wanted: str | None) -> tuple[str, str]:
    """The extension of a sample's image, and what is wrong with it."""
    kinds = [k for k in sample.images if wanted is None or k == wanted.lower()]
    plain = [k for k in kinds if "." not in k] or kinds
    if len(plain) == 1:
        return plain[0], ""
    if not plain:
        return "", f"it has no image{f' .{wanted}' if wanted else ''}"
    return "", f"it has several images (.{', .'.join(plain)}); name one by the setting file"


def _split(shard: Path) -> str | None:
    """The split of a shard by the name of its folder or a word in its own."""
    words = re.split(r"[^a-z]+", shard.name.removesuffix(".tar").lower())
    called = [word for word in [shard.parent.name.lower(), *words] if word in SPLITS]
    return SPLITS[called[-1]] if called else None
