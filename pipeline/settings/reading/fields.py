"""The type of a setting, by its place among the groups."""

import types
import typing
from collections.abc import Sequence
from typing import Any

from pipeline.settings.base import Settings
from pipeline.settings.config import Config

Location = Sequence[str | int]
"""Names of groups and of a setting, with the names of the kinds of unions, as pydantic gives it."""


def is_text(location: Location) -> bool:
    """Whether a setting can be nothing but text; false for what is no setting."""
    return _type_of(location) is str


def is_group(location: Location) -> bool:
    """Whether a location names a group of settings, and no single one."""
    found = _type_of(location)
    return isinstance(found, type) and issubclass(found, Settings)


def _type_of(location: Location) -> Any:
    try:
        return field_of(location)[0]
    except (KeyError, AttributeError, StopIteration, ValueError):
        return None


def field_of(location: Location) -> tuple[Any, list[Any]]:
    """Type and limits of what stands at a location of the settings; a group is its class."""
    annotation: Any = Config
    limits: list[Any] = []
    for part in location:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation is Any:
            return Any, []
        if len(kinds := kinds_of(annotation)) > 1:
            # pydantic's names of kinds hold the names of the types.
            annotation = next(kind for kind in kinds if type_name(kind) in str(part))
        elif origin is dict:
            annotation = arguments[1]
        elif origin is tuple:
            annotation = arguments[0 if Ellipsis in arguments else int(part)]
        else:
            field = annotation.model_fields[str(part)]
            annotation, limits = field.annotation, list(field.metadata)
        annotation, own = unwrapped(annotation)
        limits = own or limits
    return annotation, limits


def unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    """The type inside `Annotated[…]` and `… | None`, and the limits that were noted with it."""
    if len(kinds := kinds_of(annotation)) > 1:
        return annotation, []
    annotation = kinds[0]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *limits = typing.get_args(annotation)
        flat = [inner for limit in limits for inner in getattr(limit, "metadata", [limit])]
        return annotation, flat
    return annotation, []


def kinds_of(annotation: Any) -> list[Any]:
    """The kinds of a union but for None; the type itself where it is none."""
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return [annotation]
    return [kind for kind in typing.get_args(annotation) if kind is not type(None)]


def type_name(kind: Any) -> str:
    kind = unwrapped(kind)[0]
    return (typing.get_origin(kind) or kind).__name__.lower()
