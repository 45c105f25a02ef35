"""Records in a file, one JSON line each, that stay readable whatever ends the writer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record in one write, so that a reader never takes half of a line for a whole one."""
    extend(path, [record])


def extend(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records in one write."""
    lines = "".join(json.dumps(dict(record)) + "\n" for record in records)
    with path.open("ab+") as file:
        if file.tell() and _last_byte(path) != b"\n":
            lines = "\n" + lines  # a crash or a full disk has cut the line before it
        file.write(lines.encode())


def read(path: Path) -> list[dict[str, Any]]:
    """All records, oldest first, except lines that were cut."""
    return read_checked(path)[0]


def read_checked(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """All records, oldest first, and the numbers (from 1) of the lines that are none."""
    if not path.exists():
        return [], []
    records, damaged = [], []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").split("\n"), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif line:
            damaged.append(number)
    return records, damaged


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1)
