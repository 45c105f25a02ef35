"""The file of a task: its good examples, and what is wrong with the others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pipeline.errors import TaskError
from pipeline.finetuning.examples.columns import Columns
from pipeline.finetuning.examples.formats import read_records
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.tasks.base import Task
from pipeline.finetuning.tasks.cells import shown

NO_GOLD_LABEL = "-"
"""What OCNLI, CMNLI and SNLI write where annotators did not agree. Beside + it is a label."""
WITHHELD = (-1, "-1")
"""What test sets of GLUE and CLUE have as each label when they are published as Parquet."""

Placed = list[tuple[str, Example]]
"""Examples, each with its place: file and line."""


class DataMistakes(NamedTuple):
    """What is wrong with task data, and what a user should know of it."""

    problems: list[str]
    """What makes fine-tuning impossible: a file that is missing or empty, one class only."""
    bad_lines: list[str]
    """Malformed examples, each with file and line."""
    notes: list[str]
    """What was done with the data."""

    @classmethod
    def none(cls) -> "DataMistakes":
        return cls([], [], [])


def read_task_file(
    task: Task,
    path: str,
    findings: DataMistakes,
    labels: Sequence[str] | None = None,
    fits: Callable[[Example], str] = lambda example: "",
    target_needed: bool = True,
    columns: Mapping[str, str | int] | None = None,
) -> list[Example]:
    """The good examples of a file of any form in `formats`; class labels become strings.

    Args:
        findings: takes what is wrong: the file is missing, empty or of another form, a field is
            missing or has another type, a text is blank.
        labels: labels that may occur; None: any.
        fits: why an example cannot be used; empty if it can.
        target_needed: whether a file without any target is wrong; otherwise its examples have
            none. A target that is null, blank or an empty list is none, and so is -1 if every
            example has it and no label is -1.
        columns: how the file names fields and target, or their numbers.
    """
    bad: dict[str, str] = {}
    try:
        places, found = _parsed(task, read_records(path, Columns(task, columns or {})), bad)
        if NO_GOLD_LABEL not in (labels or ()):
            found, disputed = _without_disputed(task, found, labels)
            if disputed:
                findings.notes.append(
                    f"{path}: {disputed} of {len(places)} examples are left out: their label is "
                    "-, which says that annotators did not agree"
                )
        if target_needed or _has_targets(task, found, labels):
            _check_target_column(task, path, found)
            found = _with_good_targets(task, found, bad)
            task.unify([example for _, example in found], path, findings.notes)
        else:
            _drop_targets(task, path, found, findings)
    except TaskError as error:
        findings.problems.append(str(error))
        return []
    findings.notes.extend(_repeated(task, path, found))
    examples = list(_usable(task, found, labels, fits, bad))
    findings.bad_lines.extend(bad[place] for place in places if place in bad)
    if not places:
        keys = ", ".join([*task.fields, task.target])
        findings.problems.append(f"{path}: no examples; expected {keys}")
    elif not examples:
        findings.problems.append(f"{path}: no good example")
    return examples


def _parsed(
    task: Task, records: Iterable[tuple[str, Example | TaskError]], bad: dict[str, str]
) -> tuple[list[str], Placed]:
    """The places of all records, and the examples that have the fields of the task."""
    places, found = [], []
    for place, record in records:
        places.append(place)
        with _noting(bad, place):
            found.append((place, _example(task, record, place)))
    return places, found


def _example(task: Task, record: Example | TaskError, place: str) -> Example:
    if isinstance(record, TaskError):
        raise record
    example = task.check_fields(task.example(record, place), place)
    if key := task.blank(example):
        raise TaskError(f"{place}, key {key}: there is no visible character")
    return example


def _without_disputed(
    task: Task, found: Placed, labels: Sequence[str] | None
) -> tuple[Placed, int]:
    """Those whose label is not -, and the number of the others.

    Where no labels are known yet, - beside + is a label.
    """
    given = [example.get(task.target) for _, example in found]
    if not labels and "+" in given:
        return found, 0
    agreed = [each for each, label in zip(found, given, strict=True) if label != NO_GOLD_LABEL]
    return agreed, len(found) - len(agreed)


def _has_targets(task: Task, found: Placed, labels: Sequence[str] | None) -> bool:
    """Whether any example has a target; -1 is one where a label is called so."""
    withheld = [each for each in WITHHELD if str(each) not in (labels or ())]
    targets = [example.get(task.target) for _, example in found]
    return not all(_is_none(target) or target in withheld for target in targets)


def _is_none(target: Any) -> bool:
    """Whether a target is null, a blank cell or an empty list."""
    return target in (None, []) or (isinstance(target, str) and not target.strip())


def _check_target_column(task: Task, path: str, found: Placed) -> None:
    """Raise TaskError where all of several examples lack the target: it has another name."""
    if len(found) > 1 and not any(task.target in example for _, example in found):
        advice = task.advice_without_targets(found[0][1])
        raise TaskError(f"{path}: no example has the key {task.target!r}; {advice}")


def _with_good_targets(task: Task, found: Placed, bad: dict[str, str]) -> Placed:
    good = []
    for place, example in found:
        with _noting(bad, place):
            task.check_target(example, place)
            good.append((place, example))
    return good


def _drop_targets(task: Task, path: str, found: Placed, findings: DataMistakes) -> None:
    """Leave out the keys that stand for no target."""
    targets = [example.pop(task.target, None) for _, example in found]
    if not all(map(_is_none, targets)):
        findings.notes.append(f"{path}: every label is -1, which stands for none")


def _usable(
    task: Task,
    found: Placed,
    labels: Sequence[str] | None,
    fits: Callable[[Example], str],
    bad: dict[str, str],
) -> Iterator[Example]:
    """The examples with known labels that fit."""
    for place, example in found:
        unknown: set[str] = set()
        if labels is not None and task.target in example:
            unknown = task.labels_of([example]) - set(labels)
        if unknown:
            bad[place] = (
                f"{place}: label {min(unknown)!r:.60} does not occur in the training examples "
                f"({shown(labels or ())})"
            )
        elif reason := fits(example):
            bad[place] = f"{place}: {reason}"
        else:
            yield example


def _repeated(task: Task, path: str, found: Placed) -> Iterator[str]:
    """A note on examples with the `id` of an earlier one, as where a file was joined to itself.

    They are used: an `id` may also be that of a customer, or of another source.
    """
    seen: dict[str, str] = {}
    again = [
        (place, seen[same])
        for place, example in found
        if (key := task.identity(example)) is not None
        if seen.setdefault(same := repr(key), place) != place
    ]
    if again:
        place, before = again[0]
        count = f"{len(again)} of {len(found)} examples have the id of one before them"
        yield f"{path}: {count}, first: {place} that of {before}"


@contextmanager
def _noting(bad: dict[str, str], place: str) -> Iterator[None]:
    """Note a TaskError of the block instead of raising it."""
    try:
        yield
    except TaskError as error:
        bad[place] = str(error)
