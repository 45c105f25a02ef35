"""JSON whose objects stand in an array, or go on over several lines, as one object a line."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

DECODER = json.JSONDecoder(strict=False)
"""Reads the JSON of inputs. Many writers leave tabs and control characters in strings as they are,
which the standard forbids; cleaning removes them."""
BEGINS = re.compile(r'\[\s*\{|\{\s*[\r\n]\s*"')
"""An array of objects, or an object that goes on in the next line."""
BETWEEN = re.compile(r"[\s,\0]*")
LINE_BREAK = re.compile(r"[\r\n]")
CUT_OFF = 16
"""An error in so many last characters of a sample may come from its end: no mark, name or escape of
JSON is longer."""
MARK = re.compile(rb'["{}\[\],\r\n]')
IN_STRING = re.compile(rb'(?:[^"\\\r\n]++|\\[^\r\n])*+')


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """The value of a key; of `a.b`, where there is no such key, that of `b` in the object `a`.

    None where there is none.
    """
    if name in row:
        return row[name]
    outer, dot, inner = name.partition(".")
    value = row.get(outer)
    return value_at(value, inner) if dot and isinstance(value, dict) else None


def is_array_or_pretty(text: str, whole: bool, named: bool) -> bool:
    """Whether a text is JSON that does not stand one value a line.

    Args:
        text: the text, or its beginning.
        whole: it is not cut off.
        named: the file's name says that it is JSON. Else all of the text must be valid.
    """
    if not BEGINS.match(text):
        return text.startswith("{") and not _is_one_line(text) and _is_json(text, whole)
    line, _, rest = text.partition("\n")
    if rest.strip() and _is_json(line, whole=True):
        return False  # lines of arrays
    return named or _is_json(text, whole)


def _is_one_line(text: str) -> bool:
    """Whether the first object of a text ends in its line."""
    try:
        _, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        end = len(text.rstrip())
    return LINE_BREAK.search(text, 0, end) is None


def _is_json(text: str, whole: bool) -> bool:
    """Whether a text is a sequence of arrays and objects, as far as it goes."""
    at = 0
    while at < len(text):
        try:
            value, at = DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.pos > len(text) - CUT_OFF or error.msg.startswith("Unterminated string")
            return cut and not whole
        except (ValueError, RecursionError):  # a number of too many digits, too many brackets
            return False
        if not isinstance(value, dict | list):
            return False
        at = next_value(text, at)
    return True


def next_value(text: str, at: int) -> int:
    """Where the white space, commas and zero bytes that stand between values end."""
    between = BETWEEN.match(text, at)
    return between.end() if between else at


def as_lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """JSON in UTF-8 with each object outside of other objects on a line of its own.

    Brackets, commas and line breaks between the objects and in them are replaced, each by one byte,
    so the places of all objects stay. A string that its line does not close ends with the line.
    """
    depth, inside, held = 0, False, b""
    for data in stream:
        text = bytearray(held + data)
        held, at = b"", 0
        while at < len(text):
            found = (IN_STRING if inside else MARK).search(text, at)
            if found is None:
                break
            at = found.end()
            if inside:
                if at == len(text) - 1 and text[at] == ord("\\"):
                    held = bytes([text.pop()])  # the next bytes tell what it escapes
                elif at < len(text):
                    inside = False
                    at += text[at] == ord('"')
                continue
            mark = found[0]
            if mark == b'"':
                inside = True
            elif mark == b"{":
                depth += 1
            elif mark == b"}":
                depth = max(0, depth - 1)
            elif mark in b"\r\n":
                text[at - 1] = ord(" ") if depth else text[at - 1]
            elif not depth:
                text[at - 1] = ord(" ") if mark == b"[" else ord("\n")
        yield bytes(text)
    yield held
