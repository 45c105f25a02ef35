"""What is dropped of each chunk: marks of its documents and paragraphs, and their use.

The first pass over the corpus signs every chunk (`signatures`), `grouping` compares the signatures
and writes the marks, and the second pass reads the marks of its own chunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dedup.array_files import read_arrays, write_arrays
from pipeline.corpus.dedup.signatures import Signatures, is_paragraph
from pipeline.corpus.records import Document, Drop
from pipeline.errors import CorpusError
from pipeline.settings.corpus import DedupSettings

KEPT, EXACT, NEAR = range(3)
REASONS = ("", "duplicate_document", "near_duplicate_document")
"""Reason of a drop, by mark."""
PARAGRAPH = "duplicate_paragraph"
AFTER = "_after_dedup"
REPORT = "duplicates.jsonl"


def wanted(settings: DedupSettings) -> bool:
    """Whether any kind of duplicate is to be dropped."""
    return settings.exact_documents or settings.exact_paragraphs or settings.near_documents


def write_signatures(folder: str, name: str, signed: Signatures, places: Sequence[str]) -> None:
    """Write the signatures of a chunk, with the places of its documents."""
    encoded = np.frombuffer(json.dumps(places).encode(), np.uint8)
    write_arrays(f"{folder}/{name}.signatures.npz", places=encoded, **signed._asdict())


def read_signatures(folder: str, name: str, *fields: str) -> list[NDArray]:
    """Some fields of the signatures of a chunk."""
    return read_arrays(f"{folder}/{name}.signatures.npz", *fields)


def read_places(folder: str, name: str) -> list[str]:
    """The places of the documents of a chunk."""
    (encoded,) = read_signatures(folder, name, "places")
    return json.loads(encoded.tobytes())


def write_marks(
    folder: str, name: str, documents: NDArray[np.uint8], repeated: NDArray[np.bool_]
) -> None:
    """Write what is dropped of a chunk.

    Args:
        documents: [D] `KEPT`, `EXACT` or `NEAR` for each document.
        repeated: [P] true for each paragraph that repeats one of a kept document; [0] if paragraphs
            are not compared.
    """
    write_arrays(f"{folder}/{name}.marks.npz", documents=documents, repeated=repeated)


def without_duplicates(
    records: Iterable[Document | Drop], folder: str, name: str, check: Callable[[str], str]
) -> Iterator[Document | Drop]:
    """The records of a chunk, in which drops replace the documents and paragraphs that are marked.

    What is left of a document that loses paragraphs must be good enough by itself. If it is not,
    it is dropped with the reason of `check` and `AFTER`, such as `too_short_after_dedup`.

    Args:
        folder: where `grouping.find_duplicates` wrote the marks.
        name: of the chunk.
        check: the reason for which cleaning would drop a text, or nothing.

    Raises:
        CorpusError: the records are not those that were compared.
    """
    marks, repeated = read_arrays(f"{folder}/{name}.marks.npz", "documents", "repeated")
    document = paragraph = 0
    for record in records:
        if isinstance(record, Drop):
            yield record
            continue
        document += 1
        if document > len(marks):
            break
        mark = marks[document - 1]
        kept = []
        for line in record.text.split("\n"):
            again = False
            if len(repeated) and is_paragraph(line):
                again = paragraph < len(repeated) and repeated[paragraph]
                paragraph += 1
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
    if document != len(marks) or paragraph != len(repeated):
        raise CorpusError(
            f"{folder}: the text of chunk {name} is not the one in which duplicates were found; do "
            "not change inputs, or files that corpus.cleaning names, while they are read; delete "
            "this folder and run again"
        )
