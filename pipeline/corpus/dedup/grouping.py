"""Which documents and lines of a whole corpus are duplicates, in bounded memory.

Documents are numbered in the order of the inputs. Near duplicates are connected components: two
documents belong together if a band of their MinHash agrees, or if both belong to a third one. The
first document of each component is kept. Documents of equal text are the special case of one hash.
Last, the lines of the kept documents are compared (`lines`).

Held-out documents, if there are any, are numbered before those of the training text, so they are
kept instead of training documents near them. They are not dropped themselves.

Tasks work on groups of chunks and on parts of the hashes (`partition`), and exchange data through
files (`exchange`):

    split     a group    joins the documents of its own chunks; sends one row for each hash
    pair      a part     compares the hashes of all groups; sends edges between documents
    star      a group    replaces its edges, in rounds, until each component is a star
    mark      a group    marks its documents
    answer    a group    sends the places of the documents that are kept instead of others
    finish    a group    writes the marks of its chunks and its part of the report

A group sends each hash once, so no part grows with the number of equal documents in a group.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import Integers
from pipeline.corpus.dedup.array_files import read_arrays, write_arrays
from pipeline.corpus.dedup.clusters import (
    equal_pairs,
    first_equal,
    join,
    large_star,
    small_star,
)
from pipeline.corpus.dedup.exchange import (
    all_rows,
    concatenate,
    read_parts,
    read_rows,
    scatter_rows,
    write_parts,
)
from pipeline.corpus.dedup.lines import find_lines, state_path
from pipeline.corpus.dedup.marks import (
    EXACT,
    KEPT,
    NEAR,
    NEAR_HELDOUT,
    REASONS,
    Marks,
    by_document,
    read_places,
    read_signatures,
    write_marks,
)
from pipeline.corpus.dedup.partition import (
    COPIES,
    Group,
    Partition,
    RunTasks,
    make_groups,
    make_partition,
    slice_of,
    split_by_hash,
)
from pipeline.corpus.dedup.signatures import compares_lines
from pipeline.corpus.threads import remove_files
from pipeline.files.storage import write_whole
from pipeline.settings.corpus import DedupSettings


def find_duplicates(
    folder: str,
    sizes: Mapping[str, tuple[int, int]],
    settings: DedupSettings,
    run_tasks: RunTasks,
    report: str,
    shortest: int,
    heldout: int = 0,
) -> dict[str, int]:
    """Mark the duplicates of the whole corpus; the marks do not depend on the memory.

    Args:
        folder: where the signatures are; the marks are written beside them.
        sizes: the numbers of documents and compared lines in each chunk, by name, in the order of
            the inputs.
        report: path of the list of dropped documents: a JSON line for each, in order, with the
            place of the document that is kept instead.
        shortest: characters that must be left of a document from which lines are removed.
        heldout: how many of the first documents are held-out text.

    Returns:
        Counts of clusters by kind, and of distinct boilerplate lines.
    """
    if not sizes:
        return {}
    groups = make_groups(sizes, settings)
    partition = make_partition(folder, groups, settings, heldout)
    parts, documents = partition.parts, by_document(settings)
    equal: list[str] = []
    edges: list[str] = []
    if documents:
        run_tasks(split, [(partition, group) for group in groups])
        work = [(column, part) for column in range(_columns(settings)) for part in range(parts)]
        run_tasks(pair, [(partition, *each) for each in work])
        remove_files(partition.paths("hashes", partition.groups))
        files = [partition.path("equal", *each) for each in work]
        equal, edges = files[:parts], make_stars(partition, run_tasks, files[parts:])
    found = run_tasks(mark, [(partition, group, equal, edges) for group in groups])
    remove_files([*equal, *edges])
    counts: dict[str, int] = {}
    turn, top = 0, np.zeros((0, 2), np.int64)
    if compares_lines(settings):
        turn, (distinct, top) = find_lines(partition, groups, run_tasks, shortest)
        counts = {"distinct_boilerplate_lines": distinct} if settings.boilerplate_documents else {}
    if documents:
        run_tasks(answer, [(partition, group) for group in groups])
    run_tasks(finish, [(partition, group, turn, top) for group in groups])
    if documents:
        concatenate([f"{folder}/report-{group.number}.jsonl" for group in groups], report)
    kinds = {"exact": documents, "near": settings.near_documents}
    return counts | {
        f"{kind}_duplicate_clusters": int(count)
        for (kind, is_wanted), count in zip(kinds.items(), np.sum(found, axis=0), strict=True)
        if is_wanted
    }


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


def pair(partition: Partition, column: int, part: int) -> None:
    """Compare one part of one kind of hash; send each edge to the groups of its two documents."""
    files = partition.paths("hashes", partition.groups)
    rows = all_rows(files, column * partition.parts + part)
    pairs = equal_pairs(rows[:, 0].view(np.uint64), rows[:, 1])
    send_edges(partition.path("equal", column, part), partition, pairs)


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
        if sum(map(len, held)) * 32 * COPIES > partition.memory:
            send()
    if held:
        send()
    # In a star, a document that is not the centre has the centre as its only neighbour.
    return names, int(np.count_nonzero((least < own) & (most != least)))


def mark(
    partition: Partition, group: Group, equal_files: Sequence[str], edge_files: Sequence[str]
) -> NDArray[np.int64]:
    """Mark the documents of a group; returns how many clusters, exact and near, begin in it."""
    first, total = group.documents[0], group.documents[-1] - group.documents[0]
    own = np.arange(total) + first
    found = np.full(total, KEPT, np.uint8)
    counts = np.zeros(2, np.int64)
    if equal_files:
        equal, roots = read_arrays(f"{partition.folder}/group-{group.number}.npz", "equal", "roots")
        heads, counts[0] = _heads(group, equal, equal_files, partition.heldout)
        exact = heads != own
        if partition.settings.near_documents:
            heads, counts[1] = _heads(group, roots, edge_files, partition.heldout)
            found[heads != own] = NEAR
            found[heads < partition.heldout] = NEAR_HELDOUT
        found[exact] = EXACT
        found[own < partition.heldout] = KEPT
        dropped = np.flatnonzero(found != KEPT)
        rows = np.stack([heads[dropped], own[dropped]], axis=1)
        scatter_rows(partition.path("asked", group.number), rows, partition.documents)
    write_arrays(f"{partition.folder}/marked-{group.number}.npz", marks=found)
    return counts


def _heads(
    group: Group, local: NDArray[np.int64], files: Sequence[str], heldout: int
) -> tuple[NDArray[np.int64], int]:
    """[D] the first document of each one's cluster, and how many clusters begin in the group.

    Args:
        local: [D] the first member of the cluster within the group.
        files: edges of stars, and of pairs of equal documents, which are stars too.
        heldout: number of held-out documents, whose clusters are not counted.
    """
    first = group.documents[0]
    own = np.arange(len(local)) + first
    head, shared = own.copy(), np.bincount(local, minlength=len(local)) > 1
    for rows in read_rows(files, group.number):
        np.minimum.at(head, rows[:, 0] - first, rows[:, 1])
        shared[rows[:, 0] - first] = True
    begins = shared & (head == own) & (local + first == own) & (own >= heldout)
    return head[local], int(np.count_nonzero(begins))


def answer(partition: Partition, group: Group) -> None:
    """Send the places of the documents that are kept, to the groups that ask for them."""
    rows = all_rows(partition.paths("asked", partition.groups), group.number)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    bounds = np.searchsorted(rows[:, 0], group.documents)
    lines: list[list[bytes]] = [[] for _ in range(partition.groups)]
    for number, name in enumerate(group.chunks):
        asked = rows[bounds[number] : bounds[number + 1]]
        if not len(asked):
            continue
        places = read_places(partition.folder, name)
        askers = np.searchsorted(partition.documents, asked[:, 1], side="right") - 1
        for (head, document), asker in zip(asked.tolist(), askers.tolist(), strict=True):
            place = places[head - group.documents[number]]
            lines[asker].append(json.dumps([document, place]).encode() + b"\n")
    write_parts(partition.path("answers", group.number), [b"".join(each) for each in lines])


def finish(partition: Partition, group: Group, turn: int, top: Integers) -> None:
    """Write the marks of each chunk of a group, and the group's part of the report.

    Args:
        turn: after which the marks of lines are final.
        top: [N, 2] documents and number of each line that the report shows.
    """
    (found,) = read_arrays(f"{partition.folder}/marked-{group.number}.npz", "marks")
    of_lines = np.zeros(0, np.uint8)
    if compares_lines(partition.settings):
        (of_lines,) = read_arrays(state_path(partition, turn, group.number), "marks")
    kept: dict[int, str] = {}
    if by_document(partition.settings):
        for part in read_parts(partition.paths("answers", partition.groups), group.number):
            kept.update(json.loads(line) for line in part.splitlines())
    lines: list[bytes] = []
    for number, name in enumerate(group.chunks):
        here, lines_here = slice_of(group.documents, number), slice_of(group.lines, number)
        first, last = group.lines[number : number + 2]
        shown = top[(first <= top[:, 1]) & (top[:, 1] < last), ::-1] - [first, 0]
        write_marks(partition.folder, name, Marks(found[here], of_lines[lines_here], shown))
        if found[here].any():
            begin = int(group.documents[number])
            lines += _report(read_places(partition.folder, name), found[here], begin, kept)
    write_whole(f"{partition.folder}/report-{group.number}.jsonl", b"".join(lines))


def _report(
    places: Sequence[str], marks: NDArray[np.uint8], begin: int, kept: Mapping[int, str]
) -> Iterator[bytes]:
    """A JSON line for each dropped document of a chunk."""
    for place in np.flatnonzero(marks != KEPT).tolist():
        line = {
            "source": places[place],
            "reason": REASONS[marks[place]],
            "kept": kept[begin + place],
        }
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _columns(settings: DedupSettings) -> int:
    """Kinds of hashes of a document: that of its text, and that of each band."""
    return 1 + settings.bands * settings.near_documents
