"""Text to token ids with word starts: exactly the tokenizer's ids, mostly by table look-up.

A Han character or punctuation mark has one id whatever is beside it, so a table from code points
gives it. A span of other characters (see `characters`) goes through WordPiece once and is
remembered.
"""

import functools
import os
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.corpus.arrays import offsets_of, ranges
from pipeline.corpus.characters import HAN, CharacterTable, Scanner
from pipeline.corpus.samples.vocabulary import build_tokenizer

REMEMBERED_CHARACTERS = 8_000_000
"""When the remembered spans have more characters, all are forgotten, so that memory is bounded."""


class Encoded(NamedTuple):
    """The T tokens of S sentences."""

    ids: NDArray[np.int32]
    """[T]"""
    word_starts: NDArray[np.bool_]
    """[T] true where a word begins."""
    offsets: NDArray[np.int64]
    """[S + 1] of the sentences into the two above; white space has no tokens."""
    unknown: Counter[str]
    """Characters that became [UNK], with their numbers."""


class Encoder:
    """Encodes with one tokenizer. It holds large tables, so a process needs only one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # "[MASK]" in a text is six characters of text, not a mask.
        self._tokenizer.encode_special_tokens = True
        self._scanner = Scanner(tokenizer.normalizer, tokenizer.pre_tokenizer)
        self._ids = CharacterTable(np.int32, self._id_of)
        self._spans = _Spans()

    def encode(
        self, text: str, boundaries: NDArray[np.bool_], sentence_ends: NDArray[np.int64]
    ) -> Encoded:
        """Encode the S sentences that make up a text of L characters.

        Args:
            boundaries: [L + 1] true where the segmenter begins a word. It counts between two Han
                characters; elsewhere WordPiece decides (a `##` piece continues a word).
            sentence_ends: [S] ascending; the last one is L. A word ends with its sentence.
        """
        scan = self._scanner.scan(text)
        length = len(scan.codes)
        sentence_begins = np.zeros(length + 1, np.bool_)
        sentence_begins[0] = True
        sentence_begins[sentence_ends] = True

        single = np.flatnonzero(scan.single)
        bounds = scan.span_bounds(sentence_begins[:length])
        if self._spans.characters > REMEMBERED_CHARACTERS:
            self._spans = _Spans()
        spans = self._spans.find(scan.spans(bounds), self._tokenizer)
        sizes = self._spans.offsets[spans + 1] - self._spans.offsets[spans]

        counts = np.zeros(length, np.int64)
        counts[single] = 1
        counts[bounds[:, 0]] = sizes
        offsets = offsets_of(counts)
        ids = np.empty(offsets[-1], np.int32)
        starts = np.empty(offsets[-1], np.bool_)

        inside_han = scan.kinds == HAN
        inside_han[1:] &= inside_han[:-1].copy()
        inside_han[:1] = False
        place = offsets[single]
        found = self._ids.look_up(scan.codes[single])
        ids[place] = found
        starts[place] = (boundaries[:-1] | sentence_begins[:-1] | ~inside_han)[single]

        place = ranges(offsets[bounds[:, 0]], sizes)
        origin = ranges(self._spans.offsets[spans], sizes)
        ids[place] = self._spans.ids[origin]
        starts[place] = self._spans.starts[origin]
        unknown = self._count_unknown(scan.codes[single][found == self.vocabulary["[UNK]"]], spans)
        return Encoded(ids, starts, np.concatenate([[0], offsets[sentence_ends]]), unknown)

    def _count_unknown(self, codes: NDArray[np.uint32], spans: NDArray[np.int64]) -> Counter[str]:
        unknown: Counter[str] = Counter()
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            unknown[chr(code)] += int(count)
        with_unknown = spans[np.isin(spans, list(self._spans.unknown))]
        for span, count in zip(*np.unique(with_unknown, return_counts=True), strict=True):
            for character in self._spans.unknown[span]:
                unknown[character] += int(count)
        return unknown

    def _id_of(self, character: str) -> int:
        (number,) = self._tokenizer.encode(character, add_special_tokens=False).ids
        return number


class _Spans:
    """The tokens of the spans that were encoded before, end to end."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.offsets = np.zeros(1, np.int64)
        self.ids = np.zeros(0, np.int32)
        self.starts = np.zeros(0, np.bool_)
        self.unknown: dict[int, str] = {}
        """For spans with [UNK]: the characters that are unknown by themselves."""
        self.characters = 0

    def find(self, spans: list[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
        """[R] numbers of the spans; new spans are encoded and added."""
        numbers = self.numbers
        if new := list(dict.fromkeys(span for span in spans if span not in numbers)):
            encodings = tokenizer.encode_batch(new, add_special_tokens=False)
            numbers.update({span: number for number, span in enumerate(new, len(numbers))})
            sizes = np.cumsum([len(encoding.ids) for encoding in encodings])
            self.offsets = np.append(self.offsets, sizes + self.offsets[-1])
            ids = [number for encoding in encodings for number in encoding.ids]
            starts = [token[:2] != "##" for encoding in encodings for token in encoding.tokens]
            self.ids = np.append(self.ids, np.array(ids, np.int32))
            self.starts = np.append(self.starts, np.array(starts, np.bool_))
            self.characters += sum(map(len, new))
            unknown = tokenizer.token_to_id("[UNK]")
            for span, encoding in zip(new, encodings, strict=True):
                if unknown in encoding.ids:
                    each = tokenizer.encode_batch(list(span), add_special_tokens=False)
                    self.unknown[numbers[span]] = "".join(
                        character
                        for character, alone in zip(span, each, strict=True)
                        if unknown in alone.ids
                    )
        return np.fromiter(map(numbers.__getitem__, spans), np.int64, len(spans))


@functools.lru_cache(maxsize=2)
def load_encoder(vocab: str, lowercase: bool, vocab_sha256: str) -> Encoder:
    """The encoder of this process for a vocabulary.

    A worker may outlive a preparation, and the next one's vocabulary may have the same path but
    another hash.
    """
    # A worker has one CPU; the tokenizer's own threads would compete for it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Encoder(build_tokenizer(vocab, lowercase))
