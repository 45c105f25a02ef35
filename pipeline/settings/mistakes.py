"""What is wrong with settings, in plain words instead of pydantic's."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

import annotated_types
from pydantic import BaseModel, ValidationError

from pipeline.settings.config import Config

Location = Sequence[str | int]


def explain(error: ValidationError) -> list[str]:
    """One line for each mistake: the key, what the value must be, the value, the nearest name."""
    return [line for item in error.errors() for line in _lines(item)]


def _lines(item: Any) -> list[str]:
    location, given = item["loc"], item["input"]
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        return [f"{key}: no such setting; {_other_names(location)}"]
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        # A check of a whole group names the keys itself.
        whole = not location or isinstance(given, dict | BaseModel)
        return message.splitlines() if whole else [f"{key}: {message} (got {given!r})"]
    annotation, limits = _field(location)
    return [
        f"{key}: must be {_expected(annotation, limits)} (got {given!r}){_hint(item, annotation)}"
    ]


def _other_names(location: Location) -> str:
    group, _ = _field(location[:-1])
    names = list(group.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {'.'.join(map(str, (*location[:-1], close[0])))}?"
    return f"its group has: {', '.join(names)}"


def _hint(item: Any, annotation: Any) -> str:
    given = item["input"]
    if isinstance(given, bool):
        return "; YAML reads yes, no, on and off as true or false: quote them where text is meant"
    if annotation is str and isinstance(given, int | float):
        return f"; put it in quotes: '{given}'"
    if typing.get_origin(annotation) is typing.Literal:
        names = [str(name) for name in typing.get_args(annotation)]
        close = difflib.get_close_matches(str(given), names, n=1)
        return f"; did you mean {close[0]}?" if close else ""
    return ""


def _field(location: Location) -> tuple[Any, list[Any]]:
    """Type and limits of what stands at a location of the settings; a group is its class."""
    annotation: Any = Config
    limits: list[Any] = []
    for part in location:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is dict:
            annotation = arguments[1]
        elif origin is tuple:
            annotation = arguments[0 if Ellipsis in arguments else int(part)]
        else:
            field = annotation.model_fields[str(part)]
            annotation, limits = field.annotation, list(field.metadata)
        annotation, own = _unwrapped(annotation)
        limits = own or limits
    return annotation, limits


def _unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    """The type inside `Annotated[…]` and `… | None`, and the limits that were noted with it."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = (kind for kind in typing.get_args(annotation) if kind is not type(None))
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *limits = typing.get_args(annotation)
        flat = [inner for limit in limits for inner in getattr(limit, "metadata", [limit])]
        return annotation, flat
    return annotation, []


def _expected(annotation: Any, limits: list[Any]) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        *others, last = [str(name) or "empty" for name in typing.get_args(annotation)]
        return f"{', '.join(others)} or {last}"
    if origin is tuple:
        return "a list"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a group of settings"
    name = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return name[annotation] + _range(limits)


def _range(limits: list[Any]) -> str:
    words = []
    for limit in limits:
        match limit:
            case annotated_types.Ge():
                words.append(f" of at least {limit.ge:.10g}")
            case annotated_types.Gt():
                words.append(f" above {limit.gt:.10g}")
            case annotated_types.Le():
                words.append(f" at most {limit.le:.10g}")
            case annotated_types.Lt():
                words.append(f" below {limit.lt:.10g}")
    return " and".join(words)
