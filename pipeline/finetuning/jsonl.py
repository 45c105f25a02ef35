"""JSONL files, plain or compressed: their lines, and objects with the keys that a task needs."""

from __future__ import annotations

import json
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
import zstandard

from pipeline.errors import TaskError

Example = dict[str, Any]
SURROGATE = re.compile("[\ud800-\udfff]")


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """(place, line) for each line, blank ones included; the place is for messages.

    A byte order mark at the beginning of a line is left out: files with one are also concatenated.

    Raises TaskError when the file is missing, damaged or not UTF-8.
    """
    number = 0
    try:
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}, line {number}", bare(line)
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}, after line {number}: {error}; expected UTF-8 text") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise TaskError(f"{path}, after line {number}: {error}") from error


def bare(line: str) -> str:
    """A line without byte order marks at its beginning and without its line end."""
    return line.lstrip("\ufeff").rstrip("\r\n")


def parse_object(line: str, place: str) -> Example:
    """A line as a JSON object. Raises TaskError when it is something else."""
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{place}: not JSON: {error}") from None
    if not isinstance(example, dict):
        raise TaskError(f"{place}: expected a JSON object, found {line!r:.60}")
    return example


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
        if isinstance(text, str) and SURROGATE.search(text):
            raise TaskError(f"{place}, key {key}: half of a surrogate pair is not a character")
