"""Which documents and paragraphs of a whole corpus are duplicates, in bounded memory.

Documents are numbered in the order of the inputs. Near duplicates are connected components: two
documents belong together if a band of their MinHash agrees, or if both belong to a third one. The
first document of each component is kept. Documents of equal text are the special case of one hash.
Last, the paragraphs of the kept documents are compared.

The chunks are divided into groups of consecutive ones, whose signatures fit into the memory of one
task, and each kind of hash into parts by value. Stages exchange data through files (`exchange`):

    split     a group    joins the documents of its own chunks; sends one row for each hash
    pair      a part     compares the hashes of all groups; sends edges between documents
    star      a group    replaces its edges, in rounds, until each component is a star
    mark      a group    marks its documents; sends the paragraphs of those that are kept
    repeat    a part     compares the paragraphs of all groups
    answer    a group    sends the places of the documents that are kept instead of others
    finish    a group    writes the marks of its chunks and its part of the report

A group sends each hash once, so no part grows with the number of equal documents in a group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.dedup.array_files import read_arrays, write_arrays
from pipeline.corpus.dedup.clusters import (
    equal_pairs,
    first_equal,
    join,
    large_star,
    small_star,
)
from pipeline.corpus.dedup.exchange import (
    SUFFIX,
    all_rows,
    concatenate,
    read_parts,
    read_rows,
    remove,
    scatter_rows,
    write_parts,
    write_rows,
)
from pipeline.corpus.dedup.marks import (
    EXACT,
    KEPT,
    NEAR,
    REASONS,
    read_places,
    read_signatures,
    write_marks,
)
from pipeline.settings.corpus import DedupSettings
from pipeline.storage import write_whole

DOCUMENT_BYTES = 600
"""Memory of a task for each document of its group, beside the bands: indices and places."""
BAND_BYTES = 48
"""Memory of a task for each band of a document: the hash, its place, and the row twice."""
COPIES = 5
"""Arrays of the size of its data that a task holds while it sorts them."""
Spread = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of the argument tuples, perhaps at once on many machines."""


class Group(NamedTuple):
    """Consecutive chunks."""

    number: int
    chunks: tuple[str, ...]
    documents: NDArray[np.int64]
    """[C + 1] number of the first document of each chunk, and of that after the last one."""
    paragraphs: NDArray[np.int64]
    """[C + 1] the same for paragraphs."""


class Space(NamedTuple):
    """What all tasks know."""

    folder: str
    settings: DedupSettings
    documents: NDArray[np.int64]
    """[G + 1] number of the first document of each of the G groups, and of all documents."""
    paragraphs: NDArray[np.int64]
    """[G + 1] the same for paragraphs."""
    parts: int
    """Parts of each kind of hash."""

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.documents) - 1

    def path(self, stage: str, *numbers: int) -> str:
        """The file that a task of a stage writes for others."""
        return f"{self.folder}/{'-'.join([stage, *map(str, numbers)])}{SUFFIX}"

    def paths(self, stage: str, count: int) -> list[str]:
        """The files of all tasks of a stage."""
        return [self.path(stage, number) for number in range(count)]


def find_duplicates(
    folder: str,
    sizes: Mapping[str, tuple[int, int]],
    settings: DedupSettings,
    spread: Spread,
    report: str,
) -> dict[str, int]:
    """Mark the duplicates of the whole corpus; the marks do not depend on the memory.

    Args:
        folder: where the signatures are; the marks are written beside them.
        sizes: the numbers of documents and paragraphs in each chunk, by name, in the order of the
            inputs.
        report: path of the list of dropped documents: a JSON line for each, in order, with the
            place of the document that is kept instead.

    Returns:
        Counts of clusters by kind.
    """
    if not sizes:
        return {}
    groups = make_groups(sizes, settings)
    first_documents = np.array([*(g.documents[0] for g in groups), groups[-1].documents[-1]])
    first_paragraphs = np.array([*(g.paragraphs[0] for g in groups), groups[-1].paragraphs[-1]])
    hashes = max(first_documents[-1], first_paragraphs[-1])
    parts = 1 + int(16 * COPIES * hashes // _memory(settings))
    space = Space(folder, settings, first_documents, first_paragraphs, parts)
    by_document = settings.exact_documents or settings.near_documents
    equal: list[str] = []
    edges: list[str] = []
    if by_document:
        spread(split, [(space, group) for group in groups])
        work = [(column, part) for column in range(_columns(settings)) for part in range(parts)]
        spread(pair, [(space, *each) for each in work])
        remove(space.paths("hashes", space.groups))
        files = [space.path("equal", *each) for each in work]
        equal, edges = files[:parts], make_stars(space, spread, files[parts:])
    found = spread(mark, [(space, group, equal, edges) for group in groups])
    remove([*equal, *edges])
    if settings.exact_paragraphs:
        spread(repeat, [(space, part) for part in range(parts)])
        remove(space.paths("paragraphs", space.groups))
    if by_document:
        spread(answer, [(space, group) for group in groups])
    spread(finish, [(space, group) for group in groups])
    if by_document:
        concatenate([f"{folder}/report-{group.number}.jsonl" for group in groups], report)
    kinds = {"exact": by_document, "near": settings.near_documents}
    return {
        f"{kind}_duplicate_clusters": int(count)
        for (kind, is_wanted), count in zip(kinds.items(), np.sum(found, axis=0), strict=True)
        if is_wanted
    }


def make_groups(sizes: Mapping[str, tuple[int, int]], settings: DedupSettings) -> list[Group]:
    """Consecutive chunks whose signatures one task can hold; at least one chunk in each group."""
    counts = np.array(list(sizes.values()), np.int64).reshape(len(sizes), 2)
    documents, paragraphs = offsets_of(counts[:, 0]), offsets_of(counts[:, 1])
    bands = settings.bands if settings.near_documents else 0
    needs = offsets_of(
        counts[:, 0] * (BAND_BYTES * bands + DOCUMENT_BYTES) + counts[:, 1] * 16 * COPIES
    )
    which = needs[:-1] // _memory(settings)
    firsts = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist()]
    names = list(sizes)
    return [
        Group(
            number,
            tuple(names[first:last]),
            documents[first : last + 1],
            paragraphs[first : last + 1],
        )
        for number, (first, last) in enumerate(zip(firsts, [*firsts[1:], len(sizes)], strict=True))
    ]


def split(space: Space, group: Group) -> None:
    """Join the documents of a group; send each hash once, with the first document that has it."""
    fields = ("documents", "bands") if space.settings.near_documents else ("documents",)
    read = [read_signatures(space.folder, name, *fields) for name in group.chunks]
    hashes = np.concatenate([chunk[0] for chunk in read])
    places, equal = first_equal(hashes)
    columns = [(hashes, places)]
    roots = np.arange(len(hashes))
    if space.settings.near_documents:
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
        bounds = np.searchsorted(found, _part_edges(space.parts))
        parts += [
            rows[a:b].tobytes() for a, b in zip([0, *bounds], [*bounds, len(rows)], strict=True)
        ]
    write_parts(space.path("hashes", group.number), parts)
    write_arrays(f"{space.folder}/group-{group.number}.npz", equal=equal, roots=roots)


def pair(space: Space, column: int, part: int) -> None:
    """Compare one part of one kind of hash; send each edge to the groups of its two documents."""
    files = space.paths("hashes", space.groups)
    rows = all_rows(files, column * space.parts + part)
    pairs = equal_pairs(rows[:, 0].view(np.uint64), rows[:, 1])
    send_edges(space.path("equal", column, part), space, pairs)


def send_edges(path: str, space: Space, pairs: NDArray[np.int64]) -> None:
    """Write edges, each in both directions, so that the group of each end reads it."""
    pairs = np.unique(pairs, axis=0) if len(pairs) else pairs
    scatter_rows(path, np.concatenate([pairs, pairs[:, ::-1]]), space.documents)


def make_stars(space: Space, spread: Spread, files: list[str]) -> list[str]:
    """Replace edges until each component is a star; returns the files with the edges of stars."""
    turn = 0
    while files:
        work = [(space, group, files, turn) for group in range(space.groups)]
        found = spread(star, work)
        if not any(unfinished for _, unfinished in found):
            remove([name for names, _ in found for name in names])
            return files
        remove(files)
        files = [name for names, _ in found for name in names]
        turn += 1
    return files


def star(space: Space, group: int, files: Sequence[str], turn: int) -> tuple[list[str], int]:
    """One turn of `large_star` or `small_star` for the documents of a group.

    Returns:
        The files with the new edges, and how many documents are in no star yet.
    """
    first, last = space.documents[group : group + 2]
    own = np.arange(first, last)
    least, most = own.copy(), np.full(len(own), -1)
    for rows in read_rows(files, group):
        np.minimum.at(least, rows[:, 0] - first, rows[:, 1])
        np.maximum.at(most, rows[:, 0] - first, rows[:, 1])
    replace = small_star if turn % 2 else large_star
    names: list[str] = []
    held: list[NDArray[np.int64]] = []

    def send() -> None:
        names.append(space.path("star", turn, group, len(names)))
        send_edges(names[-1], space, np.concatenate(held))
        held.clear()

    for rows in read_rows(files, group):
        held.append(replace(rows, least[rows[:, 0] - first]))
        if sum(map(len, held)) * 32 * COPIES > _memory(space.settings):
            send()
    if held:
        send()
    # In a star, a document that is not the centre has the centre as its only neighbour.
    return names, int(np.count_nonzero((least < own) & (most != least)))


def mark(
    space: Space, group: Group, equal_files: Sequence[str], edge_files: Sequence[str]
) -> NDArray[np.int64]:
    """Mark the documents of a group; returns how many clusters, exact and near, begin in it."""
    first, total = group.documents[0], group.documents[-1] - group.documents[0]
    own = np.arange(total) + first
    marks = np.full(total, KEPT, np.uint8)
    counts = np.zeros(2, np.int64)
    if equal_files:
        equal, roots = read_arrays(f"{space.folder}/group-{group.number}.npz", "equal", "roots")
        heads, counts[0] = _heads(group, equal, equal_files)
        exact = heads != own
        if space.settings.near_documents:
            heads, counts[1] = _heads(group, roots, edge_files)
            marks[heads != own] = NEAR
        marks[exact] = EXACT
        dropped = np.flatnonzero(marks != KEPT)
        rows = np.stack([heads[dropped], own[dropped]], axis=1)
        scatter_rows(space.path("asked", group.number), rows, space.documents)
    repeated = np.zeros(0, np.bool_)
    if space.settings.exact_paragraphs:
        repeated = _send_paragraphs(space, group, marks)
    write_arrays(f"{space.folder}/marked-{group.number}.npz", marks=marks, repeated=repeated)
    return counts


def _heads(
    group: Group, local: NDArray[np.int64], files: Sequence[str]
) -> tuple[NDArray[np.int64], int]:
    """[D] the first document of each one's cluster, and how many clusters begin in the group.

    Args:
        local: [D] the first member of the cluster within the group.
        files: edges of stars, and of pairs of equal documents, which are stars too.
    """
    first = group.documents[0]
    own = np.arange(len(local)) + first
    head, shared = own.copy(), np.bincount(local, minlength=len(local)) > 1
    for rows in read_rows(files, group.number):
        np.minimum.at(head, rows[:, 0] - first, rows[:, 1])
        shared[rows[:, 0] - first] = True
    return head[local], int(np.count_nonzero(shared & (head == own) & (local + first == own)))


def _send_paragraphs(space: Space, group: Group, marks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[P] the paragraphs that repeat one of a kept document of the group. Sends each hash once."""
    hashes, counts = [], []
    for name in group.chunks:
        values, per_document = read_signatures(space.folder, name, "paragraphs", "paragraph_counts")
        hashes.append(values)
        counts.append(per_document)
    values = np.concatenate(hashes)
    kept = np.flatnonzero(np.repeat(marks == KEPT, np.concatenate(counts)))
    places, first = first_equal(values[kept])
    repeated = np.zeros(len(values), np.bool_)
    repeated[kept[first != np.arange(len(kept))]] = True
    found = values[kept[places]]
    numbers = (kept[places] + group.paragraphs[0]).astype(np.uint64)
    bounds = [0, *np.searchsorted(found, _part_edges(space.parts)), len(found)]
    rows = np.stack([found, numbers], axis=1)
    write_rows(space.path("paragraphs", group.number), rows, np.array(bounds))
    return repeated


def repeat(space: Space, part: int) -> None:
    """Compare one part of the paragraphs' hashes; send those that are not the first to groups."""
    rows = all_rows(space.paths("paragraphs", space.groups), part)
    pairs = equal_pairs(rows[:, 0].view(np.uint64), rows[:, 1])
    scatter_rows(space.path("repeated", part), pairs, space.paragraphs)


def answer(space: Space, group: Group) -> None:
    """Send the places of the documents that are kept, to the groups that ask for them."""
    rows = all_rows(space.paths("asked", space.groups), group.number)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    bounds = np.searchsorted(rows[:, 0], group.documents)
    lines: list[list[bytes]] = [[] for _ in range(space.groups)]
    for number, name in enumerate(group.chunks):
        asked = rows[bounds[number] : bounds[number + 1]]
        if not len(asked):
            continue
        places = read_places(space.folder, name)
        askers = np.searchsorted(space.documents, asked[:, 1], side="right") - 1
        for (head, document), asker in zip(asked.tolist(), askers.tolist(), strict=True):
            place = places[head - group.documents[number]]
            lines[asker].append(json.dumps([document, place]).encode() + b"\n")
    write_parts(space.path("answers", group.number), [b"".join(each) for each in lines])


def finish(space: Space, group: Group) -> None:
    """Write the marks of each chunk of a group, and the group's part of the report."""
    marks, repeated = read_arrays(f"{space.folder}/marked-{group.number}.npz", "marks", "repeated")
    if len(repeated):
        for rows in read_rows(space.paths("repeated", space.parts), group.number):
            repeated[rows[:, 0] - group.paragraphs[0]] = True
    kept: dict[int, str] = {}
    if space.settings.exact_documents or space.settings.near_documents:
        for part in read_parts(space.paths("answers", space.groups), group.number):
            kept.update(json.loads(line) for line in part.splitlines())
    lines: list[bytes] = []
    for number, name in enumerate(group.chunks):
        here = _slice(group.documents, number)
        of_chunk = repeated[_slice(group.paragraphs, number)]
        write_marks(space.folder, name, marks[here], of_chunk)
        if marks[here].any():
            begin = int(group.documents[number])
            lines += _report(read_places(space.folder, name), marks[here], begin, kept)
    write_whole(f"{space.folder}/report-{group.number}.jsonl", b"".join(lines))


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


def _slice(offsets: NDArray[np.int64], number: int) -> slice:
    """The numbers of one chunk, counted from the first one of its group."""
    return slice(*(offsets[number : number + 2] - offsets[0]).tolist())


def _columns(settings: DedupSettings) -> int:
    """Kinds of hashes of a document: that of its text, and that of each band."""
    return 1 + settings.bands * settings.near_documents


def _part_edges(parts: int) -> NDArray[np.uint64]:
    """[parts - 1] the smallest hash of each part but the first."""
    return np.array([(number << 64) // parts for number in range(1, parts)], np.uint64)


def _memory(settings: DedupSettings) -> int:
    return int(settings.memory_megabytes * 1e6)
