"""Task data as people publish it: which records a file holds, and where each of them stands.

| file | records |
|---|---|
| `.jsonl`; `.json` of several lines | a JSON object on each line (CLUE) |
| `.json` | one document: SQuAD's and CMRC's nesting, C3's lists, Label Studio's tasks, or a
list of objects |
| `.csv`, `.tsv`, `.tab` | a line below one of column names, or without it; only `.csv` has quotes;
for words with labels also CoNLL's columns |
| `.parquet`, `.pq` | a row |
| any other | objects, if the first line is one; for words with labels, CoNLL's columns with a
blank line between sentences; for other tasks as `.tsv` |

Each may be compressed. What a record of a kind of task is, `Task.published` says.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from pipeline.corpus.decoding.json_lines import DECODER, value_at
from pipeline.errors import TaskError
from pipeline.finetuning.examples.cloze import unfold
from pipeline.finetuning.examples.columns import Columns, Record
from pipeline.finetuning.examples.jsonl import JSON, UNIQUE, Example, parse_object, without
from pipeline.finetuning.examples.lines import open_bytes, read_lines, uncompressed
from pipeline.finetuning.examples.tables import (
    TABLES,
    check_names,
    hold_words,
    is_comment,
    read_rows,
    read_table,
    without_places,
    word_cells,
)

PARQUET = (".parquet", ".pq")


def read_records(path: str, columns: Columns) -> Iterator[Record]:
    """The records of a file, with the keys that the file has, or its `renamed` ones.

    Raises TaskError when the file is missing, damaged or of another form.
    """
    wanted = {field: each for field, each in columns.renamed.items() if isinstance(each, str)}
    found = _as_they_are(path, columns)
    for place, record in unfold(path, found) if columns.task.multiple_choice else found:
        if isinstance(record, dict):
            nested = {each: value_at(record, each) for each in wanted.values()}
            record |= {each: value for each, value in nested.items() if value is not None}
            # Without the column that was named, another one would be taken for the field.
            lost = [
                each
                for field, each in wanted.items()
                if each not in record
                and (field in columns.needed or columns.names_of(field) & record.keys())
            ]
            if lost:
                record = TaskError(f"{place}: no {lost[0]!r}; there is {', '.join(record)}")
            else:
                new = {field: record[each] for field, each in wanted.items() if each in record}
                record = without(record, *wanted.values()) | new
        yield place, record


def _as_they_are(path: str, columns: Columns) -> Iterator[Record]:
    """The records of a file with its own keys."""
    name = uncompressed(path)
    if name.endswith(TABLES):
        quoted = name.endswith(".csv")
        rows = read_rows(path, read_lines(path), quoted, columns)
        if columns.task.words_in_columns and hold_words(
            read_rows(path, read_lines(path), quoted, columns), columns
        ):
            return _conll(((place, "\t".join(cells)) for place, cells in rows), columns)
        return read_table(path, rows, columns)
    if name.endswith((*PARQUET, ".json", ".jsonl")) or _holds_objects(path):
        for field, number in columns.numbers.items():
            raise TaskError(
                f"{path}: {columns.setting} says {{{field}: {number}}}, but here columns have "
                f"names, not numbers; set it to the name, as {{{field}: NAME}}"
            )
        if name.endswith(PARQUET):
            return _parquet(path, columns)
        return _json(path) if name.endswith(".json") else _objects(read_lines(path))
    if name.endswith(".ann"):
        raise TaskError(
            f"{path}: annotations of BRAT, whose text stands in another file, are not read; write "
            'a .jsonl file with an object for each text, as {"text": "王明在北京", "entities": '
            '[{"start": 0, "end": 2, "type": "PER"}]}'
        )
    if columns.task.words_in_columns:
        return _conll(without_places(read_lines(path)), columns)
    return read_table(path, read_rows(path, read_lines(path), False, columns), columns)


def _holds_objects(path: str) -> bool:
    """Whether the first line is an object, and not the word `{` with its label."""
    return bool(JSON.match(next((line for _, line in read_lines(path) if line.strip()), "")))


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
        first = DECODER.decode(filled[0][1]) if filled else None
    except (ValueError, RecursionError):
        first = None
    if isinstance(first, dict) and (len(filled) > 1 or "data" not in first):
        yield from _objects(filled)
        return
    try:
        text = "\n".join(line for _, line in lines)
        document = UNIQUE.decode(text) if filled else []
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from None
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
    if not isinstance(item, list | dict):
        yield place, TaskError(f"{place}: expected an object or a list, found {item!r:.60}")
        return
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
        elif isinstance(item.get("data"), dict) and "annotations" in item:
            yield from _label_studio(item, place)
        else:
            yield place, dict(item)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
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
        record |= {
            key: each[key] for key in ("answers", "is_impossible") if each.get(key) is not None
        }
        yield f"{place}, question {number}", record


def _label_studio(task: dict[str, Any], place: str) -> Iterator[Record]:
    """A task of Label Studio: a record for each annotation, as in its JSON_MIN.

    What was annotated stands under the name of the control: entities, or the names of choices. An
    annotation that marks nothing says that there is no entity.
    """
    record = {"id": task.get("id"), **task["data"]}
    given = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not given:
        yield place, record
    for number, annotation in enumerate(given):
        found: dict[str, list[Any]] = {} if annotation["result"] else {"entities": []}
        for each in annotation["result"]:
            if "value" in each:  # a relation has none
                value = each["value"]
                found.setdefault(each["from_name"], []).extend(value.get("choices", [value]))
        yield f"{place}, annotation {number}", record | found


def _parquet(path: str, columns: Columns) -> Iterator[Record]:
    try:
        with open_bytes(path) as file:
            table, number = parquet.ParquetFile(file), 0
            check_names(table.schema_arrow.names, path)
            names = _class_names(table.schema_arrow)
            for batch in table.iter_batches(1024):
                for row in _rows(batch):
                    number += 1
                    place = f"{path}, row {number}"
                    if isinstance(row, str):
                        yield place, TaskError(f"{place}: {row}")
                    else:
                        yield place, columns.without_empty(_named(row, names))
    except pa.ArrowException as error:
        raise TaskError(f"{path}: {error}") from error


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes, by column, that stand as numbers in lists, as `ner_tags`.

    Hugging Face's datasets write the names into the metadata. Other columns of classes keep their
    numbers, which the same data have in other forms.
    """
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(written).get("info", {}).get("features", {})
    inner = {
        column: each[0] if isinstance(each, list) else each.get("feature", {})
        for column, each in features.items()
        if each
    }
    return {
        column: each["names"]
        for column, each in inner.items()
        if isinstance(each, dict) and each.get("_type") == "ClassLabel"
    }


def _named(row: Example, names: Mapping[str, list[str]]) -> Example:
    """A row with names of classes in place of their numbers."""
    lists = {column: row[column] for column in names if isinstance(row.get(column), list)}
    return row | {
        column: [names[column][each] if each in range(len(names[column])) else each for each in own]
        for column, own in lists.items()
    }


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


def _conll(lines: Iterable[tuple[str, str]], columns: Columns) -> Iterator[Record]:
    """Sentences between blank lines: the first column is a word, the last one its label.

    The numbers of `columns` choose other columns. A line without a label is a word of a file to be
    predicted; -DOCSTART- and comments before a sentence, as MultiCoNER's `# id …`, are left out.
    Raises TaskError where the first column counts the words.
    """
    start, width = "", 0
    words: list[str] = []
    labels: list[str] = []
    numbers = columns.numbers
    word, label = numbers.get("tokens", 0), numbers.get("labels", -1)
    for place, line in itertools.chain(lines, [("", "")]):
        cells = word_cells(line)
        if not words and is_comment(line, label):
            continue
        if line.strip() and not line.startswith("-DOCSTART-"):
            start = start or place
            # Of a word of white space, as 199801 has, the columns begin with the separator.
            # A line without the column of words gives an empty one, which no example may have.
            words.append((cells[word].strip() or " ") if word < len(cells) else "")
            width = max(width, len(cells))
            labels += [each.strip() for each in cells[label:][:1]] if len(cells) > 1 else []
        elif words:
            counted = [str(number) for number in range(len(words) + 1)]
            others = width > 2 and len(words) > 1 and "tokens" not in numbers
            if others and words in (counted[1:], counted[:-1]):
                raise TaskError(
                    f"{start}: the first column counts the words; set {columns.setting} to the "
                    "number of the column that holds them, as {tokens: 1}"
                )
            if labels and len(labels) != len(words):
                yield start, TaskError(f"{start}: {len(words)} words but {len(labels)} labels")
            else:
                yield start, {"tokens": words} | ({"labels": labels} if labels else {})
            start, words, labels, width = "", [], [], 0
