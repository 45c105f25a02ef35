"""Which lines are removed from documents: those of many documents, and repeated paragraphs.

A line of `boilerplate_documents` documents or more is removed from all of them.

Of equal paragraphs the first one is kept. If so many lines of a document are removed that too
little is left, the document is dropped, and its paragraphs are kept in the next document that has
them. So whether a document is kept depends on documents before it. A document is decided when
enough is left of it, which later decisions only increase, or when the documents that keep its
paragraphs are decided. In each turn at least the first undecided document is decided:

    count     a group    sends each line once, with the number of its documents in the group
    select    a part     adds the numbers up; sends the lines of enough documents to groups
    begin     a group    marks the lines of many documents
    offer     a group    sends each paragraph of documents that are not dropped, once
    repeat    a part     compares the paragraphs of all groups
    decide    a group    marks repeated paragraphs, and decides on documents
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import Integers
from pipeline.corpus.dedup.array_files import read_arrays, write_arrays
from pipeline.corpus.dedup.clusters import first_equal
from pipeline.corpus.dedup.exchange import all_rows, read_rows, scatter_rows
from pipeline.corpus.dedup.marks import BOILERPLATE, FIRST, KEPT, REPEATED, SINGLE, read_signatures
from pipeline.corpus.dedup.partition import Group, Partition, RunTasks, write_hashes
from pipeline.corpus.dedup.signatures import PARAGRAPH_CHARACTERS
from pipeline.corpus.threads import remove_files

OPEN, SETTLED, DROPPED = range(3)
"""State of a document: not decided yet; enough of it is left; dropped, here or as a duplicate."""
TURNS = 50
"""Most turns. If each document of a chain depends on the one before it, a turn decides one of them.
A document that is still open after the last turn is dropped if too little is left of it, and the
paragraphs that it alone keeps are counted as lost."""
SHOWN = 100
"""How many of the most frequent lines are shown."""


class Frequent(NamedTuple):
    """Lines of many documents."""

    distinct: int
    """How many there are."""
    top: Integers
    """[N, 2] documents, and number of the first such line, of the N most frequent ones."""


class Lines(NamedTuple):
    """The L compared lines of a group of D documents."""

    hashes: NDArray[np.uint64]
    """[L]"""
    sizes: Integers
    """[L] characters"""
    owners: Integers
    """[L] document, counted from the first of the group."""
    lengths: Integers
    """[D] characters of each document."""


def find_lines(
    partition: Partition, groups: list[Group], run_tasks: RunTasks, shortest: int
) -> tuple[int, Frequent]:
    """Mark lines; the marks are in the files `state_path(partition, turn, group)`.

    Args:
        shortest: characters that must be left of a document from which lines are removed.

    Returns:
        The number of turns, and the lines of many documents.
    """
    frequent = Frequent(0, np.zeros((0, 2), np.int64))
    if partition.settings.boilerplate_documents:
        run_tasks(count, [(partition, group) for group in groups])
        found = run_tasks(select, [(partition, part) for part in range(partition.parts)])
        remove_files(partition.paths("counts", partition.groups))
        top = np.concatenate([each.top for each in found])
        frequent = Frequent(sum(each.distinct for each in found), _most_frequent(top))
    run_tasks(begin, [(partition, group) for group in groups])
    if partition.settings.boilerplate_documents:
        remove_files(partition.paths("common", partition.parts))
    turn = 0
    waiting = int(partition.settings.exact_paragraphs)
    while waiting and turn < TURNS:
        run_tasks(offer, [(partition, group, turn) for group in groups])
        run_tasks(repeat, [(partition, part, turn) for part in range(partition.parts)])
        remove_files(partition.paths("paragraphs", partition.groups, turn))
        waiting = sum(run_tasks(decide, [(partition, group, turn, shortest) for group in groups]))
        remove_files(partition.paths("repeated", partition.parts, turn))
        remove_files(state_path(partition, turn, group.number) for group in groups)
        turn += 1
    return turn, frequent


def state_path(partition: Partition, turn: int, group: int) -> str:
    """The marks of a group's lines, and the states of its documents, before a turn."""
    return f"{partition.folder}/state-{turn}-{group}.npz"


def count(partition: Partition, group: Group) -> None:
    """Send each line of the kept documents once, with its number of documents."""
    lines = _read(partition, group)
    kept = np.flatnonzero((_marks(partition, group) == KEPT)[lines.owners])
    hashes, places, which = np.unique(lines.hashes[kept], return_index=True, return_inverse=True)
    total = len(lines.lengths)
    # Each pair of a line and a document once, however often the document holds the line.
    pairs = np.unique(which * total + lines.owners[kept])
    documents = np.bincount(pairs // max(1, total), minlength=len(hashes))
    path = partition.path("counts", group.number)
    write_hashes(path, partition, hashes, kept[places] + group.lines[0], documents)


def select(partition: Partition, part: int) -> Frequent:
    """Find the lines of many documents in one part of the hashes; send them to their groups."""
    rows = all_rows(partition.paths("counts", partition.groups), part, columns=3)
    _, first, which = np.unique(rows[:, 0].view(np.uint64), return_index=True, return_inverse=True)
    documents = np.bincount(which, rows[:, 2], len(first)).astype(np.int64)
    many = documents >= partition.settings.boilerplate_documents
    chosen = many[which]
    found = np.stack([rows[chosen, 1], documents[which[chosen]]], axis=1)
    scatter_rows(partition.path("common", part), found, partition.lines)
    top = np.stack([documents[many], rows[first[many], 1]], axis=1)
    return Frequent(len(top), _most_frequent(top))


def _most_frequent(lines: Integers) -> Integers:
    """[N, 2] the `SHOWN` lines with most documents; the earlier one of two with as many."""
    return lines[np.lexsort((lines[:, 1], -lines[:, 0]))][:SHOWN]


def begin(partition: Partition, group: Group) -> None:
    """Write the state before the first turn."""
    lines = _read(partition, group)
    kept = _marks(partition, group) == KEPT
    marks = np.full(len(lines.hashes), SINGLE, np.uint8)
    if partition.settings.boilerplate_documents:
        rows = all_rows(partition.paths("common", partition.parts), group.number)
        common = np.isin(lines.hashes, lines.hashes[rows[:, 0] - group.lines[0]])
        marks[common & kept[lines.owners]] = BOILERPLATE
    states = np.where(kept, OPEN, DROPPED).astype(np.uint8)
    write_arrays(state_path(partition, 0, group.number), marks=marks, states=states)


def offer(partition: Partition, group: Group, turn: int) -> None:
    """Send each paragraph of the documents that are not dropped, once, with the state of its
    document."""
    lines = _read(partition, group)
    marks, states = read_arrays(state_path(partition, turn, group.number), "marks", "states")
    offered = _offered(lines, marks, states)
    hashes, places = np.unique(lines.hashes[offered], return_index=True)
    firsts = offered[places]
    path = partition.path("paragraphs", turn, group.number)
    settled = states[lines.owners[firsts]] == SETTLED
    write_hashes(path, partition, hashes, firsts + group.lines[0], settled)


def repeat(partition: Partition, part: int, turn: int) -> None:
    """Compare one part of the paragraphs' hashes; send rows of three numbers to the groups.

    For a paragraph that repeats an earlier one: its number, the number of the first one, and 1 if
    the document of the first one is settled, else 0. For a first one that is repeated: its number,
    the number of one that repeats it, and 0.
    """
    rows = all_rows(partition.paths("paragraphs", partition.groups, turn), part, columns=3)
    _, first = first_equal(rows[:, 0].view(np.uint64))
    again = np.flatnonzero(first != np.arange(len(first)))
    heads, example = np.unique(first[again], return_index=True)
    numbers = rows[:, 1]
    pairs = [
        np.stack([numbers[again], numbers[first[again]], rows[first[again], 2]], axis=1),
        np.stack([numbers[heads], numbers[again[example]], np.zeros_like(heads)], axis=1),
    ]
    scatter_rows(partition.path("repeated", turn, part), np.concatenate(pairs), partition.lines)


def decide(partition: Partition, group: Group, turn: int, shortest: int) -> int:
    """Mark repeated paragraphs, and decide on the documents for which it is possible.

    Returns:
        How many documents make another turn necessary.
    """
    lines = _read(partition, group)
    marks, states = read_arrays(state_path(partition, turn, group.number), "marks", "states")
    # The others were offered without the paragraphs of documents that were dropped before.
    marks[(marks == FIRST) & (states == DROPPED)[lines.owners]] = SINGLE
    offered = _offered(lines, marks, states)
    heads = offered[first_equal(lines.hashes[offered])[1]]
    elsewhere, settled, shared = (np.zeros(len(marks), np.bool_) for _ in range(3))
    for rows in read_rows(
        partition.paths("repeated", partition.parts, turn), group.number, columns=3
    ):
        places = rows[:, 0] - group.lines[0]
        earlier = rows[:, 1] < rows[:, 0]
        elsewhere[places[earlier]] = True
        settled[places[earlier]] = rows[earlier, 2]
        shared[places[~earlier]] = True
    repeated = (heads != offered) | elsewhere[heads]
    of, of_head = lines.owners[offered], lines.owners[heads]
    final = np.where(
        elsewhere[heads], settled[heads], (of == of_head) | (states[of_head] == SETTLED)
    )
    shared[heads[of != of_head]] = True
    shared |= marks == FIRST
    marks[offered] = np.where(repeated, REPEATED, np.where(shared[offered], FIRST, SINGLE))

    removed = np.isin(marks, (REPEATED, BOILERPLATE))
    sizes = lines.sizes[removed] + 1  # with the line feed
    lost = np.bincount(lines.owners[removed], sizes, len(states))
    short = (lost > 0) & (lines.lengths - lost < shortest)
    doubtful = np.zeros(len(states), np.bool_)
    doubtful[of[repeated & ~final]] = True
    undecided = states == OPEN
    states[undecided & ~short] = SETTLED
    states[undecided & short & ~doubtful] = DROPPED
    write_arrays(state_path(partition, turn + 1, group.number), marks=marks, states=states)
    keeps = np.zeros(len(states), np.bool_)
    keeps[lines.owners[marks == FIRST]] = True
    return int(np.count_nonzero(undecided & short & (doubtful | keeps)))


def _offered(
    lines: Lines, marks: NDArray[np.uint8], states: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """The paragraphs that are compared: those of documents that are not dropped."""
    paragraph = lines.sizes >= PARAGRAPH_CHARACTERS
    return np.flatnonzero(paragraph & (marks != BOILERPLATE) & (states != DROPPED)[lines.owners])


def _marks(partition: Partition, group: Group) -> NDArray[np.uint8]:
    (marks,) = read_arrays(f"{partition.folder}/marked-{group.number}.npz", "marks")
    return marks


def _read(partition: Partition, group: Group) -> Lines:
    fields = ("lines", "line_sizes", "line_counts", "lengths")
    read = [read_signatures(partition.folder, name, *fields) for name in group.chunks]
    hashes, sizes, counts, lengths = map(np.concatenate, zip(*read, strict=True))
    owners = np.repeat(np.arange(len(lengths)), counts)
    return Lines(hashes, sizes.astype(np.int64), owners, lengths)
