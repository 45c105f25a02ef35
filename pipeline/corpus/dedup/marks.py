"""Exact and near duplicates of a whole corpus: found in a first pass, dropped in the second.

The first pass signs every chunk, and writes each kind of hash to a file of its own. Then documents
are grouped band by band, groups that share a document are joined to clusters, and the first
document of each cluster, in the order of the inputs, is kept. Last, the paragraphs of the kept
documents are compared. The result is a mark for each document and paragraph, which the second pass
reads. The text itself is never held in memory.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.dedup.clusters import count_clusters, equal_pairs, join, repeats
from pipeline.corpus.dedup.signatures import Signatures, is_paragraph
from pipeline.corpus.records import Document, Drop
from pipeline.settings.corpus import DedupSettings
from pipeline.storage import read_whole, write_whole

KEPT, EXACT, NEAR = range(3)
REASONS = ("", "duplicate_document", "near_duplicate_document")
"""Reason of a drop, by mark."""
PARAGRAPH = "duplicate_paragraph"
AFTER = "_after_dedup"
REPORT = "duplicates.jsonl"
PARTITION = 50_000_000
"""Paragraph hashes that are sorted at a time."""
Spread = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of the argument tuples, perhaps at once on many machines."""


class SignedChunk(NamedTuple):
    """A chunk whose signatures are written."""

    name: str
    document: int
    """Number of its first document in the corpus."""
    paragraph: int
    """Number of its first paragraph in the corpus."""


def wanted(settings: DedupSettings) -> bool:
    """Whether any kind of duplicate is to be dropped."""
    return settings.exact_documents or settings.exact_paragraphs or settings.near_documents


def write_signatures(folder: str, name: str, signed: Signatures, places: Sequence[str]) -> None:
    """Write each column to a file of its own, so that grouping reads one at a time."""
    for field, values in zip(Signatures._fields, signed, strict=True):
        write_array(f"{folder}/{name}.{field}.npy", np.ascontiguousarray(values))
    write_whole(f"{folder}/{name}.places.json", json.dumps(places).encode())


def find_duplicates(
    folder: str, documents: Mapping[str, int], settings: DedupSettings, spread: Spread, report: str
) -> dict[str, int]:
    """Mark the duplicates of the whole corpus.

    Args:
        folder: where the signatures are; the marks are written beside them.
        documents: the number of documents in each chunk, by name, in the order of the inputs.
        report: path of the list of dropped documents, which `write_report` writes.

    Returns:
        Counts of clusters by kind.
    """
    counts = [read_array(f"{folder}/{name}.paragraph_counts.npy") for name in documents]
    first_document = offsets_of(np.array(list(documents.values()), np.int64))
    first_paragraph = offsets_of(np.array([count.sum() for count in counts], np.int64))
    firsts = zip(
        documents, first_document[:-1].tolist(), first_paragraph[:-1].tolist(), strict=True
    )
    chunks = [SignedChunk(*first) for first in firsts]
    total = int(first_document[-1])
    marks = np.full(total, KEPT, np.uint8)
    clusters: dict[str, NDArray[np.int64]] = {}
    if settings.near_documents:
        work = [(folder, chunks, "bands", band) for band in range(settings.bands)]
        clusters["near"] = join(total, spread(equal_documents, work))
        marks[clusters["near"] != np.arange(total)] = NEAR
    if settings.exact_documents or settings.near_documents:
        pairs = spread(equal_documents, [(folder, chunks, "documents", None)])
        clusters["exact"] = join(total, pairs)
        marks[clusters["exact"] != np.arange(total)] = EXACT
    repeated = np.zeros(int(first_paragraph[-1]), np.bool_)
    if settings.exact_paragraphs:
        dropped = np.repeat(marks != KEPT, np.concatenate([np.zeros(0, np.int64), *counts]))
        write_array(f"{folder}/dropped.npy", dropped)
        partitions = 1 + len(repeated) // PARTITION
        slices = [(folder, chunks, number, partitions) for number in range(partitions)]
        for found in spread(repeated_paragraphs, slices):
            repeated[found] = True
    write_array(f"{folder}/marks.npy", marks)
    write_array(f"{folder}/repeated.npy", repeated)
    write_whole(f"{folder}/chunks.json", json.dumps(chunks).encode())
    if clusters:
        write_report(folder, chunks, report, marks, clusters.get("near", clusters["exact"]))
    return {f"{kind}_duplicate_clusters": count_clusters(first) for kind, first in clusters.items()}


def equal_documents(
    folder: str, chunks: Sequence[SignedChunk], column: str, band: int | None
) -> NDArray[np.int64]:
    """[E, 2] `equal_pairs` of all documents, by their own hashes or by those of one band."""
    columns = (read_array(f"{folder}/{chunk.name}.{column}.npy") for chunk in chunks)
    return equal_pairs(np.concatenate([each if band is None else each[band] for each in columns]))


def repeated_paragraphs(
    folder: str, chunks: Sequence[SignedChunk], number: int, partitions: int
) -> NDArray[np.int64]:
    """Numbers of the paragraphs that repeat one of a kept document, among a partition's hashes."""
    dropped = read_array(f"{folder}/dropped.npy")
    hashes, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for chunk in chunks:
        values = read_array(f"{folder}/{chunk.name}.paragraphs.npy")
        chosen = values % np.uint64(partitions) == number
        chosen &= ~dropped[chunk.paragraph : chunk.paragraph + len(values)]
        hashes.append(values[chosen])
        numbers.append(np.flatnonzero(chosen) + chunk.paragraph)
    return np.concatenate(numbers)[repeats(np.concatenate(hashes))]


def write_report(
    folder: str,
    chunks: Sequence[SignedChunk],
    path: str,
    marks: NDArray[np.uint8],
    first: NDArray[np.int64],
) -> None:
    """Write each dropped document as a JSON line, with the one that is kept in its place.

    Args:
        marks: [D] of all documents.
        first: [D] the first document of each one's cluster, which is kept.
    """
    heads = np.unique(first[marks != KEPT])
    kept: dict[int, str] = {}
    lines = []
    for chunk, end in zip(chunks, [*(chunk.document for chunk in chunks[1:]), None], strict=True):
        begin = chunk.document
        dropped = np.flatnonzero(marks[begin:end] != KEPT) + begin
        here = heads[slice(*np.searchsorted(heads, [begin, len(marks) if end is None else end]))]
        if not len(dropped) and not len(here):
            continue
        places = json.loads(read_whole(f"{folder}/{chunk.name}.places.json"))
        # The first document of a cluster comes before all that it replaces.
        kept.update((head, places[head - begin]) for head in here.tolist())
        lines += [
            {
                "source": places[number - begin],
                "reason": REASONS[marks[number]],
                "kept": kept[int(first[number])],
            }
            for number in dropped.tolist()
        ]
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(path, data.encode())


def without_duplicates(
    records: Iterable[Document | Drop], folder: str, name: str, check: Callable[[str], str]
) -> Iterator[Document | Drop]:
    """The records of a chunk, in which drops replace the documents and paragraphs that are marked.

    What is left of a document that loses paragraphs must be good enough by itself. If it is not,
    it is dropped with the reason of `check` and `AFTER`, such as `too_short_after_dedup`.

    Args:
        folder: where `find_duplicates` wrote the marks.
        name: of the chunk.
        check: the reason for which cleaning would drop a text, or nothing.
    """
    chunk = _chunks(folder)[name]
    marks = read_array(f"{folder}/marks.npy", mapped=True)[chunk.document :]
    repeated = read_array(f"{folder}/repeated.npy", mapped=True)[chunk.paragraph :]
    document = paragraph = 0
    for record in records:
        if isinstance(record, Drop):
            yield record
            continue
        mark, document = marks[document], document + 1
        kept = []
        for line in record.text.split("\n"):
            again = False
            if len(repeated) and is_paragraph(line):
                again, paragraph = repeated[paragraph], paragraph + 1
            if again and mark == KEPT:
                yield Drop(PARAGRAPH, line, record.place)
            else:
                kept.append(line)
        if mark != KEPT:
            yield Drop(REASONS[mark], record.text, record.place)
            continue
        text = "\n".join(kept)
        if text != record.text and (reason := check(text)):
            yield Drop(reason + AFTER, text, record.place)
        else:
            yield record._replace(text=text)


def write_array(path: str, values: NDArray[Any]) -> None:
    """Write an array as a .npy file, completely or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_whole(path, buffer.getvalue())


def read_array(path: str, mapped: bool = False) -> NDArray[Any]:
    """Read a .npy file. With `mapped`, a local file is mapped instead of read."""
    if "://" not in path:
        return np.load(path, mmap_mode="r" if mapped else None)
    return np.load(io.BytesIO(read_whole(path)))


@functools.lru_cache(maxsize=2)
def _chunks(folder: str) -> dict[str, SignedChunk]:
    """The chunks by name. A worker that has read a folder once remembers it."""
    chunks = json.loads(read_whole(f"{folder}/chunks.json"))
    return {name: SignedChunk(name, *rest) for name, *rest in chunks}
