"""Records in a file, one JSON line each, that stay readable whatever ends the writer."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from pipeline.files.disk import Disk
from pipeline.files.named_errors import named

logger = logging.getLogger(__name__)
ANY = RootModel[dict[str, Any]]
BLOCK_BYTES = 1 << 16


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record in one write, so that a reader never takes half of a line for a whole one."""
    extend(path, [record])


def extend(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records in one write."""
    lines = "".join(json.dumps(dict(record)) + "\n" for record in records)
    with named(path), path.open("ab+") as file:
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
            number, why = len(self._kept), error.strerror or error
            logger.warning("%s: %d records not written yet: %s", self._path, number, why)
        else:
            self._kept.clear()


class Follower:
    """Reads what is added to a file of records, each record once."""

    def __init__(self, path: Path, shape: type[BaseModel] = ANY) -> None:
        self._path, self._shape = path, shape
        self._file, self._read, self._number = 0, 0, 0
        """The inode of the file, and how many of its bytes and records were read."""

    def new(self) -> Iterator[dict[str, Any]]:
        """The records since the last one that was taken, oldest first.

        A resumed run puts another file in the place of its record, without the last records of
        before: then those are new that stand behind as many records as were read before.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            status, before = os.fstat(file.fileno()), 0
            if status.st_ino != self._file or status.st_size < self._read:
                before, self._number = self._number, 0
                self._file, self._read = status.st_ino, 0
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # more of it may come
                    return
                self._read += len(line)
                record = _record(line, self._shape)
                if record is not None:
                    self._number += 1
                    if self._number > before:
                        yield record


def read(path: Path, shape: type[BaseModel] = ANY) -> list[dict[str, Any]]:
    """All records, oldest first, except lines that were cut, or that have another shape."""
    return read_checked(path, shape)[0]


def read_checked(
    path: Path, shape: type[BaseModel] = ANY
) -> tuple[list[dict[str, Any]], list[int]]:
    """All records, oldest first, and the numbers (from 1) of the lines that are none."""
    damaged: list[int] = []
    return list(each(path, shape, damaged)), damaged


def each(
    path: Path, shape: type[BaseModel] = ANY, damaged: list[int] | None = None
) -> Iterator[dict[str, Any]]:
    """The records one by one, oldest first; those of a long run are more than memory should hold.

    Args:
        shape: keys and types of every record.
        damaged: takes the numbers (from 1) of the lines that are no records.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            record = _record(line, shape)
            if record is not None:
                yield record
            elif damaged is not None:
                damaged.append(number)


def newest_first(path: Path, shape: type[BaseModel] = ANY) -> Iterator[dict[str, Any]]:
    """The records one by one, newest first; of the file only the end that is needed is read."""
    if not path.exists():
        return
    with path.open("rb") as file:
        begin, rest = file.seek(0, os.SEEK_END), b""
        while begin:
            size = min(begin, BLOCK_BYTES)
            begin = file.seek(begin - size)
            first, *lines = (file.read(size) + rest).split(b"\n")
            for line in [*reversed(lines), *([] if begin else [first])]:
                if line and (record := _record(line, shape)) is not None:
                    yield record
            rest = first


def _record(line: bytes, shape: type[BaseModel]) -> dict[str, Any] | None:
    """The record of a line; None for a line that was cut, or that has another shape."""
    try:
        record = json.loads(line.decode("utf-8", errors="replace"))
        shape.model_validate(record, strict=True)
    except ValueError:  # pydantic's errors are some too
        return None
    return record


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1)
