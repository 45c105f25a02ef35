"""A file as a stream of text from its start: decompressed, in a codec that its first bytes show."""

import itertools
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipeline.corpus.decoding.decompression import (
    PROBED_BYTES,
    Damage,
    compression_of,
    decompressed,
)
from pipeline.corpus.decoding.encodings import (
    SAMPLE_BYTES,
    find_codec,
    keeps_ascii,
    peek,
    what_else,
)
from pipeline.corpus.decoding.json_lines import DECODER, as_lines, is_array_or_pretty
from pipeline.corpus.decoding.transcoding import to_utf8
from pipeline.corpus.text.sources import Source

BLANK = re.compile("[\\s\0\u200b-\u200f\u2060\ufeff]*")
"""White space, invisible characters, and what fills up files without being text."""

WIKIEXTRACTOR = re.compile(
    r"""<doc(?=.*?\sid=["'])(?=.*?\s(?:url|title)=["'])\s+[a-z]+=["'].*?["']\s*>"""
)
"""The tag that begins a document of WikiExtractor, whose attributes depend on its version. A title
may hold quotes and `">`."""


class Stream(NamedTuple):
    """Text that is read from its start."""

    source: Source
    """With its compression and the format of its records, which the first bytes may decide."""
    codec: str
    """Codec of `data`; ASCII bytes mean the same as in UTF-8."""
    data: Iterator[bytes]
    transcoded: bool
    """`data` holds other bytes than the file, so it can't be cut into ranges of the file."""
    foreign: str
    """What the data is if it is no text, as an archive, see `what_else`."""
    damage: list[Damage]
    """The damage that ended the data, known once it is read to its end; empty for a whole file."""

    @property
    def cut_short(self) -> bool:
        """Whether the last record is incomplete; known once the data is read to its end."""
        return any(not damage.whole for damage in self.damage)


def open_stream(file: IO[bytes], source: Source, encoding: str) -> Stream:
    """The text of an open file; the first bytes show its codec and the format of its records.

    Text in UTF-16 and other codecs in which ASCII bytes have another meaning becomes UTF-8. Arrays
    of JSON, and objects that go on over several lines, become JSON lines, in UTF-8 too.
    WikiExtractor writes files of the same names in two formats: JSON lines, and text between tags.
    A file `….txt` that begins with such a tag, or with JSON lines, is read in that format.
    """
    damage: list[Damage] = []
    compression = compression_of(file.read(PROBED_BYTES), source.compression)
    source = source._replace(compression=compression)
    file.seek(0)
    data = _until_damage(decompressed(file, source.compression), damage)
    head = peek(data)
    codec = find_codec(head, encoding)
    pretty = False
    if source.format in ("wikiextractor", "lines", "jsonl"):
        first = head[:SAMPLE_BYTES].decode(codec, "ignore").lstrip("\ufeff\0 \t\r\n")
        whole = len(head) <= SAMPLE_BYTES
        if source.format == "wikiextractor" and first.startswith("{"):
            source = source._replace(format="wikiextractor_json")
        elif source.format != "jsonl" and WIKIEXTRACTOR.match(first):
            source = source._replace(format="wikiextractor")
        elif source.format == "lines" and _are_objects(first, whole):
            source = source._replace(format="jsonl")
        elif is_array_or_pretty(first, whole, named=source.format == "jsonl"):
            source, pretty = source._replace(format="jsonl"), True
    data = itertools.chain([head], data)
    transcoded = pretty or not keeps_ascii(codec)
    if transcoded and codec != "utf-8":
        data, codec = to_utf8(data, codec), "utf-8"
    if pretty:
        data = as_lines(data)
    return Stream(source, codec, data, transcoded, what_else(head), damage)


def _are_objects(text: str, whole: bool) -> bool:
    """Whether the first two lines are objects of JSON, of a text that is whole or cut off."""
    lines = text.split("\n")
    if not whole and len(lines) == 1:
        return text.startswith('{"')
    lines = [line for line in (lines if whole else lines[:-1]) if line.strip()][:2]
    try:
        return bool(lines) and all(isinstance(DECODER.decode(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def _until_damage(stream: Iterator[bytes], damage: list[Damage]) -> Iterator[bytes]:
    try:
        yield from stream
    except Damage as error:
        damage.append(error)
