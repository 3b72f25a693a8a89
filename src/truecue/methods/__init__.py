"""Methods: one file each, read from top to bottom."""

from __future__ import annotations

from importlib.metadata import entry_points

from truecue.config import suggest
from truecue.errors import ConfigError
from truecue.methods.base import Method, Uses
from truecue.methods.denetdm import DeNetDM
from truecue.methods.erm import ERM

METHODS: dict[str, type[Method]] = {
    "denetdm": DeNetDM,
    "erm": ERM,
}
"""The package's methods by name; others enter through the entry-point group `truecue.methods`."""


def method_named(name: str) -> type[Method]:
    """The method of that name, from this package or an installed one.

    Raises:
        ConfigError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    others = {entry.name: entry for entry in entry_points(group="truecue.methods")}
    if name in others:
        loaded: type[Method] = others[name].load()
        return loaded
    known = sorted([*METHODS, *others])
    raise ConfigError(
        f"there is no method '{name}'{suggest(name, known)} (methods: {', '.join(known)})"
    )


__all__ = ["ERM", "METHODS", "DeNetDM", "Method", "Uses", "method_named"]
