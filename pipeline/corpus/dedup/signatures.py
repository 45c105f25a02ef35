"""Hashes of documents, paragraphs and MinHash bands, by which duplicates are found.

Near duplicates are found with MinHash and locality-sensitive hashing (Broder 1997), by default with
datatrove's 5-grams and 14 bands of 8.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.corpus.randomness import mix
from pipeline.settings.corpus import DedupSettings

PARAGRAPH_CHARACTERS = 20
"""Shorter lines are never duplicates: headlines, dates and 答： repeat in good text."""
NOT_WORDS = re.compile(r"[\W_]+")
SHINGLES_AT_A_TIME = 2048
"""Shingles that are hashed together: few enough that all their hashes stay in the CPU's cache."""


class Signatures(NamedTuple):
    """Hashes of the D documents and P paragraphs of a chunk."""

    documents: NDArray[np.uint64]
    """[D]"""
    bands: NDArray[np.uint64]
    """[bands, D]; D is 0 here if near duplicates are not wanted."""
    paragraphs: NDArray[np.uint64]
    """[P]"""
    paragraph_counts: NDArray[np.int64]
    """[D] paragraphs of each document."""


def sign(texts: Iterable[str], settings: DedupSettings) -> Signatures:
    """Signatures of cleaned documents."""
    documents, bands, paragraphs, counts = [], [], [], []
    for text in texts:
        documents.append(document_hash(text))
        if settings.near_documents:
            bands.append(band_hashes(text, settings.ngram, settings.bands, settings.rows))
        found = filter(is_paragraph, text.split("\n")) if settings.exact_paragraphs else ()
        hashes = [xxhash.xxh3_64_intdigest(line.encode()) for line in found]
        paragraphs += hashes
        counts.append(len(hashes))
    return Signatures(
        np.array(documents, np.uint64),
        np.array(bands, np.uint64).reshape(len(bands), settings.bands).T,
        np.array(paragraphs, np.uint64),
        np.array(counts, np.int64),
    )


def document_hash(text: str) -> int:
    """64-bit hash of a document's cleaned text."""
    return xxhash.xxh3_64_intdigest(text.encode())


def is_paragraph(line: str) -> bool:
    """Whether a line is long enough to count as a duplicate."""
    return len(line) >= PARAGRAPH_CHARACTERS


def shingles(text: str, ngram: int) -> NDArray[np.uint32]:
    """[max(1, L - ngram + 1)] hashes of the n-grams of a text's L lower-case letters and digits."""
    kept = NOT_WORDS.sub("", text.lower())
    codes = np.frombuffer(kept.encode("utf-32-le"), "<u4").astype(np.uint64)
    size = min(ngram, len(codes)) or 1
    codes = codes if len(codes) else np.zeros(1, np.uint64)
    hashes = np.zeros(len(codes) - size + 1, np.uint64)
    for place in range(size):
        hashes = mix(hashes + codes[place : len(codes) - size + 1 + place])
    return (hashes >> np.uint64(32)).astype(np.uint32)


def signature(text: str, ngram: int, hashes: int) -> NDArray[np.uint32]:
    """[hashes] the smallest value of each hash function over the shingles.

    Two texts agree at each place with a probability equal to the Jaccard similarity of their sets
    of shingles.
    """
    factors, terms = _functions(hashes)
    values = shingles(text, ngram)
    smallest = np.full(hashes, 2**32 - 1, np.uint32)
    for first in range(0, len(values), SHINGLES_AT_A_TIME):
        hashed = factors * values[None, first : first + SHINGLES_AT_A_TIME] + terms
        np.minimum(smallest, hashed.min(axis=1), out=smallest)
    return smallest


def band_hashes(text: str, ngram: int, bands: int, rows: int) -> NDArray[np.uint64]:
    """[bands] hashes; two texts that agree in any of them are near duplicates.

    The probability at similarity s is 1 - (1 - s^rows)^bands: 14 bands of 8 rows find a similarity
    of 0.8 with 92 % and one of 0.5 with 5 %.
    """
    values = signature(text, ngram, bands * rows).reshape(bands, rows)
    return np.array([xxhash.xxh3_64_intdigest(band.tobytes()) for band in values], np.uint64)


@functools.cache
def _functions(hashes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Linear functions modulo 2^32 with odd factors, which permute the 32-bit numbers."""
    numbers = mix(np.arange(1, 2 * hashes + 1, dtype=np.uint64)) >> np.uint64(32)
    factors, terms = numbers.astype(np.uint32).reshape(2, hashes, 1)
    return factors | np.uint32(1), terms
