"""Which documents and lines of a whole corpus are duplicates, in bounded memory.

Documents are numbered in the order of the inputs. Near duplicates are connected components: two
documents belong together if a band of their MinHash agrees, or if both belong to a third one. The
first document of each component is kept. Documents of equal text are the special case of one hash.
Between `mark` and `answer`, the lines of the kept documents are compared (`lines`).

Held-out documents, if there are any, are numbered before those of the training text, so they are
kept instead of training documents near them. They are not dropped themselves.

The tasks of `components` connect the documents. Then the tasks of this file work on groups of
chunks (`partition`) and exchange data through files (`exchange`):

    mark      a group    marks its documents
    answer    a group    sends the places of the documents that are kept instead of others
    finish    a group    writes the marks of its chunks and its part of the report
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import Integers
from pipeline.corpus.dedup.array_files import read_arrays, write_arrays
from pipeline.corpus.dedup.components import connect
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
    REPORT,
    Marks,
    read_places,
    write_marks,
)
from pipeline.corpus.dedup.partition import (
    Group,
    Partition,
    RunTasks,
    make_groups,
    make_partition,
    slice_of,
)
from pipeline.corpus.threads import remove_files
from pipeline.files.storage import write_whole
from pipeline.settings.corpus import DedupSettings


def find_duplicates(
    folder: str,
    sizes: Mapping[str, tuple[int, int]],
    settings: DedupSettings,
    run_tasks: RunTasks,
    shortest: int,
    heldout: int = 0,
) -> dict[str, int]:
    """Mark the duplicates of the whole corpus; the marks do not depend on the memory.

    Args:
        folder: where the signatures are. The marks are written beside them, and the list of dropped
            documents as `REPORT`: a JSON line for each, in order, with the place of the document
            that is kept instead.
        sizes: the numbers of documents and compared lines in each chunk, by name, in the order of
            the inputs.
        shortest: characters that must be left of a document from which lines are removed.
        heldout: how many of the first documents are held-out text.

    Returns:
        Counts of clusters by kind, and of distinct boilerplate lines.
    """
    if not sizes:
        return {}
    groups = make_groups(sizes, settings)
    partition = make_partition(folder, groups, settings, heldout)
    documents = settings.compares_documents
    equal, edges = connect(partition, groups, run_tasks) if documents else ([], [])
    found = run_tasks(mark, [(partition, group, equal, edges) for group in groups])
    remove_files([*equal, *edges])
    counts: dict[str, int] = {}
    turn, top = 0, np.zeros((0, 2), np.int64)
    if settings.compares_lines:
        turn, (distinct, top) = find_lines(partition, groups, run_tasks, shortest)
        counts = {"distinct_boilerplate_lines": distinct} if settings.boilerplate_documents else {}
    if documents:
        run_tasks(answer, [(partition, group) for group in groups])
    run_tasks(finish, [(partition, group, turn, top) for group in groups])
    if documents:
        parts = [f"{folder}/report-{group.number}.jsonl" for group in groups]
        concatenate(parts, f"{folder}/{REPORT}")
    kinds = {"exact": documents, "near": settings.near_documents}
    return counts | {
        f"{kind}_duplicate_clusters": int(count)
        for (kind, is_wanted), count in zip(kinds.items(), np.sum(found, axis=0), strict=True)
        if is_wanted
    }


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
    if partition.settings.compares_lines:
        (of_lines,) = read_arrays(state_path(partition, turn, group.number), "marks")
    kept: dict[int, str] = {}
    if partition.settings.compares_documents:
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
