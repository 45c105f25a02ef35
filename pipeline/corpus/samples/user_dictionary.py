"""Extra words for a segmenter, in jieba's format: `word [frequency] [tag]` on each line."""

import re
from collections.abc import Callable
from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.files.storage import read_whole

LINE_END = re.compile(rb"\r\n|\r|\n")
LONGEST_WORD = 100
"""Characters. A longer line is text, not a word: such a file was named by mistake."""
LARGEST_FREQUENCY = 10**9
"""Segmenters add frequencies up in 64 bits; jieba's own dictionary has 60 million in all."""
ENTRY = re.compile(r"(?P<word>.+?)(?:\s+(?P<frequency>[0-9０-９]+))?(?:\s+(?P<tag>[A-Za-z]+))?")
OTHER_FIELDS = re.compile(
    r"[\t,;|，；]\s*\S|[/:：=]\s*\d"  # divided by something else than spaces
    r"|\s[+-]?[\d.]\S*(?:\s|$)|^[\d.]+\s"  # a number that is none, or that comes first
    r"|[^\x00-\x7f]\s+[a-z]{1,4}$"  # a tag before the number
)
"""Signs of other fields than those of jieba, or in another order."""


class Entry(NamedTuple):
    """One word."""

    word: str
    frequency: int | None
    """None: one that makes the segmenter cut out the word; 0: never a word."""
    tag: str


def read_user_dictionary(path: str, clean: Callable[[str], str] = lambda word: word) -> list[Entry]:
    """The words of a dictionary file in UTF-8; empty lines are left out.

    Args:
        clean: how the text is cleaned. A word that it changes would never be found in the text.

    Raises:
        ConfigError: the file can't be read, has no words, or has a line that is not an entry, or
            whose word `clean` changes.
    """
    entries = [
        _entry(line, f"corpus.user_dictionary: {path}, line {number}", clean)
        for number, line in enumerate(LINE_END.split(read_bytes(path)), 1)
        if line.strip()
    ]
    if not entries:
        raise ConfigError(f"corpus.user_dictionary: {path}: it holds no words")
    return entries


def read_bytes(path: str) -> bytes:
    """The content of a dictionary file, or of its URL, without a byte-order mark.

    Raises:
        ConfigError: it can't be read.
        StorageError: no package knows the URL, or the store can't be reached.
    """
    try:
        return read_whole(path).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise ConfigError(f"corpus.user_dictionary: {path}: {reason}") from None


def _entry(line: bytes, place: str, clean: Callable[[str], str]) -> Entry:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{place}: not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        raise ConfigError(f"{place}: holds a NUL character; save the file as UTF-8")
    found = ENTRY.fullmatch(" ".join(text.split()) if "\t" in text else text)
    if not found or OTHER_FIELDS.search(found["word"]):
        raise ConfigError(
            f"{place}: {_short(text)} is not `word [frequency] [tag]`, with spaces between them "
            "and a whole number as frequency"
        )
    if len(found["word"]) > LONGEST_WORD:
        raise ConfigError(
            f"{place}: a word of {len(found['word']):,} characters ({_short(text)}), the most is "
            f"{LONGEST_WORD}"
        )
    if (cleaned := clean(found["word"])) != found["word"]:
        raise ConfigError(
            f"{place}: {_short(found['word'])} is {_short(cleaned)} in the text, as "
            "corpus.cleaning changes it; write it so in the dictionary"
        )
    digits = found["frequency"]
    if digits and (len(digits) > 20 or int(digits) > LARGEST_FREQUENCY):
        raise ConfigError(
            f"{place}: frequency {_short(digits)} is too large, the most is {LARGEST_FREQUENCY:,}"
        )
    return Entry(found["word"], int(digits) if digits else None, found["tag"] or "")


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "…")
