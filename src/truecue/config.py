"""Settings: frozen, checked, documented by their own docstrings, written to and read from TOML."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass

from truecue.errors import ConfigError


class _ConfigMeta(ModelMetaclass):
    """Turns pydantic's report into one sentence, at the outermost constructor only."""

    def __call__(cls, /, *args: Any, **values: Any) -> Any:  # noqa: N805
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise ConfigError(_explain(cast("type[BaseModel]", cls), error)) from None


class Config(BaseModel, metaclass=_ConfigMeta):
    """A frozen bag of settings. Unknown names and values out of range raise `ConfigError`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; settings that are None are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The settings as TOML text; `from_toml` reads it back."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str, where: str = "") -> Self:
        """Read settings written by `to_toml`.

        Args:
            text: TOML.
            where: the file's name, for error messages.

        Raises:
            ConfigError: the text is not TOML, or a setting is unknown or out of range.
        """
        try:
            return cls(**tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"{where or 'the settings'} cannot be read as TOML: {error}"
            ) from None
        except ConfigError as error:
            raise ConfigError(f"{error} ({where})" if where else str(error)) from None

    def override(self, changes: Mapping[str, Any]) -> Self:
        """These settings with some changed.

        Args:
            changes: values by dotted name, e.g. `{"plan.epochs": 20}`, or nested mappings. A value
                that changes an optimizer's or schedule's `kind` starts from that kind's defaults.

        Raises:
            ConfigError: a name is unknown or a value is out of range.
        """
        return type(self)(**_merge(self.to_dict(), nest(changes)))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        ConfigError: the file is absent or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no settings file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """The command line's `name=value` pairs as a dictionary.

    A value is read as TOML (`0.5`, `true`, `["flip"]`) and, where that fails, taken as text.

    Raises:
        ConfigError: a pair has no `=`.
    """
    changes: dict[str, Any] = {}
    for item in assignments:
        name, sign, text = item.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--set takes name=value, e.g. --set plan.epochs=20; got '{item}'")
        try:
            changes[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name.strip()] = text
    return changes


def assignments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `name=value` pairs for the command line, from which they can be read again."""
    pairs: list[str] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += [f"{name}.{pair}" for pair in assignments(value)]
            continue
        text = str(value) if isinstance(value, str) else json.dumps(value)
        if parse_assignments([f"{name}={text}"]) != {name: value}:
            text = json.dumps(value)  # text that would be read as a number
        pairs.append(f"{name}={text}")
    return pairs


def suggest(name: str, known: list[str]) -> str:
    """`"; did you mean 'x'?"` where a known name is close, else an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def nest(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as dictionaries in dictionaries: `{"a.b": 1}` as `{"a": {"b": 1}}`.

    Raises:
        ConfigError: a name has both a value of its own and names below it.
    """
    nested: dict[str, Any] = {}
    for name, given in changes.items():
        value = nest(given) if isinstance(given, Mapping) else given
        *path, last = name.split(".")
        place = nested
        for part in path:
            below = place.setdefault(part, {})
            if not isinstance(below, dict):
                raise ConfigError(f"'{name}' and '{part}' cannot both be set")
            place = below
        both = isinstance(value, dict) and isinstance(place.get(last), dict)
        place[last] = _merge(place[last], value) if both else value
    return nested


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if "kind" in changes and changes["kind"] != base.get("kind"):
        return changes
    merged = dict(base)
    for name, value in changes.items():
        below = merged.get(name)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[name] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """One sentence for each problem, the first three of them."""
    sentences = []
    for problem in error.errors():
        owner, names = _owner(model, problem["loc"])
        name, found = ".".join(names), problem.get("input")
        if problem["type"] == "extra_forbidden":
            known = sorted(owner.model_fields)
            settings = f"(settings: {', '.join(known)})" if known else "(it has no settings)"
            place = f"{model.__name__}.{'.'.join(names[:-1])}" if len(names) > 1 else model.__name__
            hint = suggest(names[-1], known)
            sentences.append(f"{place} has no setting '{names[-1]}'{hint} {settings}")
        elif problem["type"] == "missing":
            sentences.append(f"{model.__name__} needs the setting '{name}'")
        elif problem["type"] == "union_tag_invalid":
            kinds = [kind.strip("' ") for kind in problem["ctx"]["expected_tags"].split(",")]
            tag = str(problem["ctx"]["tag"])
            sentences.append(
                f"{model.__name__}: {name}.kind must be one of {', '.join(kinds)}; got"
                f" '{tag}'{suggest(tag, kinds)}"
            )
        elif problem["type"] in {"model_type", "model_attributes_type"}:
            sentences.append(
                f"{model.__name__}: {name} has settings of its own, e.g. {name}.NAME=...; got"
                f" {found!r}"
            )
        elif problem["type"] == "tuple_type":
            sentences.append(
                f"{model.__name__}: {name} must be a list, e.g. {name}=[{found!r}]; got {found!r}"
            )
        elif problem["type"] == "value_error":
            reason = str(problem["ctx"]["error"]) if "ctx" in problem else problem["msg"]
            sentences.append(f"{model.__name__}: {f'{name}: ' if name else ''}{reason}")
        else:
            rule = problem["msg"].partition(" should ")[2] or f"be {problem['msg']}"
            sentences.append(f"{model.__name__}: {name} must {rule}; got {found!r}")
    more = f"; and {len(sentences) - 3} more" if len(sentences) > 3 else ""
    return "; ".join(sentences[:3]) + more


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], list[str]]:
    """The model that owns a location, and the location without the tags of tagged unions."""
    owner, names, key = model, list[str](), False
    choices: dict[str, type[BaseModel]] = {}
    for i, part in enumerate(loc):
        after = str(loc[i + 1]) if i + 1 < len(loc) else ""
        if not key:
            field = owner.model_fields.get(str(part))
            if field is None and after:
                continue  # a union's tag
            choices = {} if field is None else _models_in(field.annotation)
        names.append(str(part))
        key = not key and bool(choices) and get_origin(field and field.annotation) is dict
        if after and choices and not key:
            owner = choices.get(after) or next(iter(choices.values()))
    return owner, names


def _models_in(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models that an annotation allows, by their `kind` where they have one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        return {str(kind.default) if kind else annotation.__name__: annotation}
    found: dict[str, type[BaseModel]] = {}
    for inner in getattr(annotation, "__args__", ()):
        found.update(_models_in(inner))
    return found
