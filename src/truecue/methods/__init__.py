"""Methods: one file each, read from top to bottom."""

from __future__ import annotations

from importlib.metadata import entry_points

from truecue.config import suggest
from truecue.errors import ConfigError
from truecue.methods.base import Method, Uses
from truecue.methods.defund import DeFund
from truecue.methods.denetdm import DeNetDM
from truecue.methods.dfr import DFR
from truecue.methods.disent import DisEnt
from truecue.methods.erm import ERM
from truecue.methods.groupdro import GroupDRO
from truecue.methods.jtt import JTT
from truecue.methods.lc import LC
from truecue.methods.lff import LfF
from truecue.methods.reweight import Reweight
from truecue.methods.sih import SiH
from truecue.methods.subsample import Subsample
from truecue.methods.supinfonce import SupInfoNCE

METHODS: dict[str, type[Method]] = {
    "defund": DeFund,
    "denetdm": DeNetDM,
    "dfr": DFR,
    "disent": DisEnt,
    "erm": ERM,
    "groupdro": GroupDRO,
    "jtt": JTT,
    "lc": LC,
    "lff": LfF,
    "reweight": Reweight,
    "sih": SiH,
    "subsample": Subsample,
    "supinfonce": SupInfoNCE,
}
"""The package's methods by name; others enter through the entry-point group `truecue.methods`."""


def method_names() -> list[str]:
    """The names of all methods, those of other packages included."""
    return sorted({*METHODS, *(entry.name for entry in entry_points(group="truecue.methods"))})


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
    known = method_names()
    raise ConfigError(
        f"there is no method '{name}'{suggest(name, known)} (methods: {', '.join(known)})"
    )


__all__ = [
    "DFR",
    "ERM",
    "JTT",
    "LC",
    "METHODS",
    "DeFund",
    "DeNetDM",
    "DisEnt",
    "GroupDRO",
    "LfF",
    "Method",
    "Reweight",
    "SiH",
    "Subsample",
    "SupInfoNCE",
    "Uses",
    "method_named",
    "method_names",
]
