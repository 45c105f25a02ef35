"""Values in the records of task data: lists in cells, numbers, labels in order."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import TaskError

PADDLE = "\x02"
"""What PaddleNLP's tables, as that of MSRA-NER, have between words."""

SHOWN = 20
"""Labels that a message names."""


def in_order(labels: Iterable[str]) -> list[str]:
    """Different labels, sorted: by their value if all are whole numbers, otherwise as texts."""
    different = sorted(set(labels))
    if all(re.fullmatch("-?[0-9]+", label) for label in different):
        different.sort(key=int)
    return different


def shown(labels: Sequence[str]) -> str:
    """Labels for a message, of which there may be thousands, and which may be whole texts."""
    more = f", and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
    return ", ".join(f"{label:.40}" for label in labels[:SHOWN]) + more


def listed(cell: str, key: str, words: bool) -> list[Any]:
    """A list in a cell of a table: JSON or, of `words`, what stands between white space.

    Where PaddleNLP's separator stands in the cell, white space may be a word. Raises TaskError,
    without a place, for what is neither.
    """
    if words and PADDLE in cell:
        return cell.split(PADDLE)
    if words and not cell.lstrip().startswith("["):
        return cell.split()
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        form = 'a list in JSON, as ["去 北京", "去 上海"]' + ", or words between spaces" * words
        raise TaskError(f"key {key}: expected {form}; found {cell!r:.60}")
    return found


def whole(value: Any) -> Any:
    """A float that is whole as an int: pandas writes all numbers of a column like a missing one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_visible(character: str) -> bool:
    """Whether a character is neither white space nor invisible."""
    unseen = unicodedata.category(character)[0] in "CZ" or "\ufe00" <= character <= "\ufe0f"
    return not (unseen or character.isspace())
