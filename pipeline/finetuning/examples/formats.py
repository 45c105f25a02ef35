"""Task data as people publish it: which records a file holds, and where each of them stands.

| file | records |
|---|---|
| `.jsonl`; `.json` of several lines | a JSON object on each line (CLUE) |
| `.json` | one document: SQuAD's and CMRC's nesting, C3's lists, or a list of objects |
| `.csv`, `.tsv`, `.tab` | a line below one of column names, or without it; only `.csv` has quotes |
| `.parquet`, `.pq` | a row |
| any other | objects, if the first line is one; for words with labels, CoNLL's columns with a
blank line between sentences; for other tasks as `.tsv` |

Each may be compressed. What a record of a kind of task is, `Task.published` says.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from pipeline.errors import TaskError
from pipeline.finetuning.examples.jsonl import Example, parse_object
from pipeline.finetuning.examples.lines import open_bytes, read_lines, uncompressed

TABLES = (".csv", ".tsv", ".tab")
PARQUET = (".parquet", ".pq")
Record = tuple[str, Example | TaskError]
"""Its place, for messages, and the record or why it cannot be read."""


class Columns(NamedTuple):
    """How the columns of a file are called."""

    renamed: Mapping[str, str | int]
    """Name of a field → name of its column, or its number from 0 in a file without names."""
    known: Mapping[str, Sequence[str]]
    """Name of a field → names that published files have for it."""
    needed: Sequence[str]
    """Fields without which there is no example."""
    order: Sequence[str]
    """Fields and target, as they stand in a file without names; empty if files differ in that."""
    words: bool
    """Whether text files hold words with labels in CoNLL's columns."""

    @classmethod
    def of(cls, task: Any, renamed: Mapping[str, str | int] | None = None) -> Columns:
        """The columns that a Task needs and knows."""
        needed = [name for name in task.fields if name in task.sample]
        return cls(renamed or {}, task.aliases, needed, task.order, task.words_in_columns)

    def names_of(self, field: str) -> set[str]:
        """What a file may call a field."""
        return {field, str(self.renamed.get(field, field)), *self.known.get(field, ())}

    def without_empty(self, row: Example) -> Example:
        """A row without the cells that hold nothing; a text that holds nothing is a blank one."""
        texts = set().union(*map(self.names_of, self.needed))
        return {name: row[name] for name in row if row[name] not in ("", None) or name in texts}


def read_records(path: str, columns: Columns) -> Iterator[Record]:
    """The records of a file, with the keys that the file has, or its `renamed` ones.

    Raises TaskError when the file is missing, damaged or of another form.
    """
    name = uncompressed(path)
    if name.endswith(PARQUET):
        records = _parquet(path, columns)
    elif name.endswith(TABLES):
        records = _table(path, read_lines(path), columns, quoted=name.endswith(".csv"))
    elif name.endswith(".json"):
        records = _json(path)
    elif name.endswith(".jsonl") or _holds_objects(path, columns):
        records = _objects(read_lines(path))
    elif columns.words:
        records = _conll(read_lines(path), columns)
    else:
        records = _table(path, read_lines(path), columns, quoted=False)
    wanted = {field: each for field, each in columns.renamed.items() if isinstance(each, str)}
    for place, record in records:
        if isinstance(record, dict):
            lost = [each for each in wanted.values() if each not in record]
            if lost and set(lost) & set(map(wanted.get, columns.needed)):
                record = TaskError(f"{place}: no {lost[0]!r}; there is {', '.join(record)}")
            else:
                new = {field: record[each] for field, each in wanted.items() if each in record}
                record = {key: record[key] for key in record if key not in wanted.values()} | new
        yield place, record


def _holds_objects(path: str, columns: Columns) -> bool:
    """Whether the first line is an object, and not the word `{` with its label."""
    first = next((line.strip() for _, line in read_lines(path) if line.strip()), "")
    return first.startswith("{") and (first.endswith("}") or not columns.words)


def _objects(lines: Iterable[tuple[str, str]]) -> Iterator[Record]:
    for place, line in lines:
        if line.strip():
            try:
                yield place, parse_object(line, place)
            except TaskError as error:
                yield place, error


def _json(path: str) -> Iterator[Record]:
    """A document, or an object on each line: the first line tells, if it is an object alone."""
    lines = list(read_lines(path))
    filled = [(place, line) for place, line in lines if line.strip()]
    try:
        first = json.loads(filled[0][1]) if filled else None
    except (ValueError, RecursionError):
        first = None
    if isinstance(first, dict) and (len(filled) > 1 or "data" not in first):
        yield from _objects(filled)
        return
    try:
        document = json.loads("\n".join(line for _, line in lines)) if filled else []
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: neither JSON nor a JSON object on each line: {error}") from None
    if isinstance(document, dict):
        document = document.get("data", [document])
    if not isinstance(document, list):
        raise TaskError(f"{path}: expected a list, or an object with a list `data`")
    for number, item in enumerate(document):
        yield from _unnested(item, f"{path}, item {number}")


def _unnested(item: Any, place: str) -> Iterator[Record]:
    """The records of one item of a document."""
    try:
        if isinstance(item, list):
            yield from _c3(item, place)
        elif "paragraphs" in item:
            for number, paragraph in enumerate(item["paragraphs"]):
                yield from _questions(paragraph, "context", f"{place}, paragraph {number}")
        elif "qas" in item:
            yield from _questions(
                item, "context_text" if "context_text" in item else "context", place
            )
        else:
            yield place, dict(item)
    except (KeyError, TypeError, ValueError) as error:
        yield place, TaskError(f"{place}: not of a known form: {error!r}")


def _c3(item: list[Any], place: str) -> Iterator[Record]:
    """C3: [lines of a text or dialogue, [{question, choice, answer}, …], id]."""
    lines, questions, *rest = item
    for number, each in enumerate(questions):
        record = {
            "context": "\n".join(lines),
            "question": each["question"],
            "choices": each["choice"],
        }
        if "answer" in each:
            record["answer"] = each["answer"]
        yield f"{place}, question {number}", record | ({"id": rest[0]} if rest else {})


def _questions(paragraph: dict[str, Any], text: str, place: str) -> Iterator[Record]:
    """SQuAD's paragraphs, and those of CMRC 2018's own form (`context_text`, `query_text`)."""
    for number, each in enumerate(paragraph["qas"]):
        record = {
            "context": paragraph[text],
            "question": each.get("question", each.get("query_text")),
            "id": each.get("id", each.get("query_id")),
        }
        if each.get("answers") is not None:
            record["answers"] = each["answers"]
        yield f"{place}, question {number}", record


def _parquet(path: str, columns: Columns) -> Iterator[Record]:
    try:
        with open_bytes(path) as file:
            number = 0
            for batch in parquet.ParquetFile(file).iter_batches(1024):
                for row in _rows(batch):
                    number += 1
                    place = f"{path}, row {number}"
                    if isinstance(row, str):
                        yield place, TaskError(f"{place}: {row}")
                    else:
                        yield place, columns.without_empty(row)
    except pa.ArrowException as error:
        raise TaskError(f"{path}: {error}") from error


def _rows(batch: pa.RecordBatch) -> Iterator[Example | str]:
    """The rows as objects, or why a row is none: Arrow does not check whether strings are UTF-8."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield f"{error}; expected UTF-8 text"
            return
        for number in range(batch.num_rows):
            yield from _rows(batch.slice(number, 1))
        return
    for row in rows:
        # Predictions are written with all keys, and JSON has no dates and decimals.
        yield json.loads(json.dumps(row, default=_plain))


def _plain(value: Any) -> Any:
    """A value of Parquet that JSON does not have. Bytes become numbers, which are no text."""
    return list(value) if isinstance(value, bytes) else str(value)


def _table(
    path: str, lines: Iterator[tuple[str, str]], columns: Columns, quoted: bool
) -> Iterator[Record]:
    rows = _quoted_rows(path, lines) if quoted else _plain_rows(lines)
    first = next(rows, None)
    if first is None:
        return
    heading = [name.strip() for name in first[1]]
    names = _names(path, heading, columns)
    if names is not heading:
        rows = itertools.chain([first], rows)
    for place, cells in rows:
        if len(cells) != len(names):
            yield place, TaskError(f"{place}: {len(cells)} columns, expected {', '.join(names)}")
        else:
            yield place, columns.without_empty(dict(zip(names, cells, strict=True)))


def _plain_rows(lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    return ((place, line.split("\t")) for place, line in lines if line.strip())


def _quoted_rows(path: str, lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(line + "\n" for _, line in lines)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise TaskError(f"{path}, line {line}: {error}") from None
        if cells is None:
            return
        if cells:
            yield f"{path}, line {line}", cells


def _names(path: str, first: list[str], columns: Columns) -> list[str]:
    """Names of the columns: the first line itself, if it is one of names.

    Raises TaskError where nothing says what the columns hold.
    """
    numbers = {each: field for field, each in columns.renamed.items() if isinstance(each, int)}
    if numbers:
        return [numbers.get(place, f"column {place}") for place in range(len(first))]
    if all(columns.names_of(field) & set(first) for field in columns.needed):
        return first
    if len(first) == len(columns.order):
        return list(columns.order)
    example = ", ".join(f"{field}: {place}" for place, field in enumerate(columns.needed))
    raise TaskError(
        f"{path}, line 1: {', '.join(first)[:80]!r} does not name the columns "
        f"({', '.join(columns.needed)}); set data.columns to their names or, for a file without "
        f"names, to their numbers, as {{{example}}}"
    )


def _conll(lines: Iterable[tuple[str, str]], columns: Columns) -> Iterator[Record]:
    """Sentences between blank lines: the first column is a word, the last one its label.

    The numbers of `columns` choose other columns. A line without a label is a word of a file to be
    predicted; -DOCSTART- is left out.
    """
    start, words, labels = "", [], []
    numbers = {field: each for field, each in columns.renamed.items() if isinstance(each, int)}
    word, label = numbers.get("tokens", 0), numbers.get("labels", -1)
    for place, line in itertools.chain(lines, [("", "")]):
        cells = line.split("\t") if "\t" in line else line.split()
        if line.strip() and not line.startswith("-DOCSTART-"):
            start = start or place
            # Of a word of white space, as 199801 has, the columns begin with the separator.
            # A line without the column of words gives an empty one, which no example may have.
            words.append((cells[word] or " ") if word < len(cells) else "")
            labels += [each.strip() for each in cells[label:][:1]] if len(cells) > 1 else []
        elif words:
            if labels and len(labels) != len(words):
                yield start, TaskError(f"{start}: {len(words)} words but {len(labels)} labels")
            else:
                yield start, {"tokens": words} | ({"labels": labels} if labels else {})
            start, words, labels = "", [], []
