"""How the input files are cut into work units.

Units depend on the inputs and `corpus.shard_megabytes` only, never on the number of workers, so the
same inputs give the same shards on any cluster. A large plain file is cut into byte ranges. A file
that must be read from its start (compressed or UTF-16) and may hold more than one shard is a unit
by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow.parquet

from pipeline.corpus.text.encodings import SAMPLE_BYTES, detect_encoding
from pipeline.corpus.text.sources import Source
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import filesystem

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
    """What one task reads."""

    number: int
    ranges: tuple[FileRange, ...]
    stream: bool
    """It may hold far more text than one shard, and can only be read from its start."""

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(file_range.size for file_range in self.ranges)


def plan_units(sources: Iterable[Source], settings: CorpusSettings) -> list[Unit]:
    """Cut sources into units of about `shard_megabytes` of text, in the order of the sources."""
    target = shard_bytes(settings)
    units: list[Unit] = []
    group: list[FileRange] = []
    weight = 0

    def close() -> None:
        nonlocal group, weight
        if group:
            units.append(Unit(len(units), tuple(group), stream=False))
        group, weight = [], 0

    for source in sources:
        for file_range, size in _cut(source, target, settings.encoding):
            if size is None:
                close()
                units.append(Unit(len(units), (file_range,), stream=True))
                continue
            if weight + size > target:
                close()
            group.append(file_range)
            weight += size
    close()
    return units


def shard_bytes(settings: CorpusSettings) -> int:
    """Bytes of text in one shard, about."""
    return max(1, int(settings.shard_megabytes * 1e6))


def _cut(source: Source, target: int, encoding: str) -> list[tuple[FileRange, int | None]]:
    """Ranges of a source, each with the bytes of text expected in it; None for a stream."""
    if source.size == 0:
        return []
    if source.format == "parquet":
        return _cut_parquet(source, target)
    whole = FileRange(source, 0, source.size, source.size)
    if source.compression:
        size = source.size * EXPANSION
        return [(whole, size if size <= target else None)]
    if source.size <= target:
        return [(whole, source.size)]
    codec = encoding
    if codec == "auto":
        system, inner = filesystem(source.path)
        codec = detect_encoding(system.cat_file(inner, 0, SAMPLE_BYTES))
    if codec.startswith("utf-16"):
        return [(whole, None)]
    count = -(-source.size // target)
    edges = [source.size * i // count for i in range(count + 1)]
    return [
        (FileRange(source, start, end, end - start, codec), end - start)
        for start, end in itertools.pairwise(edges)
    ]


def _cut_parquet(source: Source, target: int) -> list[tuple[FileRange, int | None]]:
    system, inner = filesystem(source.path)
    with system.open(inner, "rb") as file:
        try:
            metadata = pyarrow.parquet.read_metadata(file)
        except pyarrow.ArrowException as error:
            raise CorpusError(f"{source.path}: not a Parquet file: {error}") from None
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    share = source.size / max(1, sum(groups))
    return [
        (FileRange(source, i, i + 1, int(size * share)), size if size <= 2 * target else None)
        for i, size in enumerate(groups)
    ]
