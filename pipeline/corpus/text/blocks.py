"""Byte ranges and streams to blocks of whole records.

Also what a block is, and where records of each format end.
"""

import codecs
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from pipeline.corpus.records import Drop
from pipeline.corpus.text.csv_rows import RECORD_BYTES
from pipeline.corpus.text.sources import Source
from pipeline.corpus.text.streams import Stream
from pipeline.corpus.text.units import FileRange

SEARCHED_BYTES = 1 << 16
"""Bytes that are read at a time to find a boundary between records."""
BOUNDARY_BYTES = 4096
"""Longest boundary between records, with the white space in it."""
# A carriage return ends a line if something other than a line end follows it.
LINE_END = re.compile(rb"\n|\r(?=[^\r\n])")
BOUNDARIES = {
    "text": LINE_END,
    "lines": re.compile(rb"\n[ \t\r]*\n|\r[ \t]*\r(?=[^\r\n])"),
    "jsonl": LINE_END,
    "wikiextractor": re.compile(rb"</doc>[ \t\r]*(?:\n|(?<=\r)(?=[^ \t\r\n]))"),
    "wikiextractor_json": LINE_END,
    "wikidump": re.compile(rb"</page>[ \t\r]*\n?"),
}


class Block(NamedTuple):
    """Consecutive whole records of one file."""

    source: Source
    offset: int
    """Byte (after decompression and transcoding), or row of a table, where the block begins."""
    encoding: str
    data: bytes
    size: int
    """Bytes of text."""
    disk: int
    """Bytes of the file that were read for it."""
    rows: tuple[Any, ...] = ()
    """Values of the text column, if the file is a table."""


def empty_file(source: Source) -> Drop:
    """The drop that stands for a file without text."""
    return Drop("empty_file", f"{source.label}: holds no text", source.label)


def range_blocks(file: IO[bytes], file_range: FileRange, target: int) -> Iterator[Block]:
    """The records that begin in a byte range: one block, if no record is longer than allowed.

    Together, all ranges give all records. A record may go on through the ranges that follow. Those
    look for a boundary in their own bytes only, so the time is linear in the size of the file.
    """
    source, start, end = file_range.source, file_range.start, file_range.end
    begin = _after_boundary(file, source, start, end) if start else 0
    if begin is None:
        return
    end = _after_boundary(file, source, end, source.size) or source.size
    while begin < end:
        length = end - begin
        file.seek(begin)
        data = file.read(min(length, target + RECORD_BYTES))
        if not data:
            raise EOFError("the file became shorter")
        if len(data) < length:
            data = data[: _whole_characters(data, file_range.encoding)]
        yield Block(source, begin, file_range.encoding, data, len(data), len(data))
        begin += len(data)


def _after_boundary(file: IO[bytes], source: Source, offset: int, before: int) -> int | None:
    """End of the first record boundary that begins in [offset, before); None if there is none."""
    boundary = BOUNDARIES[source.format]
    file.seek(offset)
    window, here = b"", offset
    while here < before and (more := file.read(SEARCHED_BYTES)):
        window += more
        if found := boundary.search(window):
            return here + found.end() if here + found.start() < before else None
        here += max(0, len(window) - BOUNDARY_BYTES)
        window = window[-BOUNDARY_BYTES:]
    return None


def _whole_characters(data: bytes | bytearray, codec: str) -> int:
    """Length of the data without the beginning of a character at its end."""
    decoder = codecs.getincrementaldecoder(codec)("ignore")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])


def stream_blocks(file: IO[bytes], stream: Stream, target: int) -> Iterator[Block]:
    """Blocks of a stream. What damage cut short, after the last whole record, is dropped."""
    source, codec = stream.source, stream.codec
    buffer, offset = bytearray(), 0
    boundary = BOUNDARIES[source.format]
    searched, read = target, 0

    def cut(length: int) -> Block:
        nonlocal offset, searched, read
        data, here = bytes(buffer[:length]), file.tell()
        block = Block(source, offset, codec, data, length, here - read)
        del buffer[:length]
        offset, searched, read = offset + length, target, here
        return block

    for data in stream.data:
        buffer += data
        while len(buffer) > searched:
            if found := boundary.search(buffer, max(0, searched - BOUNDARY_BYTES, target)):
                yield cut(found.end())
            elif len(buffer) > target + RECORD_BYTES:
                yield cut(_whole_characters(buffer[: target + RECORD_BYTES], codec))
            else:
                searched = len(buffer)
    whole = len(buffer)
    if stream.cut_short:
        whole = max((match.end() for match in boundary.finditer(buffer)), default=0)
    if whole:
        yield cut(whole)
