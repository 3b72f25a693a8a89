"""Find, show, measure and remove the spurious correlations that image classifiers learn.

Everything public can be had from here; nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truecue.api import Trained as Trained
    from truecue.api import evaluate as evaluate
    from truecue.api import train as train
    from truecue.data.loader import Batch as Batch
    from truecue.data.sets import Attribute as Attribute
    from truecue.data.sets import ImageSet as ImageSet
    from truecue.data.sets import Splits as Splits
    from truecue.data.suites import SUITES as SUITES
    from truecue.data.suites.base import Suite as Suite
    from truecue.data.suites.colored_mnist import ColoredMNIST as ColoredMNIST
    from truecue.data.suites.digits import Digits as Digits
    from truecue.data.suites.folder import Folder as Folder
    from truecue.data.suites.gratings import Gratings as Gratings
    from truecue.engine.device import Device as Device
    from truecue.engine.learner import Learner as Learner
    from truecue.engine.learner import SampleState as SampleState
    from truecue.engine.learner import Step as Step
    from truecue.engine.plan import SGD as SGD
    from truecue.engine.plan import Adam as Adam
    from truecue.engine.plan import AdamW as AdamW
    from truecue.engine.plan import Constant as Constant
    from truecue.engine.plan import Cosine as Cosine
    from truecue.engine.plan import Patience as Patience
    from truecue.engine.plan import Plan as Plan
    from truecue.engine.plan import Plateau as Plateau
    from truecue.engine.plan import Steps as Steps
    from truecue.engine.run import Run as Run
    from truecue.errors import TruecueError as TruecueError
    from truecue.methods import METHODS as METHODS
    from truecue.methods.base import Method as Method
    from truecue.methods.base import Uses as Uses
    from truecue.methods.denetdm import DeNetDM as DeNetDM
    from truecue.methods.dfr import DFR as DFR
    from truecue.methods.disent import DisEnt as DisEnt
    from truecue.methods.erm import ERM as ERM
    from truecue.methods.groupdro import GroupDRO as GroupDRO
    from truecue.methods.jtt import JTT as JTT
    from truecue.methods.lc import LC as LC
    from truecue.methods.lff import LfF as LfF
    from truecue.methods.reweight import Reweight as Reweight
    from truecue.methods.subsample import Subsample as Subsample
    from truecue.nets.build import build as build
    from truecue.nets.classifier import Classifier as Classifier
    from truecue.nets.classifier import load_classifier as load_classifier
    from truecue.nets.classifier import save_classifier as save_classifier

__version__ = _version("truecue")

_HOMES = {
    "DFR": "methods.dfr",
    "METHODS": "methods",
    "SGD": "engine.plan",
    "SUITES": "data.suites",
    "Adam": "engine.plan",
    "AdamW": "engine.plan",
    "Attribute": "data.sets",
    "Batch": "data.loader",
    "Classifier": "nets.classifier",
    "ColoredMNIST": "data.suites.colored_mnist",
    "Constant": "engine.plan",
    "Cosine": "engine.plan",
    "Patience": "engine.plan",
    "Plateau": "engine.plan",
    "Steps": "engine.plan",
    "DeNetDM": "methods.denetdm",
    "Device": "engine.device",
    "DisEnt": "methods.disent",
    "Digits": "data.suites.digits",
    "ERM": "methods.erm",
    "Folder": "data.suites.folder",
    "Gratings": "data.suites.gratings",
    "GroupDRO": "methods.groupdro",
    "ImageSet": "data.sets",
    "JTT": "methods.jtt",
    "LC": "methods.lc",
    "Learner": "engine.learner",
    "LfF": "methods.lff",
    "Method": "methods.base",
    "Plan": "engine.plan",
    "Reweight": "methods.reweight",
    "Run": "engine.run",
    "SampleState": "engine.learner",
    "Splits": "data.sets",
    "Step": "engine.learner",
    "Subsample": "methods.subsample",
    "Suite": "data.suites.base",
    "Trained": "api",
    "TruecueError": "errors",
    "Uses": "methods.base",
    "build": "nets.build",
    "evaluate": "api",
    "load_classifier": "nets.classifier",
    "save_classifier": "nets.classifier",
    "train": "api",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'truecue' has no attribute '{name}'")
    return getattr(import_module(f"truecue.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
