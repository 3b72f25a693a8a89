"""Hugging Face data sets on disk: what `save_to_disk` of the library `datasets` writes.

A data set is a folder with `dataset_info.json` (what the columns mean), `state.json` (which files)
and Arrow files; a set of splits is a folder with `dataset_dict.json` and such a folder for each.
They are read with pyarrow alone; `datasets` is not needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from truecue.config import suggest
from truecue.data.files import fingerprint, known
from truecue.data.suites.listing import SPLITS, as_text
from truecue.data.suites.records import Records
from truecue.errors import DataError


class _Part(NamedTuple):
    """One data set, which is the whole or one split."""

    folder: Path
    split: str | None
    table: Any
    features: dict[str, Any]
    files: list[Path]


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` writes."""
    one = all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))
    return one or (folder / "dataset_dict.json").is_file()


def read_hugging_face(root: Path, image: str | None, split: str = "split") -> Records:
    """The images and columns of a data set on disk.

    Image bytes are not read yet; the Arrow files are mapped into memory.

    Args:
        root: the folder.
        image: name of the column with the images; None takes the only one that there is.
        split: what to call the column with the splits, where the data set has splits.

    Raises:
        DataError: a file is absent, damaged or of another version, there is no such column, or
            there are several columns of images.
    """
    parts, notes = _parts(root)
    name = _image_column(root, parts[0], image)
    for part in parts[1:]:
        if part.features.keys() != parts[0].features.keys():
            raise DataError(
                f"{part.folder} has the columns {', '.join(part.features)}; {parts[0].folder} has"
                f" {', '.join(parts[0].features)}. All splits must have the same"
            )
    columns: dict[str, list[str | None]] = {k: [] for k in parts[0].features if k != name}
    pictures: list[tuple[Any, Any]] = []
    missing, where = [], []
    for part in parts:
        cells = part.table[name]
        for i, empty in enumerate(_empty(cells)):
            missing.append(f"column '{name}' is empty" if empty else "")
            where.append(f"{part.split or root.name} row {i + 1}")
        for k in columns:
            columns[k] += _texts(part, k)
        pictures += [(cells, i) for i in range(len(cells))]
    if parts[0].split is not None:
        columns[split] = [part.split for part in parts for _ in range(len(part.table))]

    def read(i: int) -> Path | bytes:
        cells, row = pictures[i]
        cell = cells[row]
        held: bytes | None = cell["bytes"].as_py()
        return root / cell["path"].as_py() if held is None else held

    outside = [root / path for part in parts for path in _outside(part.table[name])]
    key = f"{name} {fingerprint(file for part in parts for file in part.files)} {known(outside)}"
    return Records(root.name, read, missing, where, where, columns, key, notes)


def _parts(root: Path) -> tuple[list[_Part], tuple[str, ...]]:
    """The data sets to read, and a note on splits that are none of ours."""
    if not (root / "dataset_dict.json").is_file():
        return [_part(root, None)], ()
    splits = _json(root / "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise DataError(f"{root / 'dataset_dict.json'} does not list splits")
    known = [name for name in splits if name.lower() in SPLITS]
    others = ", ".join(f"'{name}'" for name in splits if name not in known)
    if not known:
        raise DataError(
            f"{root} has no split that is called {', '.join(SPLITS)}; it has {others or 'none'}."
            " Give the folder of one split"
        )
    called = [SPLITS[name.lower()] for name in known]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice:
        raise DataError(f"{root} has two splits of {twice} images: {', '.join(known)}")
    notes = (f"splits that are not train, val or test were left out: {others}",) if others else ()
    return [_part(root / name, name) for name in known], notes


def _part(folder: Path, split: str | None) -> _Part:
    import pyarrow as pa

    state = _json(folder / "state.json")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not all(isinstance(f, dict) for f in listed) or not listed:
        raise DataError(f"{folder / 'state.json'} names no data files")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(
            f"{folder} holds a selection of rows in the form of an old version of datasets; load it"
            " and save it again"
        )
    files = [folder / Path(str(f.get("filename"))).name for f in listed]
    tables = []
    for file in files:
        if not file.is_file():
            raise DataError(f"there is no file {file}, which {folder / 'state.json'} names")
        try:
            with pa.memory_map(str(file)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read ({error}); was it copied in full?") from error
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"the files of {folder} do not fit together: {error}") from error
    features = _json(folder / "dataset_info.json").get("features") or {}
    told = {name: features.get(name) or {} for name in table.column_names}
    return _Part(folder, split, table, told, files)


def _image_column(root: Path, part: _Part, wanted: str | None) -> str:
    """The column with the images: a struct of bytes and path."""
    import pyarrow as pa

    def holds_images(name: str) -> bool:
        kind = part.table.schema.field(name).type
        return pa.types.is_struct(kind) and {f.name for f in kind} >= {"bytes", "path"}

    found = [name for name in part.features if holds_images(name)]
    if wanted is not None and wanted in found:
        return wanted
    if wanted is not None or not found:
        what = f"no column '{wanted}' of images" if wanted else "no column of images"
        hint = suggest(wanted or "", found)
        raise DataError(
            f"{root.name} has {what}{hint} (columns of images: {', '.join(found) or 'none'}; all"
            f" columns: {', '.join(part.features)})"
        )
    if len(found) > 1:
        raise DataError(
            f"{root.name} has several columns of images ({', '.join(found)}); name one by the"
            " setting file"
        )
    return found[0]


def _outside(cells: Any) -> list[str]:
    """The paths of the images whose bytes the data set does not hold."""
    import pyarrow.compute as pc

    held, path = (pc.struct_field(cells, name) for name in ("bytes", "path"))
    return [found for found in pc.filter(path, pc.is_null(held)).to_pylist() if found]


def _empty(cells: Any) -> list[bool]:
    """Which cells hold neither bytes nor a path."""
    import pyarrow.compute as pc

    held, path = (pc.struct_field(cells, name) for name in ("bytes", "path"))
    filled = pc.or_(pc.is_valid(held), pc.is_valid(path))
    return [not full for full in filled.to_pylist()]


def _texts(part: _Part, name: str) -> list[str | None]:
    """A column as text: classes by their names; None for columns that are no single values."""
    import pyarrow as pa

    cells, told = part.table[name], part.features[name]
    kind = cells.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None] * len(cells)
    values = cells.to_pylist()
    if isinstance(told, dict) and told.get("_type") == "ClassLabel" and told.get("names"):
        names = [as_text(n) for n in told["names"]]
        wrong = next((v for v in values if v is not None and not -1 <= v < len(names)), None)
        if wrong is not None:
            raise DataError(
                f"{part.folder.name}: column '{name}' holds {wrong}, and its names end at"
                f" {len(names) - 1}"
            )
        # -1 is the library's way to say "not known"
        return [None if v is None or v == -1 else names[v] for v in values]
    return [as_text(v) for v in values]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; was the data set copied in full?") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read: it is not a JSON object")
    return found
