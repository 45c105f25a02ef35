"""How the documents of a corpus are divided among tasks: into groups of chunks, and by hash.

A group is a number of consecutive chunks whose signatures one task can hold. Hashes of each kind
are divided into parts by value. Documents and compared lines are numbered in the order of the
inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import Integers, offsets_of
from pipeline.corpus.dedup.exchange import SUFFIX, write_rows
from pipeline.settings.corpus import DedupSettings

DOCUMENT_BYTES = 600
"""Memory of a task for each document of its group, beside the bands: indices and places."""
BAND_BYTES = 48
"""Memory of a task for each band of a document: the hash, its place, and the row twice."""
LINE_BYTES = 160
"""Memory of a task for each line of its group: hash, size, document, indices, and the row twice."""
ROW_BYTES = 24
"""Bytes of the largest rows that tasks exchange: three numbers."""
COPIES = 5
"""Arrays of the size of its data that a task holds while it sorts them."""
RunTasks = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of the argument tuples, perhaps at once on many machines."""


class Group(NamedTuple):
    """Consecutive chunks."""

    number: int
    chunks: tuple[str, ...]
    documents: Integers
    """[C + 1] number of the first document of each chunk, and of that after the last one."""
    lines: Integers
    """[C + 1] the same for compared lines."""


class Partition(NamedTuple):
    """How documents and lines are divided among groups, and hashes among parts."""

    folder: str
    settings: DedupSettings
    documents: Integers
    """[G + 1] number of the first document of each of the G groups, and of all documents."""
    lines: Integers
    """[G + 1] the same for compared lines."""
    parts: int
    """Parts of each kind of hash."""
    heldout: int
    """How many of the first documents are held out."""

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.documents) - 1

    def path(self, stage: str, *numbers: int) -> str:
        """The file that a task of a stage writes for others."""
        return f"{self.folder}/{'-'.join([stage, *map(str, numbers)])}{SUFFIX}"

    def paths(self, stage: str, count: int, *turn: int) -> list[str]:
        """The files of all tasks of a stage."""
        return [self.path(stage, *turn, number) for number in range(count)]


def make_groups(sizes: Mapping[str, tuple[int, int]], settings: DedupSettings) -> list[Group]:
    """Consecutive chunks whose signatures one task can hold; at least one chunk in each group."""
    counts = np.array(list(sizes.values()), np.int64).reshape(len(sizes), 2)
    documents, lines = offsets_of(counts[:, 0]), offsets_of(counts[:, 1])
    bands = settings.bands if settings.near_documents else 0
    needs = offsets_of(
        counts[:, 0] * (BAND_BYTES * bands + DOCUMENT_BYTES) + counts[:, 1] * LINE_BYTES
    )
    which = needs[:-1] // settings.memory
    firsts = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist()]
    names = list(sizes)
    return [
        Group(
            number, tuple(names[first:last]), documents[first : last + 1], lines[first : last + 1]
        )
        for number, (first, last) in enumerate(zip(firsts, [*firsts[1:], len(sizes)], strict=True))
    ]


def make_partition(
    folder: str, groups: Sequence[Group], settings: DedupSettings, heldout: int
) -> Partition:
    """The partition into these groups, and into as many parts as the memory of a task asks for."""
    documents = np.array([*(g.documents[0] for g in groups), groups[-1].documents[-1]])
    lines = np.array([*(g.lines[0] for g in groups), groups[-1].lines[-1]])
    parts = 1 + int(ROW_BYTES * COPIES * max(documents[-1], lines[-1]) // settings.memory)
    return Partition(folder, settings, documents, lines, parts, heldout)


def split_by_hash(hashes: NDArray[np.uint64], parts: int) -> Integers:
    """[parts + 1] where each part of sorted hashes begins, and the end."""
    edges = np.array([(number << 64) // parts for number in range(1, parts)], np.uint64)
    return np.array([0, *np.searchsorted(hashes, edges), len(hashes)], np.int64)


def write_hashes(
    path: str, partition: Partition, hashes: NDArray[np.uint64], *columns: Integers
) -> None:
    """Write rows of a sorted hash and numbers, in parts by hash."""
    rows = np.stack([hashes, *(column.astype(np.uint64) for column in columns)], axis=1)
    write_rows(path, rows, split_by_hash(hashes, partition.parts))


def slice_of(offsets: Integers, number: int) -> slice:
    """Where the documents, or lines, of a chunk are in an array of all those of its group."""
    return slice(*(offsets[number : number + 2] - offsets[0]).tolist())
