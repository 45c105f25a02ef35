"""What is dropped of each chunk: marks of its documents and lines, and their use.

The first pass over the corpus signs every chunk (`signatures`), `grouping` compares the signatures
and writes the marks, and the second pass reads the marks of its own chunk.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dedup.array_files import read_arrays, write_arrays
from pipeline.corpus.dedup.signatures import Signatures, is_compared
from pipeline.corpus.records import Document, Drop
from pipeline.errors import CorpusError
from pipeline.settings.corpus import DedupSettings

KEPT, EXACT, NEAR, NEAR_HELDOUT = range(4)
REASONS = ("", "duplicate_document", "near_duplicate_document", "near_heldout_document")
"""Reason of a drop, by mark."""
SINGLE, FIRST, REPEATED, BOILERPLATE = range(4)
"""Marks of lines: one that stays; a paragraph that stays and is removed from other documents; one
that repeats a paragraph of a kept document; a line of many documents."""
LINE_REASONS = ("", "", "duplicate_paragraph", "boilerplate_line")
"""Reason of a drop, by mark."""
LOST = "lost_paragraph"
"""Reason of a paragraph whose copies are removed elsewhere, in a document that is dropped then."""
AFTER = "_after_dedup"
REPORT = "duplicates.jsonl"


class Marks(NamedTuple):
    """Which of a chunk's D documents and L compared lines are dropped."""

    documents: NDArray[np.uint8]
    """[D] `KEPT`, `EXACT`, `NEAR` or `NEAR_HELDOUT`"""
    lines: NDArray[np.uint8]
    """[L] `SINGLE`, `FIRST`, `REPEATED` or `BOILERPLATE`; [0] if lines are not compared."""
    shown: NDArray[np.int64]
    """[N, 2] lines of this chunk that the report shows, and their numbers of documents."""


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


def write_marks(folder: str, name: str, marks: Marks) -> None:
    """Write what is dropped of a chunk."""
    write_arrays(f"{folder}/{name}.marks.npz", **marks._asdict())


def read_marks(folder: str, name: str) -> Marks:
    """The marks of a chunk."""
    return Marks(*read_arrays(f"{folder}/{name}.marks.npz", *Marks._fields))


def without_duplicates(
    records: Iterable[Document | Drop],
    folder: str,
    name: str,
    settings: DedupSettings,
    check: Callable[[str], str],
    shown: list[tuple[str, int]],
) -> Iterator[Document | Drop]:
    """The records of a chunk, in which drops replace the documents and lines that are marked.

    What is left of a document that loses lines must be good enough by itself. If it is not, it is
    dropped with the reason of `check` and `AFTER`, such as `too_short_after_dedup`. A paragraph of
    it that other documents lost because it stands here is counted as `LOST`.

    Args:
        folder: where `grouping.find_duplicates` wrote the marks.
        name: of the chunk.
        check: the reason for which cleaning would drop a text, or nothing.
        shown: gets the lines that the report shows, with their numbers of documents.

    Raises:
        CorpusError: the records are not those that were compared.
    """
    marks = read_marks(folder, name)
    of_lines, frequent = marks.lines.tolist(), dict(marks.shown.tolist())
    document = number = 0
    for record in records:
        if isinstance(record, Drop):
            yield record
            continue
        document += 1
        if document > len(marks.documents):
            break
        mark = marks.documents[document - 1]
        kept, first = [], []
        for line in record.text.split("\n"):
            of_line = SINGLE
            if is_compared(line, settings):
                of_line = of_lines[number] if number < len(of_lines) else SINGLE
                if number in frequent:
                    shown.append((line, frequent[number]))
                number += 1
            if mark == KEPT and LINE_REASONS[of_line]:
                yield Drop(LINE_REASONS[of_line], line, record.place)
                continue
            kept.append(line)
            if of_line == FIRST:
                first.append(line)
        if mark != KEPT:
            yield Drop(REASONS[mark], record.text, record.place)
            continue
        text = "\n".join(kept)
        if text != record.text and (reason := check(text)):
            yield from (Drop(LOST, line, record.place) for line in first)
            yield Drop(reason + AFTER, text, record.place)
        else:
            yield record._replace(text=text)
    if document != len(marks.documents) or number != len(of_lines):
        raise CorpusError(
            f"{folder}: the text of chunk {name} is not the one in which duplicates were found; do "
            "not change inputs, or files that corpus.cleaning names, while they are read; delete "
            "this folder and run again"
        )
