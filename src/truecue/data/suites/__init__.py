"""Suites: data sets with settings, source and licence, one file each."""

from __future__ import annotations

from typing import Any

from truecue.config import suggest
from truecue.data.suites.base import Suite
from truecue.data.suites.colored_mnist import ColoredMNIST
from truecue.data.suites.digits import Digits
from truecue.data.suites.gratings import Gratings
from truecue.errors import ConfigError

SUITES: dict[str, type[Suite]] = {
    "colored_mnist": ColoredMNIST,
    "digits": Digits,
    "gratings": Gratings,
}


def suite_named(name: str) -> type[Suite]:
    if name in SUITES:
        return SUITES[name]
    raise ConfigError(f"there is no suite '{name}'{suggest(name, list(SUITES))}")


def open_data(data: str, changes: dict[str, Any]) -> Suite:
    return suite_named(data)().override(changes)
