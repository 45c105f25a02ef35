"""Work units to chunks of whole records: byte ranges and streams, cut where a record ends."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import pyarrow.parquet
import zstandard

from pipeline.corpus.records import Drop
from pipeline.corpus.text.encodings import detect_encoding, to_utf8
from pipeline.corpus.text.sources import (
    SAMPLE_BYTES,
    Piece,
    Source,
    Unit,
    sample_encoding,
    shard_bytes,
)
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import filesystem

READ_BYTES = 1 << 20
RECORD_BYTES = 64 << 20
"""Longest record: one without an end by then is cut, so that memory is bounded."""
BOUNDARY_BYTES = 4096
"""Longest boundary between records, with the white space in it."""
BOUNDARIES = {
    "text": re.compile(rb"\n"),
    "lines": re.compile(rb"\n[ \t\r]*\n"),
    "jsonl": re.compile(rb"\n"),
    "wikiextractor": re.compile(rb"</doc>[ \t\r]*\n|\}[ \t\r]*\n"),
    "wikidump": re.compile(rb"</page>[ \t\r]*\n"),
}
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile)


class Block(NamedTuple):
    """Whole records of one file."""

    source: Source
    offset: int
    """Byte (after decompression), or row of a Parquet file, where the block begins."""
    encoding: str
    data: bytes
    size: int
    """Bytes of text."""
    disk: int
    """Bytes of the file that were read for it."""
    rows: tuple[Any, ...] = ()
    """Values of the text column, for Parquet."""


class Chunk(NamedTuple):
    """The text of one shard."""

    unit: int
    part: int
    blocks: tuple[Block, ...]


class End(NamedTuple):
    """Comes after the chunks of a unit."""

    unit: int
    parts: int
    damage: tuple[Drop, ...]
    """Where reading broke off, in files whose compression is damaged."""


def read_unit(unit: Unit, settings: CorpusSettings) -> Iterator[Chunk | End]:
    """The chunks of a unit, of about `shard_megabytes` of text at most, cut between records.

    Raises:
        CorpusError: a file that vanished, changed since the inputs were listed, or lacks the
            text column.
    """
    target = shard_bytes(settings)
    part, held, size = 0, [], 0
    damage: list[Drop] = []
    for piece in unit.pieces:
        try:
            for block in _blocks(piece, target, settings):
                held.append(block)
                size += block.size
                if size >= target:
                    yield Chunk(unit.number, part, tuple(held))
                    part, held, size = part + 1, [], 0
        except _Damaged as broken:
            damage.append(broken.drop)
        except FileNotFoundError:
            raise CorpusError(
                f"{piece.source.path}: vanished while the corpus was prepared; put it back, or "
                "take it out of corpus.inputs, and run again (finished parts are kept)"
            ) from None
    if held:
        yield Chunk(unit.number, part, tuple(held))
        part += 1
    yield End(unit.number, part, tuple(damage))


class _Damaged(Exception):
    def __init__(self, drop: Drop) -> None:
        super().__init__(drop.text)
        self.drop = drop


def _blocks(piece: Piece, target: int, settings: CorpusSettings) -> Iterator[Block]:
    """Blocks of at most about `target` bytes."""
    source, encoding = piece.source, settings.encoding
    system, inner = filesystem(source.path)
    with system.open(inner, "rb") as file:
        if getattr(file, "size", source.size) not in (source.size, None):
            raise CorpusError(
                f"{source.path}: has {file.size} bytes and had {source.size} when the inputs were "
                "listed; leave inputs alone while they are read, and run again"
            )
        if source.format == "parquet":
            yield from _parquet_blocks(file, piece, settings.text_field)
        elif not source.compression and not sample_encoding(source, encoding).startswith("utf-16"):
            codec = sample_encoding(source, encoding)
            boundary = BOUNDARIES[source.format]
            begin = _record_start(file, piece.start, source.size, boundary)
            end = _record_start(file, piece.end, source.size, boundary)
            file.seek(begin)
            data = file.read(end - begin)
            if data:
                yield Block(source, begin, codec, data, len(data), len(data))
        else:
            yield from _stream_blocks(file, piece, target, encoding)


def _record_start(file: IO[bytes], offset: int, size: int, boundary: re.Pattern[bytes]) -> int:
    """End of the first record boundary from `offset` on; the same whoever asks."""
    if offset in (0, size):
        return offset
    file.seek(offset)
    window = b""
    while len(window) < RECORD_BYTES:
        more = file.read(SAMPLE_BYTES)
        if not more:
            return size
        searched = max(0, len(window) - BOUNDARY_BYTES)
        window += more
        if found := boundary.search(window, searched):
            return offset + found.end()
    return min(size, offset + RECORD_BYTES)


def _stream_blocks(file: IO[bytes], piece: Piece, target: int, encoding: str) -> Iterator[Block]:
    source = piece.source
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
        blocks = _decompressed(file, source.compression)
        first = next(blocks, b"")
        codec = detect_encoding(first[:SAMPLE_BYTES]) if encoding == "auto" else encoding
        blocks = itertools.chain([first], blocks)
        if codec.startswith("utf-16"):
            blocks, codec = to_utf8(blocks, codec), "utf-8"
        for data in blocks:
            buffer += data
            while len(buffer) > searched:
                if found := boundary.search(buffer, max(0, searched - BOUNDARY_BYTES, target)):
                    yield cut(found.end())
                elif len(buffer) > target + RECORD_BYTES:
                    yield cut(len(buffer))
                else:
                    searched = len(buffer)
    except (*DAMAGE, OSError) as error:
        _raise_if_outside(error)
        if buffer:
            # The last record is cut short: it goes with the damage.
            ends = [match.end() for match in boundary.finditer(buffer)]
            if ends:
                yield cut(ends[-1])
        place = f"{source.path}: byte {file.tell()} of {source.size}"
        message = f"{place}: {source.compression} data broken: {error}"
        raise _Damaged(Drop("damaged_file", message, place, source.size - file.tell())) from None
    if buffer:
        yield cut(len(buffer))


def _raise_if_outside(error: Exception) -> None:
    """A broken file has no error number; the disk's and the network's faults have."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _decompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
    if compression == "zstd":
        yield from _zstd(file)
        return
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    opened = openers[compression](file, "rb") if compression else file
    while data := opened.read(READ_BYTES):
        yield data


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    """Frames of a zstd file; unlike zstandard's own reader, notices an end that comes too early."""
    context = zstandard.ZstdDecompressor()
    frame = None
    # Small steps: a step's output is held in memory, and zstd can swell a lot.
    while data := file.read(8192):
        while data:
            frame = frame or context.decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends within a frame")


def _parquet_blocks(file: IO[bytes], piece: Piece, text_field: str) -> Iterator[Block]:
    source = piece.source
    table = pyarrow.parquet.ParquetFile(file)
    if text_field not in table.schema_arrow.names:
        raise CorpusError(
            f"{source.path}: no column {text_field!r}; set corpus.text_field to one of "
            f"{', '.join(table.schema_arrow.names)}"
        )
    row = sum(table.metadata.row_group(i).num_rows for i in range(piece.start))
    groups = list(range(piece.start, piece.end))
    rows = sum(table.metadata.row_group(group).num_rows for group in groups)
    try:
        for batch in table.iter_batches(batch_size=4096, row_groups=groups, columns=[text_field]):
            disk = piece.size * batch.num_rows // rows
            values = tuple(batch.column(0).to_pylist())
            yield Block(source, row, "", b"", batch.nbytes, disk, values)
            row += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        _raise_if_outside(error)
        place = f"{source.path}: row {row}"
        raise _Damaged(Drop("damaged_file", f"{place}: {error}", place, piece.size)) from None
