"""Work units to chunks: blocks of whole records, the text of one shard in each chunk."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import pyarrow.parquet

from pipeline.corpus.records import Drop
from pipeline.corpus.text.decompression import DAMAGE, decompressed
from pipeline.corpus.text.encodings import SAMPLE_BYTES, detect_encoding, to_utf8
from pipeline.corpus.text.sources import Source
from pipeline.corpus.text.units import FileRange, Unit, shard_bytes
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import filesystem

RECORD_BYTES = 64 << 20
"""Longest record. A longer one is cut here, so that memory is bounded."""
SEARCHED_BYTES = 1 << 16
"""Bytes that are read at a time to find the first record of a range."""
BOUNDARY_BYTES = 4096
"""Longest boundary between records, with the white space in it."""
BOUNDARIES = {
    "text": re.compile(rb"\n"),
    "lines": re.compile(rb"\n[ \t\r]*\n"),
    "jsonl": re.compile(rb"\n"),
    "wikiextractor": re.compile(rb"</doc>[ \t\r]*\n|\}[ \t\r]*\n"),
    "wikidump": re.compile(rb"</page>[ \t\r]*\n"),
}


class Block(NamedTuple):
    """Consecutive whole records of one file."""

    source: Source
    offset: int
    """Byte (after decompression) or row of a Parquet file where the block begins."""
    encoding: str
    data: bytes
    size: int
    """Bytes of text."""
    disk: int
    """Bytes of the file that were read for it."""
    rows: tuple[Any, ...] = ()
    """Values of the text column, if the file is Parquet."""


class Chunk(NamedTuple):
    """The text of one shard."""

    unit: int
    number: int
    """Which chunk of the unit."""
    blocks: tuple[Block, ...]


class End(NamedTuple):
    """Follows the chunks of a unit."""

    unit: int
    chunks: int
    """How many chunks the unit has."""
    damage: tuple[Drop, ...]
    """Where reading stopped, in files whose compression is damaged."""


def read_unit(unit: Unit, settings: CorpusSettings) -> Iterator[Chunk | End]:
    """Yield the chunks of a unit, each of about `shard_megabytes` of text at most, then its end.

    Raises:
        CorpusError: a file vanished, changed since the inputs were listed, or lacks the text
            column.
    """
    target = shard_bytes(settings)
    number, held, size = 0, [], 0
    damage: list[Drop] = []
    for file_range in unit.ranges:
        try:
            for block in _blocks_of(file_range, target, settings):
                if isinstance(block, Drop):
                    damage.append(block)
                    continue
                held.append(block)
                size += block.size
                if size >= target:
                    yield Chunk(unit.number, number, tuple(held))
                    number, held, size = number + 1, [], 0
        except FileNotFoundError:
            raise CorpusError(
                f"{file_range.source.path}: the file vanished while the corpus was prepared; put "
                "it back or take it out of corpus.inputs, then run again (finished shards are kept)"
            ) from None
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
                f"{source.path}: has {file.size} bytes and had {source.size} when the inputs were "
                "listed; do not change inputs while they are read, and run again"
            )
        if source.format == "parquet":
            yield from _parquet_blocks(file, file_range, settings.text_field)
        elif file_range.encoding:
            yield from _range_blocks(file, file_range)
        else:
            yield from _stream_blocks(file, source, target, settings.encoding)


def _range_blocks(file: IO[bytes], file_range: FileRange) -> Iterator[Block]:
    """One block: the records that begin in a byte range. Together, all ranges give all records."""
    source, boundary = file_range.source, BOUNDARIES[file_range.source.format]
    begin = _record_start(file, file_range.start, source.size, boundary)
    end = _record_start(file, file_range.end, source.size, boundary)
    file.seek(begin)
    if data := file.read(end - begin):
        yield Block(source, begin, file_range.encoding, data, len(data), len(data))


def _record_start(file: IO[bytes], offset: int, size: int, boundary: re.Pattern[bytes]) -> int:
    """End of the first record boundary from `offset` on: both neighbours of a cut find the same."""
    if offset in (0, size):
        return offset
    file.seek(offset)
    window = b""
    while len(window) < RECORD_BYTES:
        more = file.read(SEARCHED_BYTES)
        if not more:
            return size
        searched = max(0, len(window) - BOUNDARY_BYTES)
        window += more
        if found := boundary.search(window, searched):
            return offset + found.end()
    return min(size, offset + RECORD_BYTES)


def _stream_blocks(
    file: IO[bytes], source: Source, target: int, encoding: str
) -> Iterator[Block | Drop]:
    """Blocks of a file that is read from its start; the first bytes show the codec."""
    buffer, offset, codec = bytearray(), 0, ""
    boundary = BOUNDARIES[source.format]
    searched, read = target, 0

    def cut(length: int) -> Block:
        nonlocal offset, searched, read
        data, here = bytes(buffer[:length]), file.tell()
        block = Block(source, offset, codec, data, length, here - read)
        del buffer[:length]
        offset, searched, read = offset + length, target, here
        return block

    try:
        stream = decompressed(file, source.compression)
        first = next(stream, b"")
        codec = detect_encoding(first[:SAMPLE_BYTES]) if encoding == "auto" else encoding
        stream = itertools.chain([first], stream)
        if codec.startswith("utf-16"):
            stream, codec = to_utf8(stream, codec), "utf-8"
        for data in stream:
            buffer += data
            while len(buffer) > searched:
                if found := boundary.search(buffer, max(0, searched - BOUNDARY_BYTES, target)):
                    yield cut(found.end())
                elif len(buffer) > target + RECORD_BYTES:
                    yield cut(len(buffer))
                else:
                    searched = len(buffer)
    except DAMAGE as error:
        if not source.compression or _of_the_system(error):
            raise
        # The last record is cut short: it is dropped with the damaged rest.
        if ends := [match.end() for match in boundary.finditer(buffer)]:
            yield cut(ends[-1])
        place = f"{source.path}: byte {file.tell()} of {source.size}"
        message = f"{place}: damaged {source.compression} data: {error}"
        yield Drop("damaged_file", message, place, source.size - file.tell())
        return
    if buffer:
        yield cut(len(buffer))


def _of_the_system(error: Exception) -> bool:
    """Whether a disk or network failed: those errors have numbers, damaged data's have none."""
    return isinstance(error, OSError) and error.errno is not None


def _parquet_blocks(
    file: IO[bytes], file_range: FileRange, text_field: str
) -> Iterator[Block | Drop]:
    """Blocks of the row groups of a range."""
    source = file_range.source
    table = pyarrow.parquet.ParquetFile(file)
    if text_field not in table.schema_arrow.names:
        raise CorpusError(
            f"{source.path}: no column {text_field!r}; set corpus.text_field to one of "
            f"{', '.join(table.schema_arrow.names)}"
        )
    row = sum(table.metadata.row_group(i).num_rows for i in range(file_range.start))
    groups = list(range(file_range.start, file_range.end))
    rows = sum(table.metadata.row_group(group).num_rows for group in groups)
    try:
        for batch in table.iter_batches(batch_size=4096, row_groups=groups, columns=[text_field]):
            disk = file_range.size * batch.num_rows // rows
            values = tuple(batch.column(0).to_pylist())
            yield Block(source, row, "", b"", batch.nbytes, disk, values)
            row += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        if _of_the_system(error):
            raise
        place = f"{source.path}: row {row}"
        yield Drop("damaged_file", f"{place}: {error}", place, file_range.size)
