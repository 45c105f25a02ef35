"""Work units to chunks: blocks of whole records, the text of one shard in each chunk."""

import itertools
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from pipeline.corpus.records import Drop, batches
from pipeline.corpus.text import wikipedia
from pipeline.corpus.text.blocks import Block, empty_file, range_blocks, stream_blocks
from pipeline.corpus.text.csv_rows import DELIMITERS
from pipeline.corpus.text.sources import Source, naming
from pipeline.corpus.text.streams import BLANK, Stream, open_stream
from pipeline.corpus.text.table_blocks import arrow_blocks, csv_blocks, parquet_blocks
from pipeline.corpus.text.units import FileRange, Unit, shard_bytes
from pipeline.errors import CorpusError
from pipeline.files.storage import filesystem
from pipeline.settings.corpus import CorpusSettings


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
    damage: list[Drop] = []
    chunks = 0
    blocks = _blocks_of_unit(unit, target, settings, damage)
    for of_chunk in batches(blocks, lambda block: block.size, target):
        yield Chunk(unit.number, chunks, tuple(of_chunk))
        chunks += 1
    yield End(unit.number, chunks, tuple(damage))


def _blocks_of_unit(
    unit: Unit, target: int, settings: CorpusSettings, damage: list[Drop]
) -> Iterator[Block]:
    """The blocks of all ranges of a unit; drops are appended to `damage`."""
    for file_range in unit.ranges:
        with naming(file_range.source.label):
            for found in _blocks_of(file_range, target, settings):
                if isinstance(found, Drop):
                    damage.append(found)
                else:
                    yield found


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
            yield from parquet_blocks(file, file_range, target, settings)
        elif source.format == "arrow":
            yield from _or_empty(arrow_blocks(file, file_range, target, settings), source)
        elif file_range.encoding:
            yield from range_blocks(file, file_range, target)
        else:
            yield from _or_empty(_read_stream(file, source, target, settings), source)


def _or_empty(found: Iterable[Block | Drop], source: Source) -> Iterator[Block | Drop]:
    """What was found in a file; a drop if that is nothing."""
    nothing = True
    for each in found:
        nothing = False
        yield each
    if nothing:
        yield empty_file(source)


def _read_stream(
    file: IO[bytes], source: Source, target: int, settings: CorpusSettings
) -> Iterator[Block | Drop]:
    """The blocks of a stream without blank ones at its beginning, and a drop for what is bad."""
    stream = open_stream(file, source, settings.encoding)
    if stream.foreign:
        yield Drop("no_text", f"{source.label}: is {stream.foreign}", source.label, source.size)
        return
    if source.format in DELIMITERS:
        blocks = csv_blocks(file, stream, target, settings.text_field)
    else:
        blocks = stream_blocks(file, stream, target)
    yield from itertools.dropwhile(_is_blank, blocks)
    yield from _damage(stream)


def _is_blank(block: Block) -> bool:
    """Whether a block of a stream holds only white space, or a dump without pages."""
    if block.rows:
        return False
    if block.source.format == "wikidump" and b"<mediawiki" in block.data:
        return wikipedia.PAGE.search(block.data) is None
    return BLANK.fullmatch(block.data.decode(block.encoding, "replace")) is not None


def _damage(stream: Stream) -> Iterator[Drop]:
    """A drop if the data of a stream, which was read to its end, is damaged."""
    source = stream.source
    for damage in stream.damage:
        place = f"{source.label}: byte {damage.place} of {source.size}"
        message = f"{place}: damaged {source.compression} data: {damage}"
        yield Drop("damaged_file", message, place, source.size - damage.place)
