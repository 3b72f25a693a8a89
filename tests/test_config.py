from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from truecue.config import Config, assignments, nest, parse_assignments, read_toml, suggest
from truecue.errors import ConfigError


class Slow(Config):
    """A kind."""

    kind: Literal["slow"] = "slow"
    rate: Annotated[float, Field(gt=0)] = 0.1
    """How fast."""


class Fast(Config):
    """Another kind."""

    kind: Literal["fast"] = "fast"
    rate: Annotated[float, Field(gt=0)] = 10.0
    """How fast."""
    boost: bool = False
    """Faster still."""


class Inner(Config):
    """Nested."""

    epochs: PositiveInt = 5
    """How often."""
    motor: Annotated[Slow | Fast, Field(discriminator="kind")] = Slow()
    """Which motor."""
    motor_of: dict[str, Annotated[Slow | Fast, Field(discriminator="kind")]] = {}
    """Motors by name."""
    names: tuple[str, ...] = ()
    """Names."""


class Outer(Config):
    """The whole."""

    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A share."""
    label: str | None = None
    """A text."""
    plan: Inner = Inner()
    """A plan."""


def sentence(**values) -> str:
    with pytest.raises(ConfigError) as error:
        Outer(**values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_settings_are_refused_with_a_hint() -> None:
    assert sentence(qq=1) == (
        "Outer has no setting 'qq'; did you mean 'q'? (settings: label, plan, q)"
    )
    assert "did you mean" not in sentence(zzzzzz=1)
    assert sentence(plan={"epoch": 3}) == (
        "Outer.plan has no setting 'epoch'; did you mean 'epochs'?"
        " (settings: epochs, motor, motor_of, names)"
    )
    assert "Outer.plan.motor has no setting 'boots'; did you mean 'boost'?" in sentence(
        plan={"motor": {"kind": "fast", "boots": True}}
    )
    assert "has no setting 'boost' (settings: kind, rate)" in sentence(
        plan={"motor": {"kind": "slow", "boost": True}}
    )


def test_values_out_of_range_are_named_with_what_was_found() -> None:
    assert sentence(q=0) == "Outer: q must be greater than 0; got 0"
    assert sentence(q="much") == "Outer: q must be a valid number, unable to parse string as a" \
        " number; got 'much'"  # fmt: skip
    assert "plan.epochs must be greater than 0; got -4" in sentence(plan={"epochs": -4})
    assert "plan.motor.rate must be greater than 0; got -1" in sentence(
        plan={"motor": {"kind": "fast", "rate": -1}}
    )
    assert "plan.motor_of.head.rate" in sentence(
        plan={"motor_of": {"head": {"kind": "slow", "rate": 0}}}
    )
    assert "must be one of slow, fast; got 'electric'" in sentence(
        plan={"motor": {"kind": "electric"}}
    )


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value: float) -> None:
    said = sentence(plan={"motor": {"kind": "fast", "rate": value}})
    assert said == f"Outer: plan.motor.rate must be a finite number; got {value}"
    (name,) = parse_assignments([f"rate={value}"]).items()
    with pytest.raises(ConfigError, match="rate must be a finite number"):
        Fast().override(dict([name]))


def test_several_faults_are_told_at_once_but_not_all_of_many() -> None:
    assert sentence(q=2, plan={"epochs": 0}).count(";") == 3
    said = sentence(a=1, b=2, c=3, d=4, e=5)
    assert said.endswith("; and 2 more")
    assert "'c'" in said
    assert "'d'" not in said


def test_settings_cannot_be_changed_and_can_be_compared_and_sent() -> None:
    outer = Outer(q=0.5)
    with pytest.raises(Exception, match="frozen"):
        outer.q = 0.6  # type: ignore[misc]
    assert outer == Outer(q=0.5) != Outer()
    assert pickle.loads(pickle.dumps(outer)) == outer


@given(
    st.builds(
        Outer,
        q=st.floats(0, 1, exclude_min=True),
        label=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
        plan=st.builds(
            Inner,
            epochs=st.integers(1, 10**9),
            motor=st.builds(Slow) | st.builds(Fast, rate=st.floats(1e-9, 1e9), boost=st.booleans()),
            motor_of=st.dictionaries(st.text(st.characters(codec="ascii")), st.builds(Fast)),
            names=st.lists(st.text(st.characters(codec="ascii"))).map(tuple),
        ),
    )
)
def test_settings_survive_toml(outer: Outer) -> None:
    assert Outer.from_toml(outer.to_toml()) == outer
    assert outer.override({}) == outer


def test_toml_that_cannot_be_used_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.toml cannot be read as TOML: "):
        Outer.from_toml("q = ", where="run.toml")
    with pytest.raises(ConfigError, match=r"did you mean 'q'.* \(run\.toml\)$"):
        Outer.from_toml("qq = 1", where="run.toml")
    with pytest.raises(ConfigError, match="no settings file"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_bytes(b"q = \xff")
    with pytest.raises(ConfigError, match=r"bad\.toml cannot be read"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text("q = 0.5\n[plan]\nepochs = 3")
    assert Outer(**read_toml(tmp_path / "good.toml")) == Outer(q=0.5, plan=Inner(epochs=3))


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "notepad.toml").write_text("q = 0.5\r\n", encoding="utf-8-sig", newline="")
    assert read_toml(tmp_path / "notepad.toml") == {"q": 0.5}


def test_too_few_of_something() -> None:
    class Listed(Config):
        seeds: Annotated[tuple[int, ...], Field(min_length=1)]

    with pytest.raises(ConfigError, match=r"^Listed: seeds must have at least 1 item"):
        Listed(seeds=())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"q": 0.5}, Outer(q=0.5, label="x", plan=Inner(epochs=9))),
        ({"plan.epochs": 3}, Outer(label="x", plan=Inner(epochs=3))),
        ({"plan": {"names": ["a"]}}, Outer(label="x", plan=Inner(epochs=9, names=("a",)))),
        (
            {"plan.motor.kind": "fast", "plan.motor.boost": True},
            Outer(label="x", plan=Inner(epochs=9, motor=Fast(boost=True))),
        ),
        ({"plan.motor.rate": 0.5}, Outer(label="x", plan=Inner(epochs=9, motor=Slow(rate=0.5)))),
        (
            {"plan.motor_of.head.kind": "slow"},
            Outer(label="x", plan=Inner(epochs=9, motor_of={"head": Slow()})),
        ),
        (
            {"plan": {"epochs": 4}, "plan.names": ["b"]},
            Outer(label="x", plan=Inner(epochs=4, names=("b",))),
        ),
        ({"label": None}, Outer(plan=Inner(epochs=9))),
    ],
)
def test_some_settings_can_be_changed(changes, expected) -> None:
    base = Outer(label="x", plan=Inner(epochs=9))
    assert base.override(changes) == expected
    assert base == Outer(label="x", plan=Inner(epochs=9))


def test_another_kind_starts_from_its_own_defaults() -> None:
    base = Outer(plan=Inner(motor=Fast(rate=77, boost=True)))
    assert base.override({"plan.motor.kind": "slow"}).plan.motor == Slow()
    assert base.override({"plan.motor.kind": "fast"}).plan.motor == Fast(rate=77, boost=True)


def test_changes_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot both be set"):
        Outer().override({"plan": 3, "plan.epochs": 2})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        Outer().override({"plan.epoch": 2})


@pytest.mark.parametrize("name", ["cls", "self", "args", "values"])
def test_names_that_python_uses_are_unknown_settings_like_any_other(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Outer has no setting '{name}'"):
        Outer().override({name: 3})
    with pytest.raises(ConfigError, match=f"Outer.plan has no setting '{name}'"):
        Outer().override({f"plan.{name}": 3})


def test_assignments_of_the_command_line() -> None:
    given = ["q=0.5", "plan.epochs = 3", "flag=true", 'a=["x", "y"]', "name=a b=c", "empty="]
    assert parse_assignments(given) == {
        "q": 0.5,
        "plan.epochs": 3,
        "flag": True,
        "a": ["x", "y"],
        "name": "a b=c",
        "empty": "",
    }
    for bad in ("q", "=3", " =3"):
        with pytest.raises(ConfigError, match="takes name=value"):
            parse_assignments([bad])


def test_suggestions() -> None:
    assert suggest("epoch", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert suggest("xyz", ["epochs", "seed"]) == ""
    assert suggest("xyz", []) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cues": ["blur", "patch"]}, ['cues=["blur", "patch"]']),
        ({"bias": "place", "size": 96, "fast": True}, ["bias=place", "size=96", "fast=true"]),
        ({"base": {"size": 16, "name": "a b"}}, ["base.size=16", "base.name=a b"]),
        ({"label": "7", "rate": 1e-7}, ['label="7"', "rate=1e-07"]),
    ],
)  # fmt: skip
def test_settings_can_be_said_on_the_command_line(
    settings: dict[str, object], words: list[str]
) -> None:
    assert assignments(settings) == words
    assert nest(parse_assignments(words)) == settings
