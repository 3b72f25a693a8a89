"""Writing a report: one page that explains itself, and the same facts as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truecue.atomic import atomic, write_text
from truecue.errors import ConfigError
from truecue.report.page import render
from truecue.report.pictures import Picture

if TYPE_CHECKING:
    from truecue.audit.shown import BiasPictures


def write_report(
    report: dict[str, Any],
    pictures: Mapping[str, Picture],
    out: Path,
    *,
    bias: BiasPictures | None = None,
) -> Path:
    """Write `report.json` and `report.html` into a folder.

    Both are made in full before either is written, and each replaces the file of its name at
    once, so that a report that was there before stays whole until the new one is.

    Args:
        report: what was done and measured, as plain values. Everything but `task` and `models`
            may be absent. Numbers that are not finite are written as null.
        pictures: images to show, by kind: `examples`, `examples_aligned`,
            `examples_conflicting`, `before_wrong`, `suspects`, `highest`. Any may be absent.
        out: the folder; made if it does not exist.
        bias: pictures of the bias that a model learned; the page shows the main ones and says that
            all of them are in `bias/index.html` beside it.

    Returns:
        The path of the page. It opens in any browser, without a network, and loads nothing.

    Raises:
        DataError: pictures are of a wrong shape or type, or their captions do not fit.
        StorageError: a file could not be written.
    """
    twin = twin_of(report)
    # the page is made from what the JSON file holds, so that the two cannot tell different stories
    page = render(json.loads(twin), pictures, bias)
    return write_page(out / "report.html", page, "report.json", twin)


def twin_of(values: Mapping[str, Any]) -> str:
    """The JSON text of what a page shows, with null for numbers that are not finite."""
    return json.dumps(finite(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_page(
    path: Path, page: str, twin_name: str, twin: str, files: Mapping[str, bytes] | None = None
) -> Path:
    """Write a page, its pictures and its JSON twin into one folder, the page last.

    Args:
        path: of the page; its folder is made if it does not exist.
        page: the HTML text.
        twin_name: name of the JSON file.
        twin: its text.
        files: pictures as files of their own, by name.

    Returns:
        `path`. Each file replaces the one of its name at once.

    Raises:
        StorageError: a file could not be written.
    """
    for name, content in (files or {}).items():
        with atomic(path.parent / name) as temporary:
            temporary.write_bytes(content)
    write_text(path.parent / twin_name, sound(twin))
    write_text(path, sound(page))
    return path


def check_page(folder: Path, twin_name: str) -> None:
    """Refuse to write `index.html` over that of another command, before anything is computed.

    Args:
        folder: for the page.
        twin_name: name of the JSON file that is written with it, before it.

    Raises:
        ConfigError: there is such a page, but not that file beside it.
    """
    page = folder / "index.html"
    if page.is_file() and not (folder / twin_name).is_file():
        raise ConfigError(
            f"{page} is another command's page (there is no {twin_name} beside it) and would be"
            " lost; give another folder with --out"
        )


def finite(value: Any) -> Any:
    """The same plain values with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def sound(text: str) -> str:
    """Without lone surrogates: a file's name that is not UTF-8 must not cost the report."""
    return text.encode("utf-8", "replace").decode("utf-8")
