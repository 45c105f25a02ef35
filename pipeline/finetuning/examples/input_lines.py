"""What is to be predicted: lines of text or JSON, or the records of a table or a published file."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from pipeline.errors import TaskError
from pipeline.finetuning.examples.columns import Columns
from pipeline.finetuning.examples.formats import PARQUET, read_records
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.examples.lines import Line, read_lines, uncompressed
from pipeline.finetuning.examples.tables import LABEL, TABLES, is_comment, word_cells
from pipeline.finetuning.tasks import Task

RECORDS = (*TABLES, *PARQUET, ".json", ".conll", ".bio", ".bmes")
"""Suffixes of files that hold records; the lines of others are examples each."""
OPENS = re.compile(r"\s*(?:\[\s*\{?|\{)\s*")
LOOKAHEAD = 1000
"""Lines that show whether a file of another suffix holds records."""


def read_input(
    path: str, task: Task, columns: Mapping[str, str | int]
) -> Iterator[tuple[str, str | Example]]:
    """(place, line or record) of a file, in order, blank lines included.

    Raises TaskError for a file that is missing, damaged or of another form, and for its first
    malformed record.
    """
    named = Columns(task, columns, "predict.columns")
    records = uncompressed(path).endswith(RECORDS) or columns
    if not records and not _holds_records(itertools.islice(read_lines(path), LOOKAHEAD), named):
        yield from one_a_line(read_lines(path))
        return
    for place, record in read_records(path, named):
        if isinstance(record, TaskError):
            raise record
        yield place, record


def one_a_line(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines, each an example, as those of JSON that is indented are not.

    Raises TaskError if the first line only opens an object or a list of JSON.
    """
    for place, line in itertools.islice(lines, 1):
        if OPENS.fullmatch(line):
            raise TaskError(
                f"{place}: {line.strip()!r} opens JSON that goes on over several lines; write each "
                "object on a line of its own, or give it as a file that is called .json"
            )
        yield place, line
    yield from lines


def _holds_records(lines: Iterable[Line], columns: Columns) -> bool:
    """Whether lines are those of a table with names of columns, or words with labels of entities.

    Otherwise each line is an example of its own.
    """
    filled = [line for _, line in lines if line.strip()]
    if not filled:
        return False
    if columns.task.words_in_columns:
        cells = [word_cells(line) for line in filled if not is_comment(line)]
        ends = [each[-1].strip() for each in cells if len(each) > 1]
        return 0 < len(ends) == len(cells) and all(map(LABEL.fullmatch, ends))
    first = {name.strip() for name in filled[0].split("\t")}
    return len(first) > 1 and columns.are_named(first)
