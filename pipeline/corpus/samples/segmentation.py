"""The boundaries of Chinese words.

rjieba is the default: between Han characters it finds the same boundaries as jieba (a test compares
them on a corpus), 16 times as fast. To add a segmenter, register an entry point of the group
`nezha_pretrain.segmenters`: a callable that takes the local path of the user dictionary, or "" for
none, and returns a `Segmenter`.
"""

import functools
import hashlib
import importlib.metadata
import logging
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.samples.user_dictionary import Entry, read_bytes, read_user_dictionary
from pipeline.errors import ConfigError, CorpusError
from pipeline.files.urls import is_url

GROUP = "nezha_pretrain.segmenters"
HAN_PAIR = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]{2}")
TESTED_WORDS = 100_000
"""Most words of a user dictionary that are tested, in a few seconds."""


class Segmenter(NamedTuple):
    """A way to cut text into words."""

    identity: str
    """Name, version and dictionaries; part of the corpus fingerprint."""
    cut: Callable[[str], Iterable[str]]
    """Cuts a text into words, which together are the text."""


def load_segmenter(name: str, user_dictionary: str = "") -> Segmenter:
    """The segmenter that the setting names.

    Raises:
        ConfigError: there is no such segmenter, or the user dictionary can't be read.
    """
    return _load(name, user_dictionary, _user(user_dictionary))


@functools.lru_cache(maxsize=4)
def _load(name: str, user_dictionary: str, digest: str) -> Segmenter:
    if name in BUILT_IN:
        return BUILT_IN[name](user_dictionary)
    found = importlib.metadata.entry_points(group=GROUP)
    if name not in found.names:
        names = ", ".join(sorted({*BUILT_IN, *found.names}))
        raise ConfigError(f"corpus.segmenter: no segmenter {name!r}; choose one of: {names}")
    if is_url(user_dictionary):
        raise ConfigError(
            f"corpus.user_dictionary: {user_dictionary}: segmenter {name!r} takes a local "
            "file, and this is a URL"
        )
    if user_dictionary:
        read_user_dictionary(user_dictionary)
    return found[name].load()(user_dictionary)


def uncut_words(name: str, user_dictionary: str) -> list[str]:
    """The words of a user dictionary that change no sample.

    The segmenter does not even cut them out of themselves: segmenters cut at signs and spaces
    before they look words up, and a word of low frequency is less likely than its parts. Or they
    hold no neighbours between which the segmenter decides (`Encoder.encode`), as in A股.
    """
    segmenter = load_segmenter(name, user_dictionary)
    return [
        entry.word
        for entry in read_user_dictionary(user_dictionary)[:TESTED_WORDS]
        if entry.frequency != 0
        and (list(segmenter.cut(entry.word)) != [entry.word] or not HAN_PAIR.search(entry.word))
    ]


def word_boundaries(text: str, segmenter: Segmenter) -> NDArray[np.bool_]:
    """[len(text) + 1] true where a word begins, and at the end.

    Raises:
        CorpusError: the segmenter's words are not those of the text.
    """
    ends = np.cumsum(np.fromiter(map(len, segmenter.cut(text)), np.int64))
    if (total := ends[-1] if len(ends) else 0) != len(text):
        raise CorpusError(
            f"segmenter {segmenter.identity}: its words have {total} characters and the text "
            f"{len(text)}; a segmenter must neither leave out nor add any"
        )
    boundaries = np.zeros(len(text) + 1, np.bool_)
    boundaries[0] = True
    boundaries[ends] = True
    return boundaries


def _jieba(user_dictionary: str) -> Segmenter:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    for word, frequency, tag in _entries(user_dictionary):
        tokenizer.add_word(word, frequency, tag)
    with tokenizer.get_dict_file() as file:
        name = f"jieba {importlib.metadata.version('jieba')} dictionary {_digest(file.read())}"
    return Segmenter(name + _user(user_dictionary), tokenizer.cut)


def _rjieba(user_dictionary: str) -> Segmenter:
    import rjieba

    tokenizer = rjieba.Jieba()
    for word, frequency, tag in _entries(user_dictionary):
        if frequency == 0:
            raise ConfigError(
                f"corpus.user_dictionary: {user_dictionary}: {word!r} has frequency 0, which "
                "rjieba ignores; remove the line, or set corpus.segmenter to jieba"
            )
        if frequency is None:
            frequency = tokenizer.suggest_freq(word)
        tokenizer.add_word(word, frequency, tag or "x")
    # Its dictionary is compiled in, so the version identifies it.
    name = f"rjieba {importlib.metadata.version('rjieba')}"
    return Segmenter(name + _user(user_dictionary), tokenizer.cut)


def _entries(user_dictionary: str) -> list[Entry]:
    return read_user_dictionary(user_dictionary) if user_dictionary else []


def _user(dictionary: str) -> str:
    return f" user {_digest(read_bytes(dictionary))}" if dictionary else ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


BUILT_IN: dict[str, Callable[[str], Segmenter]] = {"rjieba": _rjieba, "jieba": _jieba}
