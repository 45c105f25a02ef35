"""Kinds of characters, as a tokenizer's normalizer and pre-tokenizer treat them.

BERT's tokenizer isolates Han characters and punctuation: such a character is a word by itself,
whatever is beside it. All others (Latin, kana, digits, emoji, combining marks) form spans, which
WordPiece must encode as a whole.
"""

import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

SPACE, IN_SPAN, PUNCTUATION, HAN = range(4)
PROBE = "a"


def code_points(text: str) -> NDArray[np.uint32]:
    """[L] code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class CharacterTable:
    """A number, at least 0, for each character: computed when first needed, then looked up."""

    def __init__(self, dtype: DTypeLike, compute: Callable[[str], int]) -> None:
        self._values = np.full(0x110000, -1, dtype)
        self._compute = compute

    def look_up(self, codes: NDArray[np.uint32]) -> NDArray:
        """The numbers of characters given by code point, in an array of the same shape."""
        values = self._values[codes]
        if (unseen := values < 0).any():
            for code in np.unique(codes[unseen]).tolist():
                self._values[code] = self._compute(chr(code))
            values = self._values[codes]
        return values


class Scan(NamedTuple):
    """The L characters of a text by kind."""

    text: str
    codes: NDArray[np.uint32]
    """[L] code points"""
    kinds: NDArray[np.int8]
    """[L]"""

    @property
    def single(self) -> NDArray[np.bool_]:
        """[L] true for Han characters and punctuation."""
        return self.kinds >= PUNCTUATION

    def span_bounds(self, breaks: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """[R, 2] begin and end of each span. `breaks` ([L]) is true where a span must not go on."""
        inside = self.kinds == IN_SPAN
        begins = inside.copy()
        begins[1:] &= ~inside[:-1]
        if breaks is not None:
            begins |= inside & breaks
        begin = np.flatnonzero(begins)
        ends = inside.copy()
        ends[:-1] &= ~inside[1:] | begins[1:]
        return np.stack([begin, np.flatnonzero(ends) + 1], axis=1)

    def spans(self, bounds: NDArray[np.int64]) -> list[str]:
        """The texts of the spans with these bounds."""
        return [self.text[begin:end] for begin, end in bounds.tolist()]


class Scanner:
    """Finds the kind of each character by asking the normalizer and pre-tokenizer, once each."""

    def __init__(self, normalizer: Any, pre_tokenizer: Any) -> None:
        self._normalizer, self._pre_tokenizer = normalizer, pre_tokenizer
        self._kinds = CharacterTable(np.int8, self._kind)

    def scan(self, text: str) -> Scan:
        """Kinds of all characters of a text."""
        codes = code_points(text)
        return Scan(text, codes, self._kinds.look_up(codes))

    def words(self, text: str) -> list[str]:
        """The words that WordPiece receives for a text, normalised."""
        normal = self._normalizer.normalize_str(text)
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(normal)]

    def _kind(self, character: str) -> int:
        words = self.words(PROBE + character + PROBE)
        if words == [PROBE, PROBE]:
            return SPACE
        if len(words) == 3 and words[0] == words[2] == PROBE and len(words[1]) == 1:
            return HAN if unicodedata.category(character)[0] == "L" else PUNCTUATION
        return IN_SPAN
