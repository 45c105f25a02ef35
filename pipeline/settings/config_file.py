"""Settings from a YAML file and `a.b=c` arguments; all mistakes in one `ConfigError`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.settings.base import Settings
from pipeline.settings.config import Config
from pipeline.settings.mistakes import explain


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
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
        mistakes.extend(explain(error))
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
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this file cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold groups of settings, but holds {_kind(values)}")
    return values


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"the value {value!r}"


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise TypeError(f"{key} is a value, not a group")
    values[keys[-1]] = value
