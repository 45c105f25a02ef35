"""Which documents belong together: those that share a hash, or that others connect.

Tasks work on groups of chunks and on parts of the hashes (`partition`), and exchange data through
files (`exchange`):

    split     a group    joins the documents of its own chunks; sends one row for each hash
    pair      a part     compares the hashes of all groups; sends edges between documents
    star      a group    replaces its edges, in rounds, until each component is a star

A group sends each hash once, so no part grows with the number of equal documents in a group.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dedup.array_files import write_arrays
from pipeline.corpus.dedup.clusters import equal_pairs, first_equal, join, large_star, small_star
from pipeline.corpus.dedup.exchange import all_rows, read_rows, scatter_rows, write_parts
from pipeline.corpus.dedup.marks import read_signatures
from pipeline.corpus.dedup.partition import COPIES, Group, Partition, RunTasks, split_by_hash
from pipeline.corpus.threads import remove_files
from pipeline.settings.corpus import DedupSettings


def connect(
    partition: Partition, groups: Sequence[Group], run_tasks: RunTasks
) -> tuple[list[str], list[str]]:
    """Connect documents of different groups. Those within a group are joined in files of `split`.

    Returns:
        Files of pairs of documents of equal text, and files of the edges of stars, one for each
        connected component of near duplicates.
    """
    parts = partition.parts
    run_tasks(split, [(partition, group) for group in groups])
    work = [(kind, part) for kind in range(_kinds(partition.settings)) for part in range(parts)]
    run_tasks(pair, [(partition, *each) for each in work])
    remove_files(partition.paths("hashes", partition.groups))
    files = [partition.path("equal", *each) for each in work]
    return files[:parts], make_stars(partition, run_tasks, files[parts:])


def split(partition: Partition, group: Group) -> None:
    """Join the documents of a group; send each hash once, with the first document that has it."""
    fields = ("documents", "bands") if partition.settings.near_documents else ("documents",)
    read = [read_signatures(partition.folder, name, *fields) for name in group.chunks]
    hashes = np.concatenate([chunk[0] for chunk in read])
    places, equal = first_equal(hashes)
    columns = [(hashes, places)]
    roots = np.arange(len(hashes))
    if partition.settings.near_documents:
        bands = np.concatenate([chunk[1] for chunk in read], axis=1)
        read.clear()
        pairs = []
        for band in bands:
            places, first = first_equal(band)
            columns.append((band, places))
            again = np.flatnonzero(first != np.arange(len(first)))
            pairs.append(np.stack([again, first[again]], axis=1))
        roots = join(len(hashes), pairs)
    parts: list[bytes] = []
    for number, (values, places) in enumerate(columns):
        found = values[places]
        members = (roots if number else equal)[places] + group.documents[0]
        rows = np.stack([found, members.astype(np.uint64)], axis=1)
        bounds = split_by_hash(found, partition.parts).tolist()
        parts += [rows[a:b].tobytes() for a, b in itertools.pairwise(bounds)]
    write_parts(partition.path("hashes", group.number), parts)
    write_arrays(f"{partition.folder}/group-{group.number}.npz", equal=equal, roots=roots)


def pair(partition: Partition, kind: int, part: int) -> None:
    """Compare one part of one kind of hash; send each edge to the groups of its two documents."""
    files = partition.paths("hashes", partition.groups)
    rows = all_rows(files, kind * partition.parts + part)
    pairs = equal_pairs(rows[:, 0].view(np.uint64), rows[:, 1])
    send_edges(partition.path("equal", kind, part), partition, pairs)


def send_edges(path: str, partition: Partition, pairs: NDArray[np.int64]) -> None:
    """Write edges, each in both directions, so that the group of each end reads it."""
    pairs = np.unique(pairs, axis=0) if len(pairs) else pairs
    scatter_rows(path, np.concatenate([pairs, pairs[:, ::-1]]), partition.documents)


def make_stars(partition: Partition, run_tasks: RunTasks, files: list[str]) -> list[str]:
    """Replace edges until each component is a star; returns the files with the edges of stars."""
    turn = 0
    while files:
        work = [(partition, group, files, turn) for group in range(partition.groups)]
        found = run_tasks(star, work)
        if not any(unfinished for _, unfinished in found):
            remove_files([name for names, _ in found for name in names])
            return files
        remove_files(files)
        files = [name for names, _ in found for name in names]
        turn += 1
    return files


def star(
    partition: Partition, group: int, files: Sequence[str], turn: int
) -> tuple[list[str], int]:
    """One turn of `large_star` or `small_star` for the documents of a group.

    Returns:
        The files with the new edges, and how many documents are in no star yet.
    """
    first, last = partition.documents[group : group + 2]
    own = np.arange(first, last)
    least, most = own.copy(), np.full(len(own), -1)
    for rows in read_rows(files, group):
        np.minimum.at(least, rows[:, 0] - first, rows[:, 1])
        np.maximum.at(most, rows[:, 0] - first, rows[:, 1])
    replace = small_star if turn % 2 else large_star
    names: list[str] = []
    held: list[NDArray[np.int64]] = []

    def send() -> None:
        names.append(partition.path("star", turn, group, len(names)))
        send_edges(names[-1], partition, np.concatenate(held))
        held.clear()

    for rows in read_rows(files, group):
        held.append(replace(rows, least[rows[:, 0] - first]))
        if sum(map(len, held)) * 32 * COPIES > partition.settings.memory:
            send()
    if held:
        send()
    # In a star, a document that is not the centre has the centre as its only neighbour.
    return names, int(np.count_nonzero((least < own) & (most != least)))


def _kinds(settings: DedupSettings) -> int:
    """How many kinds of hashes of a document: that of its text, and that of each band."""
    return 1 + settings.bands * settings.near_documents
