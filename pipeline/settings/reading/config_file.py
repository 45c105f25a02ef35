"""Settings from YAML files and `a.b=c` arguments; all mistakes in one `ConfigError`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError, raise_all
from pipeline.settings.base import Settings, expanded
from pipeline.settings.config import Config
from pipeline.settings.reading import yaml_text
from pipeline.settings.reading.fields import is_group, is_text
from pipeline.settings.reading.mistakes import explain


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=c` overrides and check everything.

    The value of an override is text as it is for a setting that is text, and YAML for others. One
    that is a group of settings adds to the group; an empty one makes all its settings the default.
    A file with `base: OTHER.yaml`, a path relative to the file, changes the settings of the other
    file. It adds to groups; an empty group replaces the other file's.

    Raises:
        ConfigError: one message that lists every mistake with its key, what is allowed, and the
            nearest valid name.
    """
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    read = _read_files(Path(path)) if path else {}
    for inside in reversed(read.values()):
        values = _merged(values, inside)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            mistakes.append(
                f"{override}: a setting has the form a.b=c; a file of them is given with --config"
            )
            continue
        try:
            _put(values, key.split("."), _value(key.split("."), text))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            mistakes.append(f"{override}: {error}")
    beside = " and the arguments" if overrides else ""
    return _validated(values, mistakes, f" in {path}{beside}" if path else "")


def with_changes(config: Config, changes: Mapping[str, Any], where: str) -> Config:
    """The settings with others in their place, checked like those of a file.

    Args:
        changes: values by dotted name; groups of settings as in the overrides of `load_config`.
        where: the place of a mistake, for messages, such as ` in FILE`.

    Raises:
        ConfigError: as `load_config`.
    """
    values, mistakes = config.model_dump(), []
    for key, value in changes.items():
        try:
            _put(values, key.split("."), value)
        except TypeError as error:
            mistakes.append(f"{key}: {error}")
    return _validated(values, mistakes, where)


def _validated(values: dict[str, Any], mistakes: list[str], where: str) -> Config:
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        mistakes.extend(explain(error))
    raise_all(ConfigError, mistakes, f"wrong setting(s){where}")
    return config


def dump_yaml(config: Settings, names: Sequence[str] = ()) -> str:
    """The resolved settings as YAML, in the order of their definition.

    `names` are groups and single settings (`run`, `corpus.vocab`) to show; empty: all.
    """
    chosen: dict[str, Any] = {}
    for name in names:
        group = chosen
        *path, last = name.split(".")
        for part in path:
            group = group.setdefault(part, {})
        group[last] = True
    return yaml_text.dump(config.model_dump(mode="json", include=chosen or None))


def files_of(path: str | Path) -> list[Path]:
    """A file of settings and its bases, which `load_config` reads with it.

    Raises:
        ConfigError: as `load_config`.
    """
    return list(_read_files(Path(path)))


def _read_files(path: Path) -> dict[Path, dict[str, Any]]:
    """The settings in a file, then those in its base, and so on."""
    found: dict[Path, dict[str, Any]] = {}
    while True:
        values = _read_yaml(path)
        base = values.pop("base", None)
        found[path] = values
        if base is None:
            return found
        try:
            other = path.parent / expanded(str(base))
        except ValueError as error:
            raise ConfigError(f"{path}: base: {base} {error}") from None
        if other.resolve() in [each.resolve() for each in found]:
            raise ConfigError(f"{path}: base: {base} leads back to this file")
        path = other


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml_text.load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: this file cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: this file is not in UTF-8, save it so: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold groups of settings, but holds {_kind(values)}")
    return values


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        inside = result.get(key)
        both = isinstance(inside, dict) and isinstance(value, dict) and value
        result[key] = _merged(inside, value) if both else value  # type: ignore[arg-type]
    return result


def _value(keys: Sequence[str], text: str) -> Any:
    """The value of an argument: text as it is where the setting is text, otherwise YAML.

    Text in quotes is YAML too. ` #` begins no comment, as it may be part of a path.
    """
    text = text.strip()
    if is_text(tuple(keys)) and not text.startswith(("'", '"')) and text not in ("null", "~"):
        return text
    value = yaml_text.load(text)
    cut = isinstance(value, str) and text.startswith(f"{value} ")
    return text if cut else value


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"the value {value!r}"


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    if isinstance(value, dict) and value and is_group(keys):
        for name, inside in value.items():
            _put(values, [*keys, name], inside)
        return
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise TypeError(f"{key} is a value, not a group")
    values[keys[-1]] = value
