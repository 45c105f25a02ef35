"""How the input files are cut into work units.

Units depend on the inputs and `corpus.shard_megabytes` only, never on the number of workers, so the
same inputs give the same shards on any cluster. A large plain file is cut into byte ranges. A file
that must be read from its start (compressed, CSV, UTF-16 and its like) and may hold more than one
shard is a unit by itself.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import IO, NamedTuple

import pyarrow.parquet

from pipeline.corpus.text.csv_rows import DELIMITERS, csv_values
from pipeline.corpus.text.sources import Source, naming
from pipeline.corpus.text.streams import BLANK, open_stream
from pipeline.corpus.text.tables import arrow_batches, check_column
from pipeline.corpus.threads import in_threads
from pipeline.files.storage import filesystem
from pipeline.settings.corpus import CorpusSettings

EXPANSION = 4
"""Bytes of text expected in a compressed byte, to group small compressed files into units."""


class FileRange(NamedTuple):
    """Part of an input file."""

    source: Source
    start: int
    end: int
    """Bytes [start, end), or row groups of a Parquet file."""
    size: int
    """Bytes on disk."""
    encoding: str = ""
    """Codec of a byte range; empty if the file is read from its start, which shows its codec."""


class Unit(NamedTuple):
    """The file ranges that one task reads."""

    number: int
    ranges: tuple[FileRange, ...]
    stream: bool
    """It may hold far more text than one shard, and can only be read from its start."""

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(file_range.size for file_range in self.ranges)


def plan_units(sources: Sequence[Source], settings: CorpusSettings) -> list[Unit]:
    """Cut sources into units of about `shard_megabytes` of text, in the order of the sources.

    Raises:
        CorpusError: a file can't be read, or a table lacks the text column.
    """
    target = shard_bytes(settings)
    units: list[Unit] = []
    group: list[FileRange] = []
    weight = 0

    def close() -> None:
        nonlocal group, weight
        if group:
            units.append(Unit(len(units), tuple(group), stream=False))
        group, weight = [], 0

    cut = functools.partial(_cut, target=target, settings=settings)
    opened = in_threads(cut, [source for source in sources if _needs_opening(source, target)])
    for source in sources:
        found = next(opened) if _needs_opening(source, target) else [_whole(source, target)]
        for file_range, size in found:
            if size is None:
                close()
                units.append(Unit(len(units), (file_range,), stream=True))
                continue
            if weight + size > target:
                close()
            _add(group, file_range)
            weight += size
    close()
    return units


def _add(group: list[FileRange], new: FileRange) -> None:
    """Add a range; one that goes on where the last one ends becomes one with it.

    Each range costs an opening of its file, and a Parquet file may have thousands of row groups.
    """
    if group and group[-1].source == new.source and group[-1].end == new.start:
        last = group.pop()
        new = new._replace(start=last.start, size=last.size + new.size)
    group.append(new)


def shard_bytes(settings: CorpusSettings) -> int:
    """Bytes of text in one shard, about."""
    return max(1, int(settings.shard_megabytes * 1e6))


def _whole(source: Source, target: int) -> tuple[FileRange, int | None]:
    """A file that is not cut, with the bytes of text expected in it; None for a stream."""
    size = source.size * EXPANSION if source.compression else source.size
    return FileRange(source, 0, source.size, source.size), size if size <= target else None


def _needs_opening(source: Source, target: int) -> bool:
    """Whether a file's content decides how it is cut."""
    table = source.format in (*DELIMITERS, "parquet", "arrow")
    return table or (source.size > target and not source.compression)


def _cut(
    source: Source, target: int, settings: CorpusSettings
) -> list[tuple[FileRange, int | None]]:
    """Ranges of a source that is opened, each with the bytes of text expected in it."""
    system, inner = filesystem(source.path)
    table = source.format in DELIMITERS
    with naming(source.label), system.open(inner, "rb") as file:
        if source.format == "parquet":
            return _cut_parquet(source, file, target, settings.text_field)
        if source.format == "arrow":
            check_column(arrow_batches(file)[0], settings.text_field, source.label)
            return [_whole(source, target)]
        stream = open_stream(file, source, settings.encoding)
        if table and not stream.foreign:
            # The first row is read, so that a missing column is found before any work is done.
            next(csv_values(stream, settings.text_field), None)
        # A file that begins blank is read by one task, which sees whether it is blank to its end.
        blank = BLANK.fullmatch(next(stream.data, b"").decode(stream.codec, "replace"))
    source = source._replace(compression=stream.source.compression)
    if table or stream.transcoded or stream.foreign or blank or source.compression:
        return [_whole(source, target)]
    source, codec = stream.source, stream.codec
    count = -(-source.size // target)
    edges = [source.size * i // count for i in range(count + 1)]
    return [
        (FileRange(source, start, end, end - start, codec), end - start)
        for start, end in itertools.pairwise(edges)
    ]


def _cut_parquet(
    source: Source, file: IO[bytes], target: int, text_field: str
) -> list[tuple[FileRange, int | None]]:
    metadata = pyarrow.parquet.read_metadata(file)
    check_column(metadata.schema.to_arrow_schema(), text_field, source.label)
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    share = source.size / max(1, sum(groups))
    if not groups:  # read all the same, so that it is counted as empty
        return [(FileRange(source, 0, 0, source.size), 0)]
    return [
        (FileRange(source, i, i + 1, int(size * share)), size if size <= 2 * target else None)
        for i, size in enumerate(groups)
    ]
