"""The names that users import."""

from __future__ import annotations

import inspect

import pytest

import truecue


def test_what_is_listed_is_what_is_exposed() -> None:
    assert sorted(truecue.__all__) == dir(truecue)
    assert len(set(truecue.__all__)) == len(truecue.__all__)


@pytest.mark.parametrize("name", truecue.__all__)
def test_every_public_name_can_be_had_and_is_documented(name: str) -> None:
    thing = getattr(truecue, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__doc__
        assert thing.__module__.startswith("truecue.")
        assert thing.__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    """The names under TYPE_CHECKING and the table of lazy imports are written separately."""
    source = inspect.getsource(truecue)
    stated = {
        line.split(" as ")[1].strip()
        for line in source.splitlines()
        if line.startswith("    from truecue.") and " as " in line
    }
    assert stated == set(truecue.__all__) - {"__version__"}


def test_what_users_start_from_is_there() -> None:
    wanted = {"train", "evaluate", "ERM", "DeNetDM", "Gratings", "Digits", "load_classifier"}
    assert wanted <= set(truecue.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        truecue.nonsense  # noqa: B018
