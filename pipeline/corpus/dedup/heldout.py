"""Held-out documents that also stand in the training text, found by hashes of cleaned text."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dedup.array_files import map_array, write_array
from pipeline.corpus.dedup.marks import read_signatures
from pipeline.corpus.dedup.signatures import document_hash
from pipeline.corpus.records import Document, Drop

REASON = "heldout_document"
HASHES = "hashes.npy"


def gather_hashes(folder: str, chunks: Sequence[str]) -> None:
    """Write one sorted array of the hashes of all held-out documents.

    Args:
        folder: where the signatures of the held-out chunks are, and the array goes.
        chunks: names of the chunks.
    """
    columns = [read_signatures(folder, name, "documents")[0] for name in chunks]
    hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *columns]))
    write_array(f"{folder}/{HASHES}", hashes)


def without_heldout(records: Iterable[Document | Drop], folder: str) -> Iterator[Document | Drop]:
    """The records; documents that are also in the held-out text become drops."""
    hashes = _hashes(folder)
    for record in records:
        if isinstance(record, Document):
            number = np.uint64(document_hash(record.text))
            place = np.searchsorted(hashes, number)
            if place < len(hashes) and hashes[place] == number:
                yield Drop(REASON, record.text, record.place)
                continue
        yield record


@functools.lru_cache(maxsize=2)
def _hashes(folder: str) -> NDArray[np.uint64]:
    """The sorted hashes. A worker that has read a folder once remembers it."""
    return map_array(f"{folder}/{HASHES}")
