"""Read training configurations: YAML files, `key=value` overrides, one clear line for every error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from smalti.common.files import read_text
from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.plain_yaml import read_yaml

ConfigT = TypeVar("ConfigT", bound=RunConfig)
_SHOWN = 80  # characters of a wrong value in an error


def load_config(kind: type[ConfigT], path: str | Path, overrides: list[str] | None = None) -> ConfigT:
    """Read a YAML configuration and apply `section.key=value` overrides, whose values are YAML too.

    Args:
        kind: `DenoiserRunConfig` or `TokenizerRunConfig`.
        path: the YAML file.
        overrides: values in place of the file's, such as "loop.steps=2000".

    Raises:
        SmaltiError: the file is missing or not YAML, a key is unknown, a value has the wrong type or range. The
            message names the key.

    Example:
        >>> from smalti.training.config import DenoiserRunConfig
        >>> load_config(DenoiserRunConfig, "configs/scenes.yaml", ["loop.steps=5"]).loop.steps
        5
    """
    path = Path(path)
    text = read_text(path)
    try:
        values = read_yaml(text)
    except SmaltiError as error:
        raise SmaltiError(f"{path} {error}") from error
    if not isinstance(values, dict):
        raise SmaltiError(f"{path} must hold keys and values, not {type(values).__name__}")
    for override in overrides or []:
        apply_override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SmaltiError(f"{path}: {explain(kind, error)}") from error


@contextlib.contextmanager
def name_key(key: str) -> Iterator[None]:
    """Let the errors of the block start with the key of the configuration that they are about."""
    try:
        yield
    except SmaltiError as error:
        message = str(error)
        named = message.startswith((f"{key} ", f"{key}:", f"{key}."))
        raise SmaltiError(message if named else f"{key}: {message}") from error


def check_model_keys(model: dict[str, Any], known: set[str]) -> None:
    """Raise SmaltiError if the `model` section of a configuration names a field that a model does not have."""
    unknown = sorted(set(model) - known)
    if unknown:
        raise SmaltiError(f"unknown key model.{unknown[0]}; known here: {', '.join(sorted(known))}")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set the value that an override names, in place.

    Raises:
        SmaltiError: it is not key=value, or names a section inside a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SmaltiError(f"override must be key=value, not {shorten(override)}")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise SmaltiError(f"override {shorten(override)}: {section} is a value, not a section")
    try:
        values[last] = read_yaml(text)
    except SmaltiError as error:
        raise SmaltiError(f"override {shorten(override)}: the value {error}") from error


def shorten(value: Any) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def explain(kind: type[BaseModel], error: ValidationError) -> str:
    """Return one line that names the key of the first error and says what is wrong with it."""
    first = error.errors()[0]
    keys, section = _locate(kind, first["loc"])
    key, value = ".".join(keys), first.get("input")
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}; known here: {', '.join(section.model_fields)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "union_tag_invalid":
        discriminator = first["ctx"]["discriminator"].strip("'")
        return f"{key}.{discriminator}: must be {first['ctx']['expected_tags']}, not {shorten(value[discriminator])}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SmaltiError):
        return f"{key}: {cause}"
    if isinstance(cause, ValueError):
        return f"{key}: {cause}, not {shorten(value)}"
    return f"{key}: {first['msg'].lower()}, not {shorten(value)}"


def _locate(kind: type[BaseModel], location: tuple[Any, ...]) -> tuple[list[str], type[BaseModel]]:
    """Return the keys that lead to an error, and the innermost section that they lead into.

    pydantic's locations also hold the tag of a union's member, such as "scenes", which is no key of the file.
    """
    keys: list[str] = []
    members: dict[str, type[BaseModel]] = {}
    for part in location:
        if part in members:
            kind, members = members[part], {}
            continue
        keys.append(str(part))
        field = kind.model_fields.get(str(part))
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        sections = [
            option for option in options if isinstance(option, type) and issubclass(option, BaseModel)
        ]
        members = {}
        if len(sections) > 1:
            members = {section.model_fields["kind"].default: section for section in sections}
        elif sections:
            kind = sections[0]
    return keys, kind
