"""Text to token ids with word starts: exactly the tokenizer's ids, mostly by table look-up.

BERT's tokenizer isolates Han characters and punctuation: such a character has one id whatever
stands beside it, so a table from code points gives it. Stretches of others ("runs": Latin, kana,
digits, emoji, marks) go through real WordPiece once each and are remembered. Which character
is of which kind is found out by asking the tokenizer's own normalizer and pre-tokenizer.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

UNSEEN, SPACE, RUN, PUNCTUATION, HAN = range(5)
PROBE = "a"
REMEMBERED_CHARACTERS = 8_000_000
"""Characters of remembered runs, after which all are forgotten: memory is bounded."""


class Scan(NamedTuple):
    """The characters of a text by kind, L of them."""

    text: str
    codes: NDArray[np.uint32]
    """[L] code points"""
    kinds: NDArray[np.uint8]
    """[L]"""

    @property
    def alone(self) -> NDArray[np.bool_]:
        """[L] true for Han characters and punctuation."""
        return self.kinds >= PUNCTUATION

    def run_bounds(self, breaks: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """[R, 2] begins and ends of runs; a run ends at a break ([L], true where one begins)."""
        run = self.kinds == RUN
        begins = run.copy()
        begins[1:] &= ~run[:-1]
        if breaks is not None:
            begins |= run & breaks
        begin = np.flatnonzero(begins)
        ends = run.copy()
        ends[:-1] &= ~run[1:] | begins[1:]
        return np.stack([begin, np.flatnonzero(ends) + 1], axis=1)

    def runs(self, bounds: NDArray[np.int64]) -> list[str]:
        """The runs within bounds."""
        return [self.text[begin:end] for begin, end in bounds.tolist()]


class Scanner:
    """Kinds of characters, as a tokenizer's normalizer and pre-tokenizer see them."""

    def __init__(self, normalizer: Any, pre_tokenizer: Any) -> None:
        self._normalizer, self._pre_tokenizer = normalizer, pre_tokenizer
        self._kinds = np.zeros(0x110000, np.uint8)

    def scan(self, text: str) -> Scan:
        """Kinds of all characters of a text."""
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        kinds = self._kinds[codes]
        if (unseen := kinds == UNSEEN).any():
            for code in np.unique(codes[unseen]).tolist():
                self._kinds[code] = self._kind(chr(code))
            kinds = self._kinds[codes]
        return Scan(text, codes, kinds)

    def pieces(self, text: str) -> list[str]:
        """What WordPiece gets to see of a text."""
        normal = self._normalizer.normalize_str(text)
        return [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(normal)]

    def _kind(self, character: str) -> int:
        pieces = self.pieces(PROBE + character + PROBE)
        if pieces == [PROBE, PROBE]:
            return SPACE
        if len(pieces) == 3 and pieces[0] == pieces[2] == PROBE and len(pieces[1]) == 1:
            return HAN if unicodedata.category(character)[0] == "L" else PUNCTUATION
        return RUN


class Encoder:
    """Text to ids for one tokenizer; holds tables, so make one a process."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # "[MASK]" in a text is five characters of text, not a mask.
        self._tokenizer.encode_special_tokens = True
        self._scanner = Scanner(tokenizer.normalizer, tokenizer.pre_tokenizer)
        self._ids = np.full(0x110000, -1, np.int32)
        self._runs = _Runs()
        self._unknown_id = tokenizer.token_to_id("[UNK]")
        self._unknown: Counter[str] = Counter()

    def take_unknown(self) -> Counter[str]:
        """Characters that became [UNK] since this was last asked, with their numbers."""
        unknown, self._unknown = self._unknown, Counter()
        return unknown

    def encode(
        self, text: str, boundaries: NDArray[np.bool_], sentence_ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
        """Tokens of S sentences that make up a text of L characters.

        Args:
            boundaries: [L + 1] true where the segmenter begins a word; it counts between two Han
                characters, elsewhere WordPiece decides (a `##` piece continues a word).
            sentence_ends: [S] ascending, the last one L. A word ends with its sentence.

        Returns:
            ids [T], word starts [T], and [S + 1] offsets of the sentences into them; sentences of
            white space have no tokens.
        """
        scan = self._scanner.scan(text)
        length = len(scan.codes)
        sentence_begins = np.zeros(length + 1, np.bool_)
        sentence_begins[0] = True
        sentence_begins[sentence_ends] = True

        alone = np.flatnonzero(scan.alone)
        bounds = scan.run_bounds(sentence_begins[:length])
        if self._runs.characters > REMEMBERED_CHARACTERS:
            self._runs = _Runs()
        runs = self._runs.find(scan.runs(bounds), self._tokenizer)
        sizes = self._runs.offsets[runs + 1] - self._runs.offsets[runs]

        counts = np.zeros(length + 1, np.int64)
        counts[alone + 1] = 1
        counts[bounds[:, 0] + 1] = sizes
        offsets = np.cumsum(counts)
        ids = np.empty(offsets[-1], np.int32)
        starts = np.empty(offsets[-1], np.bool_)

        inside_han = scan.kinds == HAN
        inside_han[1:] &= inside_han[:-1].copy()
        inside_han[:1] = False
        place = offsets[alone]
        found = self._lookup(scan.codes[alone])
        ids[place] = found
        self._count_unknown(scan.codes[alone][found == self._unknown_id], runs)
        starts[place] = (boundaries[:-1] | sentence_begins[:-1] | ~inside_han)[alone]

        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.repeat(offsets[bounds[:, 0]], sizes) + within
        origin = np.repeat(self._runs.offsets[runs], sizes) + within
        ids[place] = self._runs.ids[origin]
        starts[place] = self._runs.starts[origin]
        return ids, starts, np.concatenate([[0], offsets[sentence_ends]])

    def _count_unknown(self, codes: NDArray[np.uint32], runs: NDArray[np.int64]) -> None:
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            self._unknown[chr(code)] += int(count)
        known_badly = runs[np.isin(runs, list(self._runs.unknown))]
        for run, count in zip(*np.unique(known_badly, return_counts=True), strict=True):
            for character in self._runs.unknown[run]:
                self._unknown[character] += int(count)

    def _lookup(self, codes: NDArray[np.uint32]) -> NDArray[np.int32]:
        ids = self._ids[codes]
        if (unseen := ids < 0).any():
            for code in np.unique(codes[unseen]).tolist():
                encoding = self._tokenizer.encode(chr(code), add_special_tokens=False)
                (self._ids[code],) = encoding.ids
            ids = self._ids[codes]
        return ids


class _Runs:
    """Tokens of runs met before, as columns."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.offsets = np.zeros(1, np.int64)
        self.ids = np.zeros(0, np.int32)
        self.starts = np.zeros(0, np.bool_)
        self.unknown: dict[int, str] = {}
        """Of runs with [UNK]: the characters that by themselves are unknown"""
        self.characters = 0

    def find(self, runs: list[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
        """[R] numbers of the runs; new ones are encoded and added."""
        numbers = self.numbers
        if new := list(dict.fromkeys(run for run in runs if run not in numbers)):
            encodings = tokenizer.encode_batch(new, add_special_tokens=False)
            numbers.update({run: number for number, run in enumerate(new, len(numbers))})
            sizes = np.cumsum([len(encoding.ids) for encoding in encodings])
            self.offsets = np.append(self.offsets, sizes + self.offsets[-1])
            ids = [number for encoding in encodings for number in encoding.ids]
            starts = [token[:2] != "##" for encoding in encodings for token in encoding.tokens]
            self.ids = np.append(self.ids, np.array(ids, np.int32))
            self.starts = np.append(self.starts, np.array(starts, np.bool_))
            self.characters += sum(map(len, new))
            unknown = tokenizer.token_to_id("[UNK]")
            for run, encoding in zip(new, encodings, strict=True):
                if unknown in encoding.ids:
                    each = tokenizer.encode_batch(list(run), add_special_tokens=False)
                    self.unknown[numbers[run]] = "".join(
                        character
                        for character, alone in zip(run, each, strict=True)
                        if unknown in alone.ids
                    )
        return np.fromiter(map(numbers.__getitem__, runs), np.int64, len(runs))
