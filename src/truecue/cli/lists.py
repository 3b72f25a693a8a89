"""`truecue methods` and `truecue suites`: what there is, and every setting of each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from truecue.config import Config

methods = typer.Typer(help="List the methods; show one with its settings.")
suites = typer.Typer(help="List the suites; show one with its source, licence and settings.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="One of those listed.")]


@methods.callback(invoke_without_command=True)
def list_methods(context: typer.Context, as_json: Json = False) -> None:
    """List the methods; show one with its settings."""
    if context.invoked_subcommand is not None:
        return
    from truecue.methods import METHODS

    rows = {name: {"title": m.title, "labels": m.uses.words()} for name, m in METHODS.items()}
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for name, row in rows.items():
        typer.echo(f"{name:12} {row['title']}; trains on {row['labels']}")


@methods.command("show")
def show_method(name: Name, as_json: Json = False) -> None:
    """Show a method with its settings."""
    from truecue.methods import method_named

    method = method_named(name)
    facts = {"title": method.title, "labels used in training": method.uses.words()}
    _show(name, method, facts, "", as_json=as_json)


@suites.callback(invoke_without_command=True)
def list_suites(context: typer.Context, as_json: Json = False) -> None:
    """List the suites; show one with its source, licence and settings."""
    if context.invoked_subcommand is not None:
        return
    from truecue.data.suites import SUITES

    rows = {name: {"about": _first(s), "self_made": s.self_made} for name, s in SUITES.items()}
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for name, row in rows.items():
        needs = "needs no files" if row["self_made"] else "reads files"
        typer.echo(f"{name:16} {row['about']} ({needs})")


@suites.command("show")
def show_suite(name: Name, as_json: Json = False) -> None:
    """Show a suite: source, licence, which files to put where, settings."""
    from truecue.data.suites import suite_named

    suite = suite_named(name)
    facts = {"source": suite.source, "licence": suite.licence, "files": suite.layout}
    _show(name, suite, facts, "data.", as_json=as_json)


def _show(
    name: str, of: type[Config], facts: dict[str, str], prefix: str, *, as_json: bool
) -> None:
    settings = [{"name": n, "default": d, "about": a} for n, d, a in _settings(of)]
    if as_json:
        typer.echo(json.dumps(facts | {"settings": settings}, indent=1, default=str))
        return
    typer.echo(f"{name}: {inspect.cleandoc(of.__doc__ or '')}\n")
    for what, text in facts.items():
        typer.echo(f"{what}: {text}")
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
        else:
            yield f"{above}{name}", value, field.description or ""


def _first(of: type) -> str:
    return inspect.cleandoc(of.__doc__ or "").split("\n", maxsplit=1)[0]
