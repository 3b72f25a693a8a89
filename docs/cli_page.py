"""Write docs/cli.md from the help of the command line: `python docs/cli_page.py`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from truecue.cli.main import app

PAGE = Path(__file__).with_name("cli.md")

HEAD = """# Command line

This page is generated from the help of the commands, by `python docs/cli_page.py`.

Errors that you can mend are one sentence, and the exit status is 2. A run that is stopped by
Ctrl-C or SIGTERM saves a checkpoint and exits with 130; the same command goes on from there.
`--debug` in front of the command (`truecue --debug train ...`) shows a traceback.

Three environment variables count:

| variable | meaning |
|---|---|
| `TRUECUE_DATA` | Where a suite's files are, unless `--root` says otherwise. |
| `TRUECUE_CACHE` | Where decoded images are kept; default: `~/.cache/truecue`. |
| `TRUECUE_PASSWORD` | What `truecue app` asks for, unless `--password` says otherwise. |
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *(_section(words, command) for words, command in commands())])


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with what is typed to call it, groups before what they hold."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            yield from walk(f"{words} {name}", inner)

    yield from walk("truecue", get_command(app))


def options(command: Any) -> list[Any]:
    """The options of a command."""
    return [p for p in command.params if p.opts[0].startswith("-") and not p.hidden]


def _section(words: str, command: Any) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    chosen = options(command)
    usage = [words, *(p.metavar or p.name.upper() for p in arguments)]
    usage += ["[OPTIONS]"] if chosen else []
    usage += ["COMMAND"] if getattr(command, "commands", None) else []
    help_text = inspect.cleandoc(command.help or "").replace("\f", "")
    lines = [f"## {words}", "", help_text, "", "```text", " ".join(usage), "```", ""]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| {_code(p.metavar or p.name.upper())} | {_cell(p.help)} |" for p in arguments]
        lines.append("")
    if chosen:
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [f"| {_names(p)} | {_default(p)} | {_about(p)} |" for p in chosen]
        lines.append("")
    return "\n".join(lines)


def _code(name: str) -> str:
    # some readers take any | for the end of a cell, and some show the backslash before it
    return f"<code>{name.replace('|', '&#124;')}</code>" if "|" in name else f"`{name}`"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag:
        return "on" if option.default else "off"
    return "" if option.default is None else f"`{option.default}`"


def _about(option: Any) -> str:
    several = " May be given several times." if option.multiple else ""
    variable = f" Environment variable: `{option.envvar}`." if option.envvar else ""
    return f"{_cell(option.help)}{several}{variable}"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
