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
    from truecue.audit.audit import Audit as Audit
    from truecue.audit.automatic import judge_by_masks as judge_by_masks
    from truecue.audit.bias import bias_pictures as bias_pictures
    from truecue.audit.candidates import CueColumn as CueColumn
    from truecue.audit.cue_table import CueFinding as CueFinding
    from truecue.audit.cue_table import CueTable as CueTable
    from truecue.audit.cues import find_cues as find_cues
    from truecue.audit.filedata import file_columns as file_columns
    from truecue.audit.make import AuditSettings as AuditSettings
    from truecue.audit.make import make_audit as make_audit
    from truecue.audit.measure import measure_gaps as measure_gaps
    from truecue.audit.rank import FeatureRank as FeatureRank
    from truecue.audit.rank import RankComparison as RankComparison
    from truecue.audit.rank import Subject as Subject
    from truecue.audit.rank import compare_ranks as compare_ranks
    from truecue.audit.shown import BiasPictures as BiasPictures
    from truecue.audit.texts import judge_by_text as judge_by_text
    from truecue.audit.texts import text_cues as text_cues
    from truecue.audit.verdicts import Judgement as Judgement
    from truecue.audit.verdicts import Verdicts as Verdicts
    from truecue.data.loader import Batch as Batch
    from truecue.data.sets import Attribute as Attribute
    from truecue.data.sets import ImageSet as ImageSet
    from truecue.data.sets import Splits as Splits
    from truecue.data.suites import SUITES as SUITES
    from truecue.data.suites.bar import BAR as BAR
    from truecue.data.suites.base import Suite as Suite
    from truecue.data.suites.bffhq import BFFHQ as BFFHQ
    from truecue.data.suites.biased_mnist import BiasedMNIST as BiasedMNIST
    from truecue.data.suites.celeba import CelebA as CelebA
    from truecue.data.suites.colored_mnist import ColoredMNIST as ColoredMNIST
    from truecue.data.suites.corrupted_cifar10 import CorruptedCIFAR10 as CorruptedCIFAR10
    from truecue.data.suites.digits import Digits as Digits
    from truecue.data.suites.dogs_cats import DogsCats as DogsCats
    from truecue.data.suites.folder import Folder as Folder
    from truecue.data.suites.gratings import Gratings as Gratings
    from truecue.data.suites.imagenet9 import ImageNet9 as ImageNet9
    from truecue.data.suites.pacs import PACS as PACS
    from truecue.data.suites.planted import Planted as Planted
    from truecue.data.suites.utkface import UTKFace as UTKFace
    from truecue.data.suites.waterbirds import Waterbirds as Waterbirds
    from truecue.directions.directions import Directions as Directions
    from truecue.directions.directions import load_directions as load_directions
    from truecue.directions.discover import Discover as Discover
    from truecue.directions.discover import discover as discover
    from truecue.directions.find import find_directions as find_directions
    from truecue.directions.measured import measured_directions as measured_directions
    from truecue.directions.probe import probe_classifier as probe_classifier
    from truecue.directions.sre import SRE as SRE
    from truecue.directions.sre import refine as refine
    from truecue.directions.view import ClassifierView as ClassifierView
    from truecue.engine.device import Device as Device
    from truecue.engine.learner import Learner as Learner
    from truecue.engine.learner import SampleState as SampleState
    from truecue.engine.learner import Step as Step
    from truecue.engine.plan import SGD as SGD
    from truecue.engine.plan import Adam as Adam
    from truecue.engine.plan import AdamW as AdamW
    from truecue.engine.plan import Constant as Constant
    from truecue.engine.plan import Cosine as Cosine
    from truecue.engine.plan import HeldCosine as HeldCosine
    from truecue.engine.plan import Patience as Patience
    from truecue.engine.plan import Plan as Plan
    from truecue.engine.plan import Plateau as Plateau
    from truecue.engine.plan import Steps as Steps
    from truecue.engine.run import Run as Run
    from truecue.errors import TruecueError as TruecueError
    from truecue.explain import ShownBias as ShownBias
    from truecue.explain import show_bias as show_bias
    from truecue.methods import METHODS as METHODS
    from truecue.methods.base import Method as Method
    from truecue.methods.base import Uses as Uses
    from truecue.methods.bias_half import BiasHalf as BiasHalf
    from truecue.methods.defund import DeFund as DeFund
    from truecue.methods.denetdm import DeNetDM as DeNetDM
    from truecue.methods.dfr import DFR as DFR
    from truecue.methods.disent import DisEnt as DisEnt
    from truecue.methods.erm import ERM as ERM
    from truecue.methods.groupdro import GroupDRO as GroupDRO
    from truecue.methods.jtt import JTT as JTT
    from truecue.methods.lc import LC as LC
    from truecue.methods.lff import LfF as LfF
    from truecue.methods.reweight import Reweight as Reweight
    from truecue.methods.sih import SiH as SiH
    from truecue.methods.subsample import Subsample as Subsample
    from truecue.methods.supinfonce import SupInfoNCE as SupInfoNCE
    from truecue.nets.adapters import ClassGenerator as ClassGenerator
    from truecue.nets.adapters import PairedGenerator as PairedGenerator
    from truecue.nets.adapters import PlainGenerator as PlainGenerator
    from truecue.nets.adapters import StyleGenerator as StyleGenerator
    from truecue.nets.build import build as build
    from truecue.nets.classifier import Classifier as Classifier
    from truecue.nets.classifier import load_classifier as load_classifier
    from truecue.nets.classifier import save_classifier as save_classifier
    from truecue.nets.generator import Generator as Generator
    from truecue.nets.load_generator import load_generator as load_generator
    from truecue.nets.procedural import ShapesGenerator as ShapesGenerator
    from truecue.nets.scorer import load_scorer as load_scorer
    from truecue.nets.vae import PairedVAE as PairedVAE
    from truecue.nets.vae import build_vae as build_vae
    from truecue.nets.vae import load_vae as load_vae
    from truecue.nets.vae import save_vae as save_vae
    from truecue.repair.repair import repair_audit as repair_audit
    from truecue.repair.tune import TuneSettings as TuneSettings
    from truecue.report.bias_page import write_bias_page as write_bias_page
    from truecue.report.rank_page import write_rank_page as write_rank_page
    from truecue.report.repair_page import write_repair_page as write_repair_page

__version__ = _version("truecue")

_HOMES = {
    "BAR": "data.suites.bar",
    "BFFHQ": "data.suites.bffhq",
    "DFR": "methods.dfr",
    "METHODS": "methods",
    "PACS": "data.suites.pacs",
    "SGD": "engine.plan",
    "SUITES": "data.suites",
    "Adam": "engine.plan",
    "AdamW": "engine.plan",
    "Attribute": "data.sets",
    "Audit": "audit.audit",
    "AuditSettings": "audit.make",
    "Batch": "data.loader",
    "CelebA": "data.suites.celeba",
    "BiasHalf": "methods.bias_half",
    "BiasPictures": "audit.shown",
    "BiasedMNIST": "data.suites.biased_mnist",
    "Classifier": "nets.classifier",
    "ColoredMNIST": "data.suites.colored_mnist",
    "Constant": "engine.plan",
    "CorruptedCIFAR10": "data.suites.corrupted_cifar10",
    "Cosine": "engine.plan",
    "FeatureRank": "audit.rank",
    "HeldCosine": "engine.plan",
    "Patience": "engine.plan",
    "Plateau": "engine.plan",
    "Steps": "engine.plan",
    "CueColumn": "audit.candidates",
    "CueFinding": "audit.cue_table",
    "CueTable": "audit.cue_table",
    "DeFund": "methods.defund",
    "DeNetDM": "methods.denetdm",
    "Device": "engine.device",
    "DisEnt": "methods.disent",
    "Digits": "data.suites.digits",
    "DogsCats": "data.suites.dogs_cats",
    "ERM": "methods.erm",
    "Folder": "data.suites.folder",
    "Gratings": "data.suites.gratings",
    "GroupDRO": "methods.groupdro",
    "ImageSet": "data.sets",
    "ImageNet9": "data.suites.imagenet9",
    "JTT": "methods.jtt",
    "Judgement": "audit.verdicts",
    "LC": "methods.lc",
    "Learner": "engine.learner",
    "LfF": "methods.lff",
    "Method": "methods.base",
    "PairedVAE": "nets.vae",
    "Plan": "engine.plan",
    "Planted": "data.suites.planted",
    "RankComparison": "audit.rank",
    "Reweight": "methods.reweight",
    "Run": "engine.run",
    "SampleState": "engine.learner",
    "ShownBias": "explain",
    "SiH": "methods.sih",
    "Splits": "data.sets",
    "Step": "engine.learner",
    "Subject": "audit.rank",
    "Subsample": "methods.subsample",
    "SupInfoNCE": "methods.supinfonce",
    "Suite": "data.suites.base",
    "Trained": "api",
    "TruecueError": "errors",
    "TuneSettings": "repair.tune",
    "UTKFace": "data.suites.utkface",
    "Uses": "methods.base",
    "Verdicts": "audit.verdicts",
    "Waterbirds": "data.suites.waterbirds",
    "bias_pictures": "audit.bias",
    "build": "nets.build",
    "compare_ranks": "audit.rank",
    "build_vae": "nets.vae",
    "load_vae": "nets.vae",
    "repair_audit": "repair.repair",
    "save_vae": "nets.vae",
    "evaluate": "api",
    "file_columns": "audit.filedata",
    "find_cues": "audit.cues",
    "judge_by_masks": "audit.automatic",
    "judge_by_text": "audit.texts",
    "load_classifier": "nets.classifier",
    "make_audit": "audit.make",
    "measure_gaps": "audit.measure",
    "save_classifier": "nets.classifier",
    "show_bias": "explain",
    "text_cues": "audit.texts",
    "train": "api",
    "ClassGenerator": "nets.adapters",
    "ClassifierView": "directions.view",
    "Directions": "directions.directions",
    "Discover": "directions.discover",
    "Generator": "nets.generator",
    "PairedGenerator": "nets.adapters",
    "PlainGenerator": "nets.adapters",
    "SRE": "directions.sre",
    "ShapesGenerator": "nets.procedural",
    "StyleGenerator": "nets.adapters",
    "discover": "directions.discover",
    "find_directions": "directions.find",
    "load_directions": "directions.directions",
    "measured_directions": "directions.measured",
    "load_generator": "nets.load_generator",
    "probe_classifier": "directions.probe",
    "refine": "directions.sre",
    "load_scorer": "nets.scorer",
    "write_bias_page": "report.bias_page",
    "write_rank_page": "report.rank_page",
    "write_repair_page": "report.repair_page",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'truecue' has no attribute '{name}'")
    return getattr(import_module(f"truecue.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
