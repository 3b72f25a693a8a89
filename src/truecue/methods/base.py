"""What a method is: a frozen bag of settings with one function, `fit`."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import ClassVar

from truecue.config import Config
from truecue.data.sets import Splits
from truecue.engine.plan import LABELS_FOR_CHOOSING, Plan
from truecue.engine.run import Run
from truecue.nets.classifier import Classifier


class Uses(enum.Flag):
    """Supervision beside class labels that a method asks for; it is not shown any other."""

    LABELS = 0
    TRAIN_ATTRIBUTES = enum.auto()
    VAL_ATTRIBUTES = enum.auto()

    def words(self) -> str:
        """For reports: which labels training looks at."""
        parts = ["class labels"]
        if Uses.TRAIN_ATTRIBUTES in self:
            parts.append("bias labels of training images")
        if Uses.VAL_ATTRIBUTES in self:
            parts.append("bias labels of validation images")
        return " and ".join(parts) if len(parts) > 1 else "class labels only"


class Method(Config, ABC):
    """A way to train a classifier."""

    title: ClassVar[str]
    """The method's name in full, with its source."""
    uses: ClassVar[Uses] = Uses.LABELS
    """What it asks for with default settings."""
    instead: ClassVar[str] = ""
    """For errors: settings with which it does without the bias labels it asks for, if there are."""
    plan: Plan = Plan()
    """How the network that is delivered is trained."""

    @abstractmethod
    def fit(self, data: Splits, run: Run) -> Classifier:
        """Train on data that shows no attribute but the declared ones.

        Args:
            data: the splits; `test` is there for its classes and shape and must not be looked at.
            run: trains and computes durably. Between its stages this function is deterministic.

        Returns:
            A classifier from uint8 images to logits.
        """

    def supervision(self) -> Uses:
        """What it asks for with these settings; `uses`, where a method does not say otherwise."""
        return self.uses

    def plans(self) -> dict[str, Plan]:
        """Every plan among the settings, by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Plan)}

    def selection(self) -> str:
        """For reports: by which rule weights are chosen, in every plan that has one."""
        rules = {name: plan.select for name, plan in self.plans().items()}
        if len(set(rules.values())) == 1:
            return next(iter(rules.values()))
        return ", ".join(f"{name}: {rule}" for name, rule in rules.items())

    def labels_used(self) -> dict[str, str]:
        """For reports: labels that training and choosing look at."""
        used = dict.fromkeys(LABELS_FOR_CHOOSING[plan.select] for plan in self.plans().values())
        asked = [words for words in used if words != "none"]
        return {"training": self.supervision().words(), "choosing": "; ".join(asked) or "none"}


def method_name(method: Method) -> str:
    """The name by which the command line knows a method."""
    return type(method).__name__.lower()
