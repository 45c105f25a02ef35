"""Exact and near duplicates across a whole corpus, found in a pass of its own before the shards.

First every chunk is signed: hashes of documents, paragraphs and MinHash bands, in files of their
own. Then documents are grouped band by band, clusters of alike ones joined, and of each the first
one in the order of the inputs is kept. Last, paragraphs of kept documents are compared. The result
is a mark for every document and paragraph, which the units read. No text is held anywhere.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.corpus.columns import offsets_of
from pipeline.corpus.dedup.signatures import band_hashes
from pipeline.corpus.records import Document, Drop
from pipeline.settings.corpus import DedupSettings
from pipeline.storage import read_whole, write_whole

KEPT, EXACT, NEAR = range(3)
REASONS = {EXACT: "duplicate_document", NEAR: "near_duplicate_document"}
PARAGRAPH = "duplicate_paragraph"
PARAGRAPH_CHARACTERS = 20
"""Shorter lines repeat in honest text: headlines, dates, 答：."""
PARTITION = 50_000_000
"""Paragraph hashes that are sorted at a time."""
REPORT = "duplicates.jsonl"
Spread = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of the argument tuples, maybe at once on many machines."""


class Signatures(NamedTuple):
    """Hashes of the D documents and P paragraphs of a chunk."""

    documents: NDArray[np.uint64]
    """[D]"""
    bands: NDArray[np.uint64]
    """[bands, D]; no rows when near duplicates are not asked for."""
    paragraphs: NDArray[np.uint64]
    """[P]"""
    paragraph_counts: NDArray[np.int64]
    """[D] paragraphs in each document."""


class Part(NamedTuple):
    """A chunk's name and the numbers of its first document and paragraph in the corpus."""

    name: str
    document: int
    paragraph: int


def wanted(settings: DedupSettings) -> bool:
    """Whether any kind of duplicate is to go."""
    return settings.exact_documents or settings.exact_paragraphs or settings.near_documents


def paragraphs_of(text: str) -> list[str]:
    """The lines of a text that are long enough to count as duplicates."""
    return [line for line in text.split("\n") if len(line) >= PARAGRAPH_CHARACTERS]


def sign(texts: Iterable[str], settings: DedupSettings) -> Signatures:
    """Signatures of cleaned documents."""
    documents, bands, paragraphs, counts = [], [], [], []
    for text in texts:
        documents.append(xxhash.xxh3_64_intdigest(text.encode()))
        if settings.near_documents:
            bands.append(band_hashes(text, settings.ngram, settings.bands, settings.rows))
        found = paragraphs_of(text) if settings.exact_paragraphs else []
        paragraphs += [xxhash.xxh3_64_intdigest(line.encode()) for line in found]
        counts.append(len(found))
    return Signatures(
        np.array(documents, np.uint64),
        np.array(bands, np.uint64).reshape(len(bands), settings.bands).T,
        np.array(paragraphs, np.uint64),
        np.array(counts, np.int64),
    )


def write_signatures(folder: str, name: str, signed: Signatures, sources: list[str]) -> None:
    """Write each column to a file of its own, so that the grouping reads one at a time."""
    for field, values in zip(Signatures._fields, signed, strict=True):
        write_array(f"{folder}/{name}.{field}.npy", np.ascontiguousarray(values))
    write_whole(f"{folder}/{name}.sources.json", json.dumps(sources).encode())


def find_duplicates(
    folder: str, chunks: Mapping[str, int], settings: DedupSettings, spread: Spread, report: str
) -> dict[str, int]:
    """Mark duplicates of the whole corpus.

    Args:
        folder: where the signatures lie; the marks are written beside them.
        chunks: names of the chunks in the order of the inputs, with their documents.
        report: path of the list of what goes.

    Returns:
        Counts of clusters by kind.
    """
    counts = [read_array(f"{folder}/{name}.paragraph_counts.npy") for name in chunks]
    first_document = offsets_of(np.array(list(chunks.values()), np.int64))
    first_paragraph = offsets_of(np.array([count.sum() for count in counts], np.int64))
    firsts = zip(chunks, first_document[:-1].tolist(), first_paragraph[:-1].tolist(), strict=True)
    parts = [Part(*first) for first in firsts]
    total = int(first_document[-1])
    marks = np.full(total, KEPT, np.uint8)
    clusters: dict[str, NDArray[np.int64]] = {}
    if settings.near_documents:
        work = [(folder, parts, "bands", band) for band in range(settings.bands)]
        clusters["near"] = join(total, spread(alike, work))
        marks[clusters["near"] != np.arange(total)] = NEAR
    if settings.exact_documents or settings.near_documents:
        clusters["exact"] = join(total, spread(alike, [(folder, parts, "documents", None)]))
        marks[clusters["exact"] != np.arange(total)] = EXACT
    repeated = np.zeros(int(first_paragraph[-1]), np.bool_)
    if settings.exact_paragraphs:
        dropped = np.repeat(marks != KEPT, np.concatenate([np.zeros(0, np.int64), *counts]))
        write_array(f"{folder}/dropped.npy", dropped)
        partitions = 1 + len(repeated) // PARTITION
        slices = [(folder, parts, number, partitions) for number in range(partitions)]
        for found in spread(repeated_paragraphs, slices):
            repeated[found] = True
    write_array(f"{folder}/marks.npy", marks)
    write_array(f"{folder}/repeated.npy", repeated)
    write_whole(f"{folder}/parts.json", json.dumps(parts).encode())
    if clusters:
        write_report(folder, report, marks, clusters.get("near", clusters["exact"]))
    return {
        f"{kind}_duplicate_clusters": len(np.unique(first[first != np.arange(total)]))
        for kind, first in clusters.items()
    }


def alike(folder: str, parts: list[Part], column: str, row: int | None) -> NDArray[np.int64]:
    """[E, 2] each document whose hash an earlier one has, with the first of those."""
    arrays = (read_array(f"{folder}/{part.name}.{column}.npy") for part in parts)
    hashes = np.concatenate([array if row is None else array[row] for array in arrays])
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    document = np.flatnonzero(first[which] != np.arange(len(hashes)))
    return np.stack([document, first[which][document]], axis=1)


def join(total: int, edges: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[total] the smallest member of each document's cluster; edges are pairs of alike ones."""
    label = np.arange(total)
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *edges])
    while True:
        low = np.minimum(label[pairs[:, 0]], label[pairs[:, 1]])
        before = label.copy()
        for side in (0, 1):
            np.minimum.at(label, pairs[:, side], low)
            np.minimum.at(label, before[pairs[:, side]], low)
        label = label[label]
        if np.array_equal(label, before):
            return label


def repeated_paragraphs(
    folder: str, parts: list[Part], number: int, partitions: int
) -> NDArray[np.int64]:
    """Global numbers of paragraphs that a kept document had before, among hashes of a partition."""
    dropped = read_array(f"{folder}/dropped.npy")
    hashes, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for part in parts:
        values = read_array(f"{folder}/{part.name}.paragraphs.npy")
        mine = values % np.uint64(partitions) == number
        mine &= ~dropped[part.paragraph : part.paragraph + len(values)]
        hashes.append(values[mine])
        places.append(np.flatnonzero(mine) + part.paragraph)
    flat = np.concatenate(hashes)
    _, first = np.unique(flat, return_index=True)
    again = np.ones(len(flat), np.bool_)
    again[first] = False
    return np.concatenate(places)[again]


def write_report(
    folder: str, path: str, marks: NDArray[np.uint8], first: NDArray[np.int64]
) -> None:
    """Write what goes, one document a line, with the one that is kept in its place."""
    parts = list(_parts(folder).values())
    ends = [*(part.document for part in parts[1:]), len(marks)]
    heads = np.unique(first[marks != KEPT])
    kept: dict[int, str] = {}
    lines = []
    for part, end in zip(parts, ends, strict=True):
        wanted_here = heads[(heads >= part.document) & (heads < end)]
        gone = np.flatnonzero(marks[part.document : end] != KEPT) + part.document
        if len(wanted_here) or len(gone):
            sources = json.loads(read_whole(f"{folder}/{part.name}.sources.json"))
            # A head comes before all that it stands for.
            kept.update((head, sources[head - part.document]) for head in wanted_here.tolist())
            lines += [
                {
                    "source": sources[number - part.document],
                    "reason": REASONS[int(marks[number])],
                    "kept": kept[int(first[number])],
                }
                for number in gone.tolist()
            ]
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(path, data.encode())


def without_duplicates(
    stream: Iterable[Document], folder: str, name: str, dropped: list[Drop]
) -> Iterator[Document]:
    """The documents and paragraphs of a chunk that are kept; the others go to `dropped`."""
    parts = _parts(folder)
    part = parts[name]
    marks = read_array(f"{folder}/marks.npy", mapped=True)[part.document :]
    repeated = read_array(f"{folder}/repeated.npy", mapped=True)[part.paragraph :]
    at = 0
    for number, document in enumerate(stream):
        lines = document.text.split("\n")
        kept = []
        for line in lines:
            again = False
            if len(repeated) and len(line) >= PARAGRAPH_CHARACTERS:
                again = bool(repeated[at])
                at += 1
            if again and marks[number] == KEPT:
                dropped.append(Drop(PARAGRAPH, line, document.source))
            else:
                kept.append(line)
        if marks[number] != KEPT:
            dropped.append(Drop(REASONS[int(marks[number])], document.text, document.source))
        elif kept:
            yield document._replace(text="\n".join(kept))


def write_array(path: str, values: NDArray[Any]) -> None:
    """Write an array as a .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_whole(path, buffer.getvalue())


def read_array(path: str, mapped: bool = False) -> NDArray[Any]:
    """Read a .npy file; `mapped` leaves it on the disk where it is a local one."""
    if "://" not in path:
        return np.load(path, mmap_mode="r" if mapped else None)
    return np.load(io.BytesIO(read_whole(path)))


@functools.lru_cache(maxsize=2)
def _parts(folder: str) -> dict[str, Part]:
    return {part[0]: Part(*part) for part in json.loads(read_whole(f"{folder}/parts.json"))}
