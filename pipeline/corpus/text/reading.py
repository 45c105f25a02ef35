"""Work units to chunks: blocks of whole records, the text of one shard in each chunk."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from pipeline.corpus.records import Drop
from pipeline.corpus.text import wikipedia
from pipeline.corpus.text.csv_rows import DELIMITERS, RECORD_BYTES, csv_values
from pipeline.corpus.text.sources import Source, naming
from pipeline.corpus.text.streams import BLANK, Stream, open_stream
from pipeline.corpus.text.tables import arrow_batches, column_values, plain
from pipeline.corpus.text.units import FileRange, Unit, shard_bytes
from pipeline.errors import CorpusError
from pipeline.files.storage import filesystem
from pipeline.settings.corpus import CorpusSettings

SEARCHED_BYTES = 1 << 16
"""Bytes that are read at a time to find a boundary between records."""
ROWS = 4096
"""Rows of Parquet or Arrow that are read at a time; fewer where they hold more than a shard."""
FIRST_ROW = 2
"""Number of the first row of CSV after the header, as spreadsheets count."""
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


class Chunk(NamedTuple):
    """The text of one shard."""

    unit: int
    number: int
    """Number of the chunk in its unit."""
    blocks: tuple[Block, ...]


class End(NamedTuple):
    """Follows the chunks of a unit."""

    unit: int
    chunks: int
    """How many chunks the unit has."""
    damage: tuple[Drop, ...]
    """Where reading stopped, in files that are damaged."""


def read_unit(unit: Unit, settings: CorpusSettings) -> Iterator[Chunk | End]:
    """Yield the chunks of a unit, each of about `shard_megabytes` of text at most, then its end.

    Raises:
        CorpusError: a file vanished, can't be read, changed since the inputs were listed, or lacks
            the text column.
    """
    target = shard_bytes(settings)
    number, held, size = 0, [], 0
    damage: list[Drop] = []
    for file_range in unit.ranges:
        with naming(file_range.source.label):
            for block in _blocks_of(file_range, target, settings):
                if isinstance(block, Drop):
                    damage.append(block)
                    continue
                held.append(block)
                size += block.size
                if size >= target:
                    yield Chunk(unit.number, number, tuple(held))
                    number, held, size = number + 1, [], 0
    if held:
        yield Chunk(unit.number, number, tuple(held))
        number += 1
    yield End(unit.number, number, tuple(damage))


def _blocks_of(
    file_range: FileRange, target: int, settings: CorpusSettings
) -> Iterator[Block | Drop]:
    """The blocks of a range, and a drop if reading stopped at damage.

    A stream gives blocks of about `target` bytes at most.
    """
    source = file_range.source
    system, inner = filesystem(source.path)
    with system.open(inner, "rb") as file:
        if getattr(file, "size", source.size) not in (source.size, None):
            raise CorpusError(
                f"{source.label}: has {file.size} bytes and had {source.size} when the inputs were "
                "listed; do not change inputs while they are read, and run again"
            )
        if source.format == "parquet":
            yield from _parquet_blocks(file, file_range, target, settings)
        elif source.format == "arrow":
            yield from _arrow_blocks(file, file_range, target, settings)
        elif file_range.encoding:
            yield from _range_blocks(file, file_range, target)
        else:
            stream = open_stream(file, source, settings.encoding)
            if stream.foreign:
                message = f"{source.label}: is {stream.foreign}"
                yield Drop("no_text", message, source.label, source.size)
                return
            blocks = (
                _csv_blocks(file, stream, target, settings.text_field)
                if source.format in DELIMITERS
                else _stream_blocks(file, stream, target)
            )
            text = False
            for block in blocks:
                text = text or not _is_blank(block)
                if text:
                    yield block
            if not text and not stream.damage:
                yield _empty(source)
            yield from _damage(stream)


def _empty(source: Source) -> Drop:
    return Drop("empty_file", f"{source.label}: holds no text", source.label)


def _is_blank(block: Block) -> bool:
    """Whether a block of a stream holds only white space, or a dump without pages."""
    if block.rows:
        return False
    if block.source.format == "wikidump" and b"<mediawiki" in block.data:
        return wikipedia.PAGE.search(block.data) is None
    return BLANK.fullmatch(block.data.decode(block.encoding, "replace")) is not None


def _range_blocks(file: IO[bytes], file_range: FileRange, target: int) -> Iterator[Block]:
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


def _stream_blocks(file: IO[bytes], stream: Stream, target: int) -> Iterator[Block]:
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


def _csv_blocks(file: IO[bytes], stream: Stream, target: int, text_field: str) -> Iterator[Block]:
    """Blocks of the rows of a table. A row that damage cut short is dropped."""
    rows: list[Any] = []
    first, size, read = FIRST_ROW, 0, 0

    def cut() -> Block:
        nonlocal first, size, read, rows
        here = file.tell()
        block = Block(stream.source, first, "", b"", size, here - read, tuple(rows))
        first, size, read, rows = first + len(rows), 0, here, []
        return block

    for value, length in csv_values(stream, text_field):
        if size >= target:
            yield cut()
        rows.append(value)
        size += length
    if stream.cut_short:
        rows = rows[:-1]
    if rows:
        yield cut()


def _damage(stream: Stream) -> Iterator[Drop]:
    """A drop if the data of a stream, which was read to its end, is damaged."""
    source = stream.source
    for damage in stream.damage:
        place = f"{source.label}: byte {damage.place} of {source.size}"
        message = f"{place}: damaged {source.compression} data: {damage}"
        yield Drop("damaged_file", message, place, source.size - damage.place)


def _parquet_blocks(
    file: IO[bytes], file_range: FileRange, target: int, settings: CorpusSettings
) -> Iterator[Block | Drop]:
    """Blocks of the row groups of a range. Where one is damaged, the next one is read on."""
    table = pyarrow.parquet.ParquetFile(file)
    if not table.metadata.num_rows and not file_range.start:
        yield _empty(file_range.source)
    groups = [table.metadata.row_group(group) for group in range(file_range.end)]
    first = sum(group.num_rows for group in groups[: file_range.start])
    rows = sum(group.num_rows for group in groups[file_range.start :])
    for number, group in enumerate(groups[file_range.start :], file_range.start):
        size = file_range.size * group.num_rows // max(1, rows)
        batches = table.iter_batches(
            _rows_at_a_time(group.num_rows, group.total_byte_size, target),
            row_groups=[number],
            columns=[settings.text_field],
        )
        parts = ((batch, size * batch.num_rows // group.num_rows) for batch in batches)
        of_group = file_range._replace(start=number, end=number + 1, size=size)
        yield from _column_blocks(parts, of_group, first, target, settings)
        first += group.num_rows


def _arrow_blocks(
    file: IO[bytes], file_range: FileRange, target: int, settings: CorpusSettings
) -> Iterator[Block | Drop]:
    """Blocks of the record batches of a whole file."""

    def parts() -> Iterator[tuple[pa.RecordBatch, int]]:
        before = 0
        for batch in arrow_batches(file)[1]:
            here = file.tell()
            yield batch.select([settings.text_field]), max(0, here - before)
            before = max(here, before)

    rows = False
    for block in _column_blocks(parts(), file_range, 0, target, settings):
        rows = True
        yield block
    if not rows:
        yield _empty(file_range.source)


def _rows_at_a_time(rows: int, size: int, target: int) -> int:
    """Rows that hold `target` bytes or a little more, if `rows` hold `size`; at most `ROWS`."""
    return min(ROWS, rows * target // max(1, size) + 1)


def _column_blocks(
    parts: Iterable[tuple[pa.RecordBatch, int]],
    file_range: FileRange,
    row: int,
    target: int,
    settings: CorpusSettings,
) -> Iterator[Block | Drop]:
    """Blocks of the text column, of about `target` bytes at most; a drop where it is damaged.

    Args:
        parts: the column, and the bytes on disk that it stands for.
        row: number of the first one.
    """
    source = file_range.source
    codec = "utf-8" if settings.encoding == "auto" else settings.encoding
    try:
        for batch, disk in parts:
            column = plain(batch.column(0))
            step = _rows_at_a_time(len(column), column.nbytes, target)
            for start in range(0, len(column), step):
                part = column.slice(start, step)
                read = disk * len(part) // len(column)
                yield Block(source, row, "", b"", part.nbytes, read, column_values(part, codec))
                row += len(part)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk or network failed; errors about damaged data have no number
        place = f"{source.label}: row {row}"
        yield Drop("damaged_file", f"{place}: {error}", place, file_range.size)
