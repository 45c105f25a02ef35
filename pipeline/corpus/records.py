"""What flows through the stages of preparation: documents, then sentences, then samples.

Sentences and samples are stored as in Arrow: flat arrays with offsets, where row i of `values` is
values[offsets[i]:offsets[i + 1]].
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Document(NamedTuple):
    """One text, with each paragraph on a line of its own."""

    number: int
    """64-bit hash of the file's name and the place in it: the same for every reader."""
    text: str
    place: str
    """`file:byte` (Parquet: `file:row`) where it begins, for messages and reports."""


class Drop(NamedTuple):
    """A document or line that is left out, and the reason."""

    reason: str
    text: str
    place: str = ""
    """`file:byte` where it begins."""
    size: int = 0
    """Bytes of input that could not be read as text; `corpus.max_bad_share` limits them."""
    fault: str = ""
    """What is wrong with what is malformed; of JSON it is found when it is told."""


class Sentences(NamedTuple):
    """Tokenized sentences: D documents with S sentences and T tokens in all."""

    ids: NDArray[np.int32]
    """[T] vocabulary ids, without special tokens."""
    word_starts: NDArray[np.bool_]
    """[T] true where a whole word begins."""
    sentence_offsets: NDArray[np.int64]
    """[S + 1] into `ids`."""
    document_offsets: NDArray[np.int64]
    """[D + 1] into the sentences."""
    documents: NDArray[np.uint64]
    """[D] document numbers."""


class Pairs(NamedTuple):
    """N samples `[CLS] A [SEP] B [SEP]` with T tokens in all, not masked."""

    input_ids: NDArray[np.int32]
    """[T]"""
    word_starts: NDArray[np.bool_]
    """[T] true where a whole word begins; each special token is a word."""
    offsets: NDArray[np.int64]
    """[N + 1] into `input_ids`."""
    segment_b_start: NDArray[np.int64]
    """[N] position in the sample where B begins; the sample's length if there is no B."""
    next_sentence_label: NDArray[np.uint8]
    """[N] 0: B continues A; 1: B is random (task `nsp`) or swapped with A (`sop`); 255: no B."""
    documents: NDArray[np.uint64]
    """[N] number of the document that A comes from."""


class Masks(NamedTuple):
    """Whole-word masks of N samples, with M masked tokens in all."""

    positions: NDArray[np.int64]
    """[M] position in the sample, ascending within each sample."""
    ids: NDArray[np.int32]
    """[M] the id that the model sees there: [MASK], a random id, or the original."""
    offsets: NDArray[np.int64]
    """[N + 1] into `positions`."""


def batches(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Consecutive items, in lists that end where their sizes add up to `limit` or more."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
