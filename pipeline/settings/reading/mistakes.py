"""What is wrong with settings, in plain words instead of pydantic's."""

import difflib
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import annotated_types
from pydantic import BaseModel, ValidationError

from pipeline.settings.config import Config
from pipeline.settings.reading.fields import Location, field_of, kinds_of, unwrapped

KEY = "[key]"
"""Last part of the location of a name in a dictionary that is wrong."""


def explain(error: ValidationError) -> list[str]:
    """One line for each mistake: the key, what the value must be, the value, the nearest name."""
    found: dict[str, list[Any]] = {}
    for item in error.errors():
        found.setdefault(str(_outside_union(item["loc"])), []).append(item)
    return [line for items in found.values() for line in _lines(_most_precise(items))]


def _most_precise(items: Sequence[Any]) -> Any:
    """Of the errors of one value, the one to show.

    pydantic gives one error for each member of a union. Return the one with the longest location:
    the member that the value fits best.
    """
    deepest = max(items, key=lambda item: len(item["loc"]))
    place = _outside_union(deepest["loc"])
    if len(deepest["loc"]) > len(place) + 1 or len(items) == 1:
        return deepest
    return {**deepest, "loc": place}  # the value fits no member


def _outside_union(location: Location) -> Location:
    """A location up to its first union of several kinds."""
    for end in range(1, len(location)):
        if location[end] == KEY or len(kinds_of(field_of(location[:end])[0])) > 1:
            return location[:end]
    return location


def _lines(item: Any) -> list[str]:
    location, given = item["loc"], item["input"]
    key = ".".join(_names(location))
    if location[-1:] == (KEY,):
        what = "must be text: put it in quotes"
        if item["type"] == "value_error":
            what = str(item["ctx"]["error"])
        return [f"{'.'.join(_names(location[:-2]))}: the name {given!r} {what}"]
    if item["type"] in ("extra_forbidden", "invalid_key"):  # the second: a number, `yes`, null
        return [f"{key}: no such setting; {_other_names(location)}"]
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        # A check of a whole group names the keys itself.
        whole = not location or isinstance(given, dict | BaseModel)
        return message.splitlines() if whole else [f"{key}: {message} (got {given!r})"]
    annotation, limits = field_of(location)
    return [
        f"{key}: must be {_expected(annotation, limits)} (got {given!r}){_hint(item, annotation)}"
    ]


def _other_names(location: Location) -> str:
    group, _ = field_of(location[:-1])
    names = list(group.model_fields)
    outer, dot, inner = str(location[-1]).partition(".")
    if dot and outer in names:  # as arguments are written, and variants of an ablation
        return f"write `{outer}: {{{inner}: …}}`"
    # As `skip_bad=true` and `train.lr=1`: the group was left out, or is another one.
    elsewhere = list(_paths(str(location[-1]), Config, ()))
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    near = [".".join(map(str, (*location[:-1], name))) for name in close]
    if likely := near + elsewhere if location[1:] else elsewhere or near:
        return f"did you mean {' or '.join(likely)}?"
    return f"its group has: {', '.join(names)}"


def _paths(name: str, group: type[BaseModel], above: tuple[str, ...]) -> Iterator[str]:
    """Where among the groups a setting, or a group, of this name is."""
    for field, info in group.model_fields.items():
        inner = unwrapped(info.annotation)[0]
        if field == name:
            yield ".".join((*above, field))
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths(name, inner, (*above, field))


def _hint(item: Any, annotation: Any) -> str:
    given = item["input"]
    if isinstance(given, bool):
        return "; YAML reads yes, no, on and off as true or false: quote them where text is meant"
    if annotation is str and isinstance(given, int | float):
        return "; put it in quotes"  # how it was written is not known: 007 is 7, 1.10 is 1.1
    if typing.get_origin(annotation) is typing.Literal:
        names = [str(name) for name in typing.get_args(annotation)]
        close = difflib.get_close_matches(str(given), names, n=1)
        return f"; did you mean {close[0]}?" if close else ""
    return ""


def _names(location: Location) -> list[str]:
    """The parts of a location that a user has written: none that names a kind of a union."""
    kinds = [kinds_of(field_of(location[:end])[0]) for end in range(len(location))]
    return [str(part) for part, above in zip(location, kinds, strict=True) if len(above) < 2]


def _expected(annotation: Any, limits: list[Any]) -> str:
    origin = typing.get_origin(annotation)
    if len(kinds := kinds_of(annotation)) > 1:
        return " or ".join(_expected(*unwrapped(kind)) for kind in kinds)
    if origin is typing.Literal:
        *others, last = [str(name) or "empty" for name in typing.get_args(annotation)]
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple:
        arguments = typing.get_args(annotation)
        return "a list" if Ellipsis in arguments else f"a list of {len(arguments)} values"
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
