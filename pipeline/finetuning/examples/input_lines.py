"""What is to be predicted: lines of text or JSON, or the records of a table or a published file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.errors import TaskError
from pipeline.finetuning.examples.columns import Columns
from pipeline.finetuning.examples.formats import PARQUET, read_records
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.examples.lines import read_lines, uncompressed
from pipeline.finetuning.examples.tables import TABLES
from pipeline.finetuning.tasks import Task

RECORDS = (*TABLES, *PARQUET, ".json", ".conll", ".bio", ".bmes")
"""Suffixes of files that hold records; the lines of others are examples each."""


def read_input(
    path: str, task: Task, columns: Mapping[str, str | int]
) -> Iterator[tuple[str, str | Example]]:
    """(place, line or record) of a file, in order, blank lines included.

    Raises TaskError for a file that is missing, damaged or of another form, and for its first
    malformed record.
    """
    if not uncompressed(path).endswith(RECORDS) and not columns:
        yield from read_lines(path)
        return
    for place, record in read_records(path, Columns.of(task, columns)):
        if isinstance(record, TaskError):
            raise record
        yield place, record
