"""Settings from YAML and `a.b=c` arguments; all mistakes in one `ConfigError`."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError
from pipeline.settings.config import Config, Settings


def load_config(path: str | Path | None, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=c` overrides (values are YAML) and check everything.

    Raises:
        ConfigError: one message that lists every mistake with its key, what is allowed, and the
            nearest valid name.
    """
    mistakes: list[str] = []
    values: dict[str, Any] = _read_yaml(Path(path)) if path else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            mistakes.append(f"{override}: an override has the form a.b=c")
            continue
        try:
            _put(values, key.split("."), yaml.safe_load(text))
        except (yaml.YAMLError, TypeError) as error:
            mistakes.append(f"{override}: {error}")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        mistakes.extend(_explain(item) for item in error.errors())
    if mistakes:
        where = f" in {path}" if path else ""
        raise ConfigError(f"{len(mistakes)} wrong setting(s){where}:\n  " + "\n  ".join(mistakes))
    return config


def dump_yaml(config: Settings) -> str:
    """The resolved settings as YAML, in the order of their definition."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected groups of settings, found {type(values).__name__}")
    return values


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise TypeError(f"{key} is a value, not a group")
    values[keys[-1]] = value


def _explain(error: Any) -> str:
    """One line for a pydantic error: key, what is wrong, the nearest valid names."""
    location, key = error["loc"], ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = _names_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join(map(str, (*location[:-1], close[0])))}?" if close else ""
        return f"{key}: no such setting; {hint or 'there are: ' + ', '.join(names)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        expected = error["ctx"]["expected"].replace(" or ", ", ").split(",")
        allowed = [word.strip(" '") for word in expected]
        close = difflib.get_close_matches(str(error["input"]), allowed, n=1)
        message += f"; did you mean {close[0]}?" if close else ""
    return f"{key}: {message} (got {error['input']!r})" if key else message


def _names_at(location: tuple[str | int, ...]) -> list[str]:
    """Names of the settings in the group at a location."""
    group: type[BaseModel] = Config
    steps = iter(location)
    for part in steps:
        annotation = group.model_fields[str(part)].annotation
        if typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
            next(steps)
        group = typing.cast(type[BaseModel], annotation)
    return list(group.model_fields)
