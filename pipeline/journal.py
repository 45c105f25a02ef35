"""Records in a file, one JSON line each, that stay readable whatever ends the writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record in one write, so that a reader never takes half of a line for a whole one."""
    line = json.dumps(dict(record)) + "\n"
    with path.open("ab+") as file:
        if file.tell() and _last_byte(path) != b"\n":
            line = "\n" + line  # a crash or a full disk has cut the line before it
        file.write(line.encode())


def read(path: Path) -> list[dict[str, Any]]:
    """All records, oldest first, except lines that were cut."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text("utf-8").split("\n"):
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1)
