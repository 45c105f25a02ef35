"""Hashes of documents, lines and MinHash bands, by which duplicates are found.

Near duplicates are found with MinHash and locality-sensitive hashing (Broder 1997), by default with
datatrove's 5-grams and 14 bands of 8.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of, ranges
from pipeline.corpus.randomness import mix
from pipeline.corpus.records import batches
from pipeline.settings.corpus import DedupSettings

PARAGRAPH_CHARACTERS = 20
"""Shorter lines are never repeated paragraphs: headlines, dates and 答： repeat in good text."""
NOT_WORDS = re.compile(r"[\W_]+")
CHARACTERS_AT_A_TIME = 1 << 16
"""Characters that are signed together: many enough that the calls of numpy cost little beside their
work, and few enough that one hash of each stays in the CPU's cache."""


class Signatures(NamedTuple):
    """Hashes of the D documents and L compared lines of a chunk."""

    documents: NDArray[np.uint64]
    """[D]"""
    bands: NDArray[np.uint64]
    """[bands, D]; D is 0 here if near duplicates are not wanted."""
    lines: NDArray[np.uint64]
    """[L]"""
    line_sizes: NDArray[np.int32]
    """[L] characters of each line."""
    line_counts: NDArray[np.int64]
    """[D] compared lines of each document."""
    lengths: NDArray[np.int64]
    """[D] characters of each document."""


def sign(texts: Iterable[str], settings: DedupSettings) -> Signatures:
    """Signatures of cleaned documents."""
    documents, lines, counts, lengths = [], [], [], []
    sizes: list[int] = []
    bands = [np.zeros((settings.bands, 0), np.uint64)]
    for batch in batches(texts, len, CHARACTERS_AT_A_TIME):
        if settings.near_documents:
            bands.append(band_hashes(batch, settings.ngram, settings.bands, settings.rows))
        for text in batch:
            documents.append(document_hash(text))
            compared = text.split("\n") if settings.compares_lines else ()
            found = [line for line in compared if is_compared(line, settings)]
            lines += [xxhash.xxh3_64_intdigest(line.encode()) for line in found]
            sizes += map(len, found)
            counts.append(len(found))
            lengths.append(len(text))
    return Signatures(
        np.array(documents, np.uint64),
        np.concatenate(bands, axis=1),
        np.array(lines, np.uint64),
        np.array(sizes, np.int32),
        np.array(counts, np.int64),
        np.array(lengths, np.int64),
    )


def document_hash(text: str) -> int:
    """64-bit hash of a document's cleaned text, whatever its case, white space and normal form.

    Texts that differ in these alone can give the same tokens.
    """
    folded = unicodedata.normalize("NFC", text).lower()
    return xxhash.xxh3_64_intdigest("".join(folded.split()).encode())


def is_compared(line: str, settings: DedupSettings) -> bool:
    """Whether a line is compared: a paragraph, or for boilerplate each line that is not blank."""
    if settings.boilerplate_documents:
        return bool(line) and not line.isspace()
    return settings.exact_paragraphs and len(line) >= PARAGRAPH_CHARACTERS


def shingles(texts: Sequence[str], ngram: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Hashes of the n-grams of the lower-case letters and digits of texts; of all characters, where
    a text has neither, so that signs are no duplicates of other signs.

    Returns:
        [H] the hashes, one text after another, and [T + 1] their offsets. A text of L characters
        has max(1, L - ngram + 1) n-grams; the only one of a shorter text is the whole text.
    """
    # A zero stands for an empty text, and also fills up the last n-grams.
    kept = [NOT_WORDS.sub("", text.lower()) or text or "\0" for text in texts]
    lengths = np.array([len(text) for text in kept], np.int64)
    data = ("".join(kept) + "\0" * ngram).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(data, "<u4").astype(np.uint64)
    total = len(codes) - ngram
    starts = offsets_of(lengths)[:-1]
    short = lengths < ngram
    hashes = np.zeros(total, np.uint64)
    of_short = np.zeros(np.count_nonzero(short), np.uint64)
    for place in range(ngram):
        hashes = mix(hashes + codes[place : total + place])
        ends = lengths[short] == place + 1
        of_short[ends] = hashes[starts[short][ends]]
    hashes[starts[short]] = of_short
    counts = np.maximum(1, lengths - ngram + 1)
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    return values[ranges(starts, counts)], offsets_of(counts)


def min_hashes(texts: Sequence[str], ngram: int, hashes: int) -> NDArray[np.uint32]:
    """[hashes, T] the smallest value of each hash function over the shingles of each text.

    Two texts agree in each row with a probability equal to the Jaccard similarity of their sets of
    shingles.
    """
    factors, terms = _functions(hashes)
    values, offsets = shingles(texts, ngram)
    smallest = np.empty((hashes, len(texts)), np.uint32)
    hashed = np.empty_like(values)
    for number in range(hashes):
        np.multiply(values, factors[number], out=hashed)
        hashed += terms[number]
        np.minimum.reduceat(hashed, offsets[:-1], out=smallest[number])
    return smallest


def band_hashes(texts: Sequence[str], ngram: int, bands: int, rows: int) -> NDArray[np.uint64]:
    """[bands, T] hashes; two texts that agree in any of them are near duplicates.

    The probability at similarity s is 1 - (1 - s^rows)^bands: 14 bands of 8 rows find a similarity
    of 0.8 with 92 % and one of 0.5 with 5 %.
    """
    values = min_hashes(texts, ngram, bands * rows).reshape(bands, rows, len(texts))
    # [bands, T, rows], so that the bytes of a band of a text lie together.
    data = np.ascontiguousarray(values.transpose(0, 2, 1)).tobytes()
    size = 4 * rows
    found = [
        xxhash.xxh3_64_intdigest(data[begin : begin + size]) for begin in range(0, len(data), size)
    ]
    return np.array(found, np.uint64).reshape(bands, len(texts))


@functools.cache
def _functions(hashes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Linear functions modulo 2^32 with odd factors, which permute the 32-bit numbers."""
    numbers = mix(np.arange(1, 2 * hashes + 1, dtype=np.uint64)) >> np.uint64(32)
    factors, terms = numbers.astype(np.uint32).reshape(2, hashes, 1)
    return factors | np.uint32(1), terms
