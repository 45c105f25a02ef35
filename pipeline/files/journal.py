"""Records in a file, one JSON line each, that stay readable whatever ends the writer."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from pipeline.files.disk import Disk

logger = logging.getLogger(__name__)
ANY = RootModel[dict[str, Any]]


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


class Appender:
    """Adds records to a file; those that the storage does not take are kept for the next call."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk
        self._kept: list[Mapping[str, Any]] = []

    def add(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        """Write what was kept, and these records."""
        self._kept.extend(records)
        if not self._kept:
            return
        try:
            self._disk.call(extend, self._path, self._kept)
        except OSError as error:
            logger.warning("%s: %d records not written yet: %s", self._path, len(self._kept), error)
        else:
            self._kept.clear()


class Follower:
    """Reads a file of records often, and again only after it has changed."""

    def __init__(self, path: Path, shape: type[BaseModel] = ANY) -> None:
        self._path, self._shape = path, shape
        self._stamp: tuple[int, int, int] | None = None
        self._records: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """As the function `read`."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return []
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if stamp != self._stamp:
            self._records, self._stamp = read(self._path, self._shape), stamp
        return self._records


def read(path: Path, shape: type[BaseModel] = ANY) -> list[dict[str, Any]]:
    """All records, oldest first, except lines that were cut, or that have another shape."""
    return read_checked(path, shape)[0]


def read_checked(
    path: Path, shape: type[BaseModel] = ANY
) -> tuple[list[dict[str, Any]], list[int]]:
    """All records, oldest first, and the numbers (from 1) of the lines that are none.

    Args:
        shape: keys and types of every record.
    """
    if not path.exists():
        return [], []
    records, damaged = [], []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").split("\n"), 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            shape.model_validate(record, strict=True)
        except ValueError:  # pydantic's errors are some too
            damaged.append(number)
        else:
            records.append(record)
    return records, damaged


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1)
