"""What flows through the corpus stages: documents, then sentences, then samples.

Sentences and samples are columns: flat arrays with offsets, as in Arrow, where row i of `values`
is values[offsets[i]:offsets[i + 1]].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Document(NamedTuple):
    """One text with its paragraphs on lines of their own."""

    number: int
    """Which document: 64-bit hash of source file and position in it; stable whoever reads it."""
    text: str
    source: str
    """File (and line or byte) that it came from, for messages and audit."""


class Drop(NamedTuple):
    """A document or line that is left out, and why."""

    reason: str
    text: str
    source: str = ""
    """File and byte, for the report of what was rejected."""
    size: int = 0
    """Bytes of input that could not be read as text, for `max_bad_share`."""


class Sentences(NamedTuple):
    """Tokenized sentences of D documents, S sentences and T tokens in all."""

    ids: NDArray[np.int32]
    """[T] vocabulary ids, no special tokens."""
    word_starts: NDArray[np.bool_]
    """[T] true where a whole word begins."""
    sentence_offsets: NDArray[np.int64]
    """[S + 1] into `ids`."""
    document_offsets: NDArray[np.int64]
    """[D + 1] into sentences."""
    documents: NDArray[np.uint64]
    """[D] document numbers."""


class Pairs(NamedTuple):
    """N samples `[CLS] A [SEP] B [SEP]` of T tokens in all, not masked."""

    input_ids: NDArray[np.int32]
    """[T]"""
    word_starts: NDArray[np.bool_]
    """[T]; special tokens are words of their own."""
    offsets: NDArray[np.int64]
    """[N + 1] into `input_ids`."""
    segment_b_start: NDArray[np.int64]
    """[N] position in the sample where B begins; the sample's length where there is no B."""
    next_sentence_label: NDArray[np.uint8]
    """[N] 0 continuation, 1 random (or swapped, under sentence order)."""
    documents: NDArray[np.uint64]
    """[N] the document that A came from."""


class Masks(NamedTuple):
    """Whole-word masks of N samples, M chosen tokens in all."""

    positions: NDArray[np.int64]
    """[M] position within the sample, ascending in each sample."""
    ids: NDArray[np.int32]
    """[M] what the model sees there: [MASK], a random id, or the original."""
    offsets: NDArray[np.int64]
    """[N + 1] into `positions`."""
