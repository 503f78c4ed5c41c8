"""From a recipe, a YAML file and `--set` overrides to one configuration. The models themselves are in `config.py`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError
from leader_platform.recipes import recipe

Model = TypeVar("Model", bound=BaseModel)


def load_config(base: LeaderConfig, file: str | Path | None = None, overrides: Sequence[str] = ()) -> LeaderConfig:
    """`base`, then the values of a YAML file (a path or URI), then `key.path=value` overrides, each later one winning.

    A file may hold `recipe: NAME` alone or with changes to it. Values of overrides are read as YAML, so `null`, `3` and
    `[a, b]` mean what they do in the file. Raises `UserError` naming the key, the value and what was expected.
    """
    values = base.model_dump(mode="json")
    if file is not None:
        given = _read_yaml(str(file))
        values = _merge(_recipe_of(given, values), given)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"--set {override!r} is not of the form key.path=value, such as student.width=128.")
        if key.strip() == "recipe":
            raise UserError(f"A recipe is chosen by --recipe {text}, not by --set.")
        nested: Any = _parse_yaml(text, f"--set {override}")
        for name in reversed(key.strip().split(".")):
            nested = {name: nested}
        values = _merge(values, nested)
    return _validated(values)


def is_set(key: str, file: str | Path | None = None, overrides: Sequence[str] = ()) -> bool:
    """Whether the user's file or overrides give the setting `key`, such as `serve.port`, a value of their own."""
    values: Any = {} if file is None else _read_yaml(str(file))
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values is not None or any(override.partition("=")[0].strip() == key for override in overrides)


def with_values(config: LeaderConfig, changes: dict[str, Any]) -> LeaderConfig:
    """The configuration with nested `changes`, checked as those of a file are."""
    return _validated(_merge(config.model_dump(mode="json"), changes))


def read_model(model: type[Model], file: Path) -> Model:
    """A small configuration of another kind from a YAML file. `UserError` as for `load_config`."""
    try:
        return model.model_validate(_read_yaml(str(file)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{file}: {where} is not valid ({first['msg']}); it takes {', '.join(model.model_fields)}."
        ) from None


def _validated(values: dict[str, Any]) -> LeaderConfig:
    try:
        return LeaderConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"There is no setting {where!r}; `leader config` lists them all.") from None
        told = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise UserError(f"Setting {where}{told} is not valid: {first['msg']}.") from None


def _recipe_of(file_values: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    name = file_values.get("recipe")
    return values if name in (None, "default") else recipe(str(name)).model_dump(mode="json")


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = storage.read_bytes(path).decode()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise UserError(f"The configuration file {path} cannot be read ({reason}); check the path.") from None
    except UnicodeDecodeError:
        raise UserError(f"The configuration file {path} is not UTF-8 text; check the path.") from None
    values = _parse_yaml(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"The configuration file {path} must hold `section: {{key: value}}`, not {type(values).__name__}."
        )
    return values


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from None


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
