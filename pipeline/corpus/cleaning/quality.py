"""Filters of text quality: each compares a document with a setting, and is off by default.

The rules are those of Gopher (Rae et al. 2021, table A1), C4 (Raffel et al. 2020, section 2.2) and
CCNet (Wenzek et al. 2020, language and perplexity), where characters stand for words.
`settings.corpus.WEB` has the thresholds for Chinese.
"""

import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.corpus.characters import CharacterTable, code_points
from pipeline.corpus.cleaning import languages
from pipeline.corpus.randomness import mix
from pipeline.errors import ConfigError
from pipeline.files.storage import filesystem, read_whole
from pipeline.settings.corpus import CleaningSettings

NGRAM = 10
"""Characters of an n-gram: about as long as six words, of which Gopher counts five to ten."""
FUNCTION_CHARACTERS = (
    "的一是了我不在有人这他们来到个上大中就说为以和地也子时道出而要于之其与及或被把从向"
    "這們來個說為時於與從"
)
"""Characters that are frequent in every kind of Chinese prose, and rare in lists of names or goods;
at the end, traditional forms of those before. Gopher asks for two of eight English stop words."""
PUNCTUATION = set("，。、；：？！“”‘’（）《》〈〉【】「」『』…—·,.;:?!'\"()[]-%")
"""Signs of ordinary prose, which count as neither symbols nor letters."""
CONTEXTS = 1 << 20
"""Cells for the counts of pairs and triples of characters; a collision adds two counts."""
SMOOTHING = (0.6, 0.3, 0.1)
"""Weights of triples, pairs and single characters."""
TRAINED_CHARACTERS = 20_000_000
"""Most characters of the good text that are counted: each worker needs some seconds for them."""


class Named(NamedTuple):
    """The contents of the files that the settings name; None where they name no file."""

    flagged: re.Pattern[str] | None
    good: "CharacterModel | None"


def versions(settings: CleaningSettings) -> tuple[str, ...]:
    """A stamp of each named file, which changes when the file changes; empty if none is named.

    Raises:
        ConfigError: a file can't be read.
    """
    return _of_each(_version, settings)


def content_hashes(settings: CleaningSettings) -> tuple[str, ...]:
    """A hash of each named file, for fingerprints; empty if none is named.

    Raises:
        ConfigError: a file can't be read.
    """
    return _of_each(_content_hash, settings)


def reason_to_drop(text: str, settings: CleaningSettings, named: Named) -> str:
    """The first filter that a clean text does not pass; empty if it passes all."""
    if settings.max_symbols < 1 and symbol_share(text) > settings.max_symbols:
        return "digits_and_symbols"
    if settings.min_function_characters and (
        function_share(text) < settings.min_function_characters
    ):
        return "few_function_characters"
    if settings.max_repeated_ngrams < 1 and (
        repeated_ngram_share(text) > settings.max_repeated_ngrams
    ):
        return "repeated_ngrams"
    if named.flagged and flagged_share(text, named.flagged) > settings.max_flagged:
        return "flagged_words"
    wanted = settings.languages
    if wanted and languages.probability(text, wanted) < settings.min_language_probability:
        return "other_language"
    if named.good and named.good.perplexity(text) > settings.max_perplexity:
        return "high_perplexity"
    return ""


def symbol_share(text: str) -> float:
    """Share of the visible characters that are digits or symbols, ordinary punctuation excepted."""
    kinds = _kinds().look_up(code_points(text))
    return int((kinds == 2).sum()) / max(1, int((kinds > 0).sum()))


def function_share(text: str) -> float:
    """Share of the visible characters that are `FUNCTION_CHARACTERS`."""
    codes = code_points(text)
    wanted = np.array([ord(character) for character in FUNCTION_CHARACTERS], np.uint32)
    return int(np.isin(codes, wanted).sum()) / max(1, int((codes > 0x20).sum()))


def repeated_ngram_share(text: str) -> float:
    """Share of the characters that lie in an n-gram which occurred earlier in the text."""
    codes = code_points(text).astype(np.uint64)
    if len(codes) <= NGRAM:
        return 0.0
    count = len(codes) - NGRAM + 1
    hashes = np.zeros(count, np.uint64)
    for place in range(NGRAM):
        hashes = mix(hashes + codes[place : place + count])
    _, first = np.unique(hashes, return_index=True)
    again = np.ones(count, np.int64)
    again[first] = 0
    # A character is covered if one of the n-grams that contain it is repeated.
    return int((np.convolve(again, np.ones(NGRAM, np.int64)) > 0).sum()) / len(codes)


def flagged_share(text: str, pattern: re.Pattern[str]) -> float:
    """Share of the characters that belong to flagged words."""
    return sum(len(found) for found in pattern.findall(text)) / max(1, len(text))


def flagged_pattern(path: str, clean: Callable[[str], str]) -> re.Pattern[str]:
    """The words of a list, one a line, as a pattern that prefers longer words.

    Args:
        clean: how the text is cleaned; a word would not be found in it as the list writes it.

    Raises:
        ConfigError: the list can't be read or is empty, or cleaning leaves nothing of a word.
    """
    lines = [line.strip() for line in _read(path, "flagged_words").splitlines()]
    words = {line: clean(line) for line in lines if line}
    if not words:
        raise ConfigError(f"corpus.cleaning.flagged_words: {path} holds no words, one a line")
    if lost := next((word for word, cleaned in words.items() if not cleaned.strip()), ""):
        raise ConfigError(
            f"corpus.cleaning.flagged_words: {path}: {lost!r:.60} is not in any text, because "
            "corpus.cleaning removes it; delete the line"
        )
    return any_of(words.values())


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds words, of those with the same beginning the longest one.

    `re` tries one word after another. So words are put into groups by their first characters, and a
    group is tried at these characters only: lists may have tens of thousands of words.
    """
    ordered = sorted(set(words), key=lambda word: (word[0], -len(word)))
    groups: list[list[str]] = [[]]
    for _, same in itertools.groupby(ordered, key=lambda word: word[0]):
        if len(groups[-1]) > math.isqrt(len(ordered)):
            groups.append([])
        groups[-1].extend(same)
    patterns = []
    for group in groups:
        first = "".join(map(re.escape, sorted({word[0] for word in group})))
        patterns.append(f"(?=[{first}])(?:{'|'.join(map(re.escape, group))})")
    return re.compile("|".join(patterns))


class CharacterModel:
    """Probabilities of characters after the two before them, by interpolated counts of a text."""

    def __init__(self, text: str) -> None:
        codes = code_points(text)
        self._total = len(codes)
        single, pair, triple = _contexts(codes)
        self._singles = np.bincount(single, minlength=0x110000)
        self._pairs = np.bincount(pair, minlength=CONTEXTS)
        self._triples = np.bincount(triple, minlength=CONTEXTS)

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-probability of the characters."""
        codes = code_points(text)
        single, pair, triple = _contexts(codes)
        singles, pairs = self._singles[single], self._pairs[pair]
        shares = (
            self._triples[triple][1:] / np.maximum(1, pairs[:-1]),
            pairs[1:] / np.maximum(1, singles[:-1]),
            (singles[1:] + 0.1) / (self._total + 0.1 * len(self._singles)),
        )
        chances = sum(weight * share for weight, share in zip(SMOOTHING, shares, strict=True))
        return float(np.exp(-np.log(np.minimum(1, chances)).mean())) if len(codes) > 1 else 1.0


def load_model(path: str) -> CharacterModel:
    """The model of a plain text in UTF-8.

    Raises:
        ConfigError: the text can't be read or is too short.
    """
    text = _read(path, "good_text")[:TRAINED_CHARACTERS]
    if len(text) < 1000:
        raise ConfigError(
            f"corpus.cleaning.good_text: {path} has {len(text)} characters; give it a text of the "
            "kind that you want, of a million characters or more"
        )
    return CharacterModel(text)


def _of_each(describe: Callable[[str, str], str], settings: CleaningSettings) -> tuple[str, ...]:
    """What a function says of the file of flagged words, and of that of good text."""
    files = {"flagged_words": settings.flagged_words, "good_text": settings.good_text}
    return tuple(describe(path, setting) if path else "" for setting, path in files.items())


def _read(path: str, setting: str) -> str:
    try:
        return read_whole(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"corpus.cleaning.{setting}: {path}: {error}") from None


def _content_hash(path: str, setting: str) -> str:
    return xxhash.xxh3_128_hexdigest(_read(path, setting).encode())


def _version(path: str, setting: str) -> str:
    """A hash of the size and time of a file, or of what else its file system knows of it."""
    system, inner = filesystem(path)
    try:
        return system.ukey(inner)
    except OSError as error:
        raise ConfigError(f"corpus.cleaning.{setting}: {path}: {error}") from None


def _contexts(codes: NDArray[np.uint32]) -> list[NDArray[np.uint64]]:
    """[3, L] cells of each character alone, with the one before it, and with the two before it."""
    last = codes.astype(np.uint64)
    cells = [last]
    for _ in range(2):
        before = np.concatenate([np.zeros(1, np.uint64), last[:-1]])
        last = mix(mix(before) + codes)
        cells.append(last % np.uint64(CONTEXTS))
    return cells


@functools.cache
def _kinds() -> CharacterTable:
    """0 for white space, 1 for letters and ordinary punctuation, 2 for digits and symbols."""
    return CharacterTable(np.int8, _kind)


def _kind(character: str) -> int:
    if character.isspace():
        return 0
    ordinary = unicodedata.category(character)[0] in "LM" or character in PUNCTUATION
    return 1 if ordinary else 2
