"""Answers as CLUE's benchmarks take them."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.errors import TaskError
from pipeline.finetuning.examples.jsonl import to_json
from pipeline.finetuning.tasks import Task


def submission(task: Task, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The lines of a submission, from examples with their `prediction`.

    A line for each example, of its `id` and its answer; for answer spans and the blanks of ChID one
    object of all answers by `id`. Raises TaskError as `with_ids`.
    """
    by_id: dict[str, Any] = {}
    for key, row in with_ids(task, rows):
        given = row["prediction"]
        if task.submitted_by_id(row):
            by_id[str(key)] = "" if given is None else task.submitted(row, given)
        else:
            yield to_json({"id": key} | ({} if given is None else task.submitted(row, given)))
    if by_id:
        yield to_json(by_id)


def with_ids(
    task: Task, examples: Iterable[dict[str, Any]]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Examples, each with its `id` in a submission.

    Those without one are counted from 0, and so are those of C3, where several have the same.
    Raises TaskError where two would have the same id, as answer spans write them: 1 is
    also "1".
    """
    seen: dict[str, int] = {}
    for number, example in enumerate(examples):
        key = example.get("id")
        counted = task.multiple_choice and not task.submitted_by_id(example)
        key = number if counted or key is None else key
        if (before := seen.setdefault(str(key), number)) != number:
            raise TaskError(
                f"examples {before + 1} and {number + 1}, counted from 1, would both have the id "
                f"{str(key)!r} in a submission to CLUE; give each an id of its own, or none to all"
            )
        yield key, example
