"""Lines of JSON, read and written, and objects with the keys that a task needs."""

import json
import re
from collections import Counter
from typing import Any

from pipeline.corpus.decoding.transcoding import BAD
from pipeline.errors import TaskError

Example = dict[str, Any]
SURROGATE = re.compile("[\ud800-\udfff]")
JSON = re.compile(r"""\s*(?:\[\s*)?\{\s*["'}]""")
"""The beginning of an object, or of a list of them; a text may begin with `{` or `[` too."""


def bare(line: str) -> str:
    """A line without byte order marks at its beginning and without its line end.

    Zero bytes, with which a crash or a copying program pads a file, are no part of it.
    """
    return line.strip("\0").lstrip("\ufeff").rstrip("\r\n")


def parse_object(line: str, place: str) -> Example:
    """A line as a JSON object. Raises TaskError when it is something else."""
    try:
        example = UNIQUE.decode(line)
    except TaskError as error:
        raise TaskError(f"{place}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{place}: not JSON: {error}") from None
    if not isinstance(example, dict):
        raise TaskError(f"{place}: expected a JSON object, found {line!r:.60}")
    return example


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises TaskError, without a place, when a key occurs twice in it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, times in counts.items() if times > 1)
        raise TaskError(f"key {twice}: it occurs twice in one object")
    return found


UNIQUE = json.JSONDecoder(object_pairs_hook=unique, strict=False)
"""Reads JSON whose keys are unique. Strings may hold tabs and control characters, which many
writers leave as they are."""


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON and a line end, as UTF-8 can hold it: half of a surrogate pair is escaped.

    Numbers that JSON does not have (NaN, infinity) become null.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
        text = json.dumps(finite, ensure_ascii=False, indent=indent)
    return SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def without(record: Example, *keys: str) -> Example:
    """A record without these keys, whether it has them or not."""
    return {key: value for key, value in record.items() if key not in keys}


def require(
    example: Example, key: str, kind: type | tuple[type, ...], place: str, needed_by: str
) -> None:
    """Raise TaskError unless the key is there and its value has (one of) the types."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = " or ".join(each.__name__ for each in kinds)
    if key not in example:
        keys = ", ".join(map(str, example)) or "nothing"
        raise TaskError(f"{place}: no key {key!r} ({needed_by} needs it: {names}); there is {keys}")
    value = example[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TaskError(f"{place}, key {key}: expected {names}, found {value!r:.60}")
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and BAD in text:
            raise TaskError(
                f"{place}, key {key}: bytes that are no text; expected UTF-8, UTF-16, GB18030 or "
                "Big5"
            )
        if isinstance(text, str) and SURROGATE.search(text):
            raise TaskError(f"{place}, key {key}: half of a surrogate pair is not a character")
