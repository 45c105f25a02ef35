"""Tables to blocks of rows, of which each holds the values of the text column."""

from collections.abc import Iterable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from pipeline.corpus.records import Drop
from pipeline.corpus.text.blocks import Block, empty_file
from pipeline.corpus.text.csv_rows import csv_values
from pipeline.corpus.text.streams import Stream
from pipeline.corpus.text.tables import arrow_batches, column_values, plain, text_column
from pipeline.corpus.text.units import FileRange
from pipeline.settings.corpus import CorpusSettings

ROWS = 4096
"""Rows of Parquet or Arrow that are read at a time; fewer where they hold more than a shard."""
FIRST_ROW = 2
"""Number of the first row of CSV after the header, as spreadsheets count."""


def csv_blocks(file: IO[bytes], stream: Stream, target: int, text_field: str) -> Iterator[Block]:
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


def parquet_blocks(
    file: IO[bytes], file_range: FileRange, target: int, settings: CorpusSettings
) -> Iterator[Block | Drop]:
    """Blocks of the row groups of a range. Where one is damaged, the next one is read on."""
    table = pyarrow.parquet.ParquetFile(file)
    if not table.metadata.num_rows and not file_range.start:
        yield empty_file(file_range.source)
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


def arrow_blocks(
    file: IO[bytes], file_range: FileRange, target: int, settings: CorpusSettings
) -> Iterator[Block | Drop]:
    """Blocks of the record batches of a whole file."""

    def parts() -> Iterator[tuple[pa.RecordBatch, int]]:
        before = 0
        for batch in arrow_batches(file)[1]:
            here = file.tell()
            yield batch, max(0, here - before)
            before = max(here, before)

    yield from _column_blocks(parts(), file_range, 0, target, settings)


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
        parts: batches with the column, and the bytes on disk that they stand for.
        row: number of the first one.
    """
    source = file_range.source
    codec = "utf-8" if settings.encoding == "auto" else settings.encoding
    try:
        for batch, disk in parts:
            column = plain(text_column(batch, settings.text_field))
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
