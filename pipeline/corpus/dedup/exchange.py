"""Files through which tasks exchange data: each holds one part for every task that will read it.

A task writes one file; the tasks of the next stage read their part of each file. So no task needs
more memory than its own parts, and the driver passes only names on.
"""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files.storage import filesystem, whole_file, write_whole
from pipeline.files.urls import is_url

SUFFIX = ".parts"


def write_parts(path: str, parts: Sequence[bytes | memoryview]) -> None:
    """Write a file of parts: the offsets of all parts, then the parts."""
    sizes = [8 * (len(parts) + 1), *(len(part) for part in parts)]
    offsets = np.fromiter(itertools.accumulate(sizes), np.int64, len(sizes))
    write_whole(path, b"".join([offsets.tobytes(), *parts]))


def read_parts(paths: Iterable[str], number: int) -> Iterator[bytes]:
    """Part `number` of each of these files."""
    for path in paths:
        system, inner = filesystem(path)
        # Not `cat_file`: from byte 0 on, fsspec's wrapper of pyarrow opens what cannot seek.
        with system.open(inner, "rb") as file:
            file.seek(8 * number)
            begin, end = np.frombuffer(file.read(16), np.int64)
            if begin < end:
                file.seek(int(begin))
                yield file.read(int(end - begin))


def write_rows(path: str, rows: NDArray[Any], bounds: NDArray[np.integer]) -> None:
    """Write rows of 64-bit numbers; part i is rows[bounds[i]:bounds[i + 1]]."""
    rows = np.ascontiguousarray(rows)
    write_parts(path, [rows[a:b].tobytes() for a, b in itertools.pairwise(bounds.tolist())])


def scatter_rows(path: str, rows: NDArray[np.int64], firsts: NDArray[np.int64]) -> None:
    """Write rows so that part i holds those whose first number is firsts[i] … firsts[i + 1] - 1."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    write_rows(path, rows, np.searchsorted(rows[:, 0], firsts))


def read_rows(paths: Iterable[str], number: int, columns: int = 2) -> Iterator[NDArray[np.int64]]:
    """[N, columns] the rows in part `number` of each of these files."""
    for part in read_parts(paths, number):
        yield np.frombuffer(part, np.int64).reshape(-1, columns)


def all_rows(paths: Iterable[str], number: int, columns: int = 2) -> NDArray[np.int64]:
    """[N, columns] the rows in part `number` of all these files, in the order of the files."""
    return np.concatenate([np.zeros((0, columns), np.int64), *read_rows(paths, number, columns)])


def concatenate(paths: Sequence[str], target: str) -> None:
    """Write the content of files, one after another, to a file; a local one appears when whole."""
    system, inner = filesystem(target)
    local = not is_url(target)
    with whole_file(Path(inner)) if local else system.open(inner, "wb") as file:
        for path in paths:
            source, there = filesystem(path)
            with source.open(there, "rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
