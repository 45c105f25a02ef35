"""Fine-tuning data: JSONL, plain or compressed, checked before anything is computed.

| task | what a line holds |
|---|---|
| classification | `text`, `label` |
| pair | `sentence1`, `sentence2`, `label` |
| ner | `tokens` (mostly single characters), `labels` (BIO, as many) |
| choice | `context`, `question`, `choices`, `answer` (which choice, from 0) |
| span | `context`, `question`, `answers`: a list of `{text, start}` |

Other fields are allowed and ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import fsspec

from pipeline.errors import TaskError

Example = dict[str, Any]

FIELDS: dict[str, dict[str, type]] = {
    "classification": {"text": str},
    "pair": {"sentence1": str, "sentence2": str},
    "ner": {"tokens": list},
    "choice": {"context": str, "question": str, "choices": list},
    "span": {"context": str, "question": str},
}
TARGET = {
    "classification": "label",
    "pair": "label",
    "ner": "labels",
    "choice": "answer",
    "span": "answers",
}
_BIO = re.compile(r"O|[BI]-\S+")


def read(task: str, path: str, labels: Sequence[str] | None = None) -> list[Example]:
    """The labelled examples of a file; class labels become strings.

    Raises TaskError naming file, line and key: the file is missing, empty or not JSONL, a field is
    missing or of another type, a label is not among `labels` (when those are given).
    """
    examples = []
    for where, line in read_lines(path):
        example = check_fields(task, load(line, where), where)
        check_target(task, example, where)
        if labels is not None:
            _check_known(_labels(task, [example]), labels, where)
        examples.append(example)
    if not examples:
        raise TaskError(f"{path}: no examples; expected JSON lines with {_keys(task)}")
    return examples


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """(where it stands, for messages; the line) of the lines that are not blank."""
    number = 0
    try:
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", line.rstrip("\r\n")
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise TaskError(f"{path}, after line {number}: {error}; expected UTF-8 text") from error


def load(line: str, where: str) -> Example:
    """A line as an object, not looked into."""
    try:
        example = json.loads(line)
    except ValueError as error:
        raise TaskError(f"{where}: not JSON: {error}") from None
    if not isinstance(example, dict):
        raise TaskError(f"{where}: expected a JSON object, found {line!r:.60}")
    return example


def check_fields(task: str, example: Example, where: str) -> Example:
    """The example, if the fields that the task reads are there; its target is not looked at."""
    for key, kind in FIELDS[task].items():
        _require(example, key, kind, where, task)
    for key in ("tokens", "choices"):
        if key in FIELDS[task] and not (
            example[key] and all(isinstance(item, str) and item for item in example[key])
        ):
            raise TaskError(f"{where}, key {key}: expected a list of strings that are not empty")
    return example


def check_target(task: str, example: Example, where: str) -> None:
    """Raise TaskError unless the target is there and fits the rest of the example."""
    key = TARGET[task]
    if task in ("classification", "pair"):
        _require(example, key, (str, int), where, task)
        example[key] = str(example[key])
    elif task == "ner":
        _require(example, key, list, where, task)
        if len(example[key]) != len(example["tokens"]):
            raise TaskError(
                f"{where}: {len(example['tokens'])} tokens but {len(example[key])} labels"
            )
        for label in example[key]:
            if not isinstance(label, str) or not _BIO.fullmatch(label):
                raise TaskError(f"{where}, key labels: {label!r} is not O, B-TYPE or I-TYPE")
    elif task == "choice":
        _require(example, key, int, where, task)
        if not 0 <= example[key] < len(example["choices"]):
            raise TaskError(
                f"{where}, key answer: {example[key]} is not the index of a choice "
                f"(there are {len(example['choices'])}, counted from 0)"
            )
    else:
        _require(example, key, list, where, task)
        if not example[key]:
            raise TaskError(f"{where}, key answers: expected at least one answer")
        for answer in example[key]:
            _check_answer(answer, example["context"], where)


def label_set(task: str, examples: Iterable[Example]) -> list[str]:
    """Labels of the training examples in order: O, B-X, I-X … for entities; none for the rest."""
    found = _labels(task, examples)
    if task != "ner":
        return sorted(found)
    kinds = sorted({label[2:] for label in found if label != "O"})
    return ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]


def spread(examples: list[Example], limit: int) -> list[Example]:
    """`limit` examples at even distances, or all of them where the limit is 0 or larger."""
    if not 0 < limit < len(examples):
        return examples
    return [examples[i * len(examples) // limit] for i in range(limit)]


def _labels(task: str, examples: Iterable[Example]) -> set[str]:
    if task in ("classification", "pair"):
        return {example["label"] for example in examples}
    if task == "ner":
        return {label for example in examples for label in example["labels"]}
    return set()


def _check_known(found: set[str], labels: Sequence[str], where: str) -> None:
    if unknown := found - set(labels):
        raise TaskError(
            f"{where}: label {sorted(unknown)[0]!r} does not occur in the training examples "
            f"({', '.join(labels)})"
        )


def _check_answer(answer: Any, context: str, where: str) -> None:
    if not isinstance(answer, dict):
        raise TaskError(f"{where}, key answers: expected objects with text and start")
    _require(answer, "text", str, where, "answers")
    _require(answer, "start", int, where, "answers")
    text, start = answer["text"], answer["start"]
    if not text or context[start : start + len(text)] != text:
        raise TaskError(
            f"{where}, key answers: {text!r} does not stand at character {start} of the context, "
            f"which reads {context[start : start + len(text)]!r} there"
        )


def _require(
    example: Example, key: str, kind: type | tuple[type, ...], where: str, task: str
) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = " or ".join(each.__name__ for each in kinds)
    if key not in example:
        keys = ", ".join(map(str, example)) or "nothing"
        raise TaskError(f"{where}: no key {key!r} ({task} needs it: {names}); there is {keys}")
    if not isinstance(example[key], kinds) or isinstance(example[key], bool):
        raise TaskError(f"{where}, key {key}: expected {names}, found {example[key]!r:.60}")


def _keys(task: str) -> str:
    return ", ".join([*FIELDS[task], TARGET[task]])
