"""`truecue methods` and `truecue suites`: what there is, and every setting of each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from truecue.cli import options as o
from truecue.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from truecue.config import Config
    from truecue.data.suites.base import Suite

_Kind = TypeVar("_Kind", bound="Config")

methods = typer.Typer(help="List the methods; show one with its settings.")
suites = typer.Typer(help="List the suites; show one with its source, files and settings.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="One of those listed.")]


@methods.callback(invoke_without_command=True)
def list_methods(context: typer.Context, as_json: Json = False) -> None:
    """List the methods; show one with its settings."""
    if context.invoked_subcommand is not None:
        return
    from truecue.methods import method_named, method_names

    found = _all(method_names(), method_named)
    rows = {name: {"title": m.title, "labels": m.uses.words()} for name, m in found.items()}
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    width = max(12, *map(len, rows))
    for name, row in rows.items():
        typer.echo(f"{name:{width}} {row['title']}; trains on {row['labels']}")


@methods.command("show")
def show_method(name: Name, as_json: Json = False) -> None:
    """Show a method with its settings."""
    from truecue.methods import method_named

    method = method_named(name)
    facts = {"title": method.title, "labels used in training": method.uses.words()}
    _show(name, method, facts, "", as_json=as_json)


@suites.callback(invoke_without_command=True)
def list_suites(context: typer.Context, as_json: Json = False, root: o.Root = None) -> None:
    """List the suites and say whether their files are there; show one with its settings."""
    if context.invoked_subcommand is not None:
        return
    from truecue.data.suites import suite_named, suite_names

    found = _all(suite_names(), suite_named)
    rows = {
        name: {"about": _first(s), "self_made": s.self_made, "files": _files(s, root)[0]}
        for name, s in found.items()
    }
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    width = max(16, *map(len, rows))
    for name, row in rows.items():
        typer.echo(f"{name:{width}} {row['about']} ({row['files']})")


@suites.command("show")
def show_suite(name: Name, as_json: Json = False, root: o.Root = None) -> None:
    """Show a suite: source, licence, which files to get and where to put them, settings."""
    from truecue.data.suites import suite_named
    from truecue.data.suites.base import Suite

    suite = suite_named(name)
    state, place = _files(suite, root)
    # what a suite of another package leaves out is said of those that make their own images
    said = suite.self_made or suite.layout != Suite.layout
    got = suite.self_made or suite.obtain != Suite.obtain
    facts = {
        "source": suite.source,
        "licence": suite.licence,
        **({"files": suite.layout} if said else {}),
        **({"where to get them": suite.obtain} if got else {}),
        "found": state if place is None else f"{state}, in {place}",
        "images": dict(suite.counts),
        "checksums": dict(suite.checksums),
    }
    _show(name, suite, facts, "data.", as_json=as_json)


def _all(names: list[str], named: Callable[[str], type[_Kind]]) -> dict[str, type[_Kind]]:
    """What has a name, by name; what another package has that cannot be loaded is told."""
    found = {}
    for name in names:
        try:
            found[name] = named(name)
        except (ImportError, AttributeError, ConfigError) as error:
            typer.echo(f"truecue: '{name}' of another package is left out: {error}", err=True)
    return found


def _files(suite: type[Suite], root: Path | None) -> tuple[str, Path | None]:
    """Whether a suite's files are there, in a few words, and in which folder."""
    if suite.self_made:
        return "needs no files", None
    if not suite.marks:
        return "reads files", None
    place = None if root is None else suite.find(root)
    return ("files needed" if place is None else "ready"), place


def _show(
    name: str, of: type[Config], facts: dict[str, Any], prefix: str, *, as_json: bool
) -> None:
    settings = [{"name": n, "default": d, "about": a} for n, d, a in _settings(of)]
    if as_json:
        typer.echo(json.dumps(facts | {"settings": settings}, indent=1, default=str))
        return
    typer.echo(f"{name}: {inspect.cleandoc(of.__doc__ or '')}\n")
    for what, said in facts.items():
        if not isinstance(said, dict):
            typer.echo(f"{what}: {said}")
        elif said:
            typer.echo(f"{what}:")
            for key, value in said.items():
                typer.echo(f"  {key}  {value:,}" if isinstance(value, int) else f"  {key}  {value}")
    typer.echo(f"\nsettings (change them with --set {prefix}NAME=VALUE):")
    for row in settings:
        default = "required" if row["default"] is ... else json.dumps(row["default"], default=str)
        typer.echo(f"  {row['name']} = {default}\n      {row['about']}")


def _settings(
    of: type[Config], above: str = "", made: Any = None
) -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and description of every setting; settings inside settings, too."""
    from pydantic import BaseModel

    for name, field in of.model_fields.items():
        value = getattr(made, name) if made is not None else field.get_default()
        if field.is_required() and made is None:
            value = ...
        if isinstance(value, BaseModel):
            yield from _settings(type(value), f"{above}{name}.", value)  # type: ignore[arg-type]
        elif (
            value
            and isinstance(value, dict)
            and all(isinstance(part, BaseModel) for part in value.values())
        ):
            for key, part in value.items():
                yield from _settings(type(part), f"{above}{name}.{key}.", part)
        else:
            yield f"{above}{name}", value, field.description or ""


def _first(of: type) -> str:
    return inspect.cleandoc(of.__doc__ or "").split("\n", maxsplit=1)[0]
