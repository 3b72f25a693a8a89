from __future__ import annotations

from typing import ClassVar

import pytest

from truecue.engine.plan import LABELS_FOR_CHOOSING, Plan
from truecue.errors import ConfigError
from truecue.methods import METHODS, method_named
from truecue.methods.base import Method, Uses
from truecue.methods.denetdm import DeNetDM
from truecue.methods.erm import ERM


def test_methods_by_name() -> None:
    assert method_named("erm") is ERM
    assert METHODS["denetdm"] is DeNetDM
    with pytest.raises(ConfigError, match=r"no method 'denetdn'; did you mean 'denetdm'\? \(meth"):
        method_named("denetdn")


def test_methods_of_other_packages_come_by_entry_points(monkeypatch) -> None:
    from importlib.metadata import EntryPoint

    from truecue import methods

    def entry_points(group: str):
        assert group == "truecue.methods"
        return [EntryPoint("plain", "truecue.methods.erm:ERM", group)]

    monkeypatch.setattr(methods, "entry_points", entry_points)
    assert method_named("plain") is ERM
    with pytest.raises(ConfigError, match="plain"):
        method_named("plane")


def test_a_method_must_say_how_to_fit() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Method()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("uses", "words"),
    [
        (Uses.LABELS, "class labels only"),
        (Uses.TRAIN_ATTRIBUTES, "class labels and bias labels of training images"),
        (
            Uses.TRAIN_ATTRIBUTES | Uses.VAL_ATTRIBUTES,
            "class labels and bias labels of training images and bias labels of validation images",
        ),
    ],
)
def test_supervision_in_words(uses: Uses, words: str) -> None:
    assert uses.words() == words


class Both(ERM):
    """Two plans that choose by rules of their own."""

    uses: ClassVar[Uses] = Uses.TRAIN_ATTRIBUTES
    first: Plan = Plan(select="val_worst_group")
    """First."""


def test_reports_learn_which_labels_were_looked_at() -> None:
    plain = ERM().labels_used()
    assert plain == {"training": "class labels only", "choosing": "none"}
    assert Both().labels_used() == {
        "training": "class labels and bias labels of training images",
        "choosing": "class and bias labels of validation images",
    }
    assert Both(plan=Plan(select="oracle_test")).labels_used()["choosing"].count("TEST") == 1
    assert list(Both().plans()) == ["plan", "first"]
    assert ERM().selection() == "last"
    assert Both().selection() == "plan: last, first: val_worst_group"
    assert Both(plan=Plan(select="val_worst_group")).selection() == "val_worst_group"


def test_every_rule_says_what_it_looks_at() -> None:
    rules = Plan.model_json_schema()["properties"]["select"]["enum"]
    assert set(rules) == set(LABELS_FOR_CHOOSING)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tau": 0}, "DeNetDM: tau must be greater than 0; got 0"),
        ({"poe": -1}, "poe must be greater than or equal to 0"),
        ({"taus": 2}, "did you mean 'tau'"),
        ({"experts": {"epochs": 0}}, "experts.epochs"),
    ],
)
def test_settings_out_of_range(settings, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DeNetDM(**settings)
