"""The examples of a task, and what is wrong with them."""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from pipeline.errors import TaskError, raise_all
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.examples.lines import open_bytes
from pipeline.finetuning.examples.task_file import DataMistakes, read_task_file
from pipeline.finetuning.submission import with_ids
from pipeline.finetuning.tasks import TASKS, Task
from pipeline.finetuning.tasks.base import LONGEST_ANSWER, TaskSetup
from pipeline.finetuning.tasks.cells import shown
from pipeline.settings.finetuning import FinetuneSettings, TaskData

LISTED = 50
"""Mistakes in task data that a message lists."""


class TaskExamples(NamedTuple):
    """The examples of a task that are used."""

    sets: dict[str, list[Example]]
    """`train`, `dev`, `test`; empty where no file is named."""
    labels: list[str]
    """Labels of the training examples."""
    notes: list[str]
    """What was done with the data."""
    longest: int
    """`TaskSetup.longest`: tokens of the longest answer span of the training examples."""


def read_examples(settings: FinetuneSettings, tokenizer: PreTrainedTokenizerBase) -> TaskExamples:
    """The examples by set, with their labels.

    Raises TaskError where data are missing or malformed; one message lists every line.
    """
    task: Task = TASKS[settings.task]
    data, findings = settings.data, DataMistakes.none()
    used, labels = _read_sets(task, settings, tokenizer, findings)
    wrong = findings.problems + ([] if settings.skip_bad else findings.bad_lines)
    advice = "" if findings.problems else "; skip_bad=true leaves such lines out"
    raise_all(TaskError, wrong, f"mistake(s) in the task data{advice}", most=LISTED)
    notes = findings.notes
    if bad := findings.bad_lines:
        notes.append(f"{len(bad)} bad line(s) are left out, first: {bad[0]}")
    setup, chosen = TaskSetup(tokenizer, labels, data.length, data.stride), used["train"]
    if differs := task.cut_otherwise(chosen, tokenizer):
        notes.append(f"{data.train}: {differs}")
    sizes = task.target_sizes(chosen, setup)
    notes += _repeated(task, data, used)
    used["train"] = [each for each, size in zip(chosen, sizes, strict=True) if size]
    if not used["train"]:
        raise TaskError(f"{data.train}: no window of data.length={data.length} shows an answer")
    if hidden := sizes.count(0):
        notes.append(_hidden(data.train, hidden, len(sizes), data, "are left out"))
    for name, path in ("dev", data.dev), ("test", data.test):
        judged = [each for each in used[name] if task.target in each]
        if hidden := task.target_sizes(judged, setup).count(0):
            notes.append(_hidden(path, hidden, len(judged), data, "cannot be answered right"))
    return TaskExamples(used, labels, notes, max(LONGEST_ANSWER, *sizes))


def _read_sets(
    task: Task,
    settings: FinetuneSettings,
    tokenizer: PreTrainedTokenizerBase,
    findings: DataMistakes,
) -> tuple[dict[str, list[Example]], list[str]]:
    """As many examples of each set as the settings ask for, and the labels of the training set.

    `findings` takes what is wrong with them.
    """
    data = settings.data

    def fits(example: Example) -> str:
        return task.unfit(example, tokenizer, data.length)

    train = read_task_file(task, data.train, findings, None, fits, columns=data.columns)
    labels = task.label_set(train)
    chosen = choose_evenly(train, data.examples)
    if settings.skip_bad or not findings.bad_lines:  # which may hold what there is to learn
        for those, of in (train, ""), (chosen, f", in the {len(chosen)} of data.examples"):
            if those and (what := task.nothing_to_learn(those)):
                problem = f"{data.train}: {what}{of}, so there is nothing to learn"
                findings.problems.append(problem)
                break
    weighed = settings.label_weights if isinstance(settings.label_weights, dict) else {}
    if train and (unknown := sorted(set(weighed) - set(labels))):
        findings.problems.append(
            f"label_weights: label {unknown[0]!r} does not occur in the training examples "
            f"({shown(labels)})"
        )
    known = labels if train else None

    def read(path: str, target_needed: bool) -> list[Example]:
        if not path:
            return []
        found = read_task_file(task, path, findings, known, fits, target_needed, data.columns)
        return choose_evenly(found, data.eval_examples)

    dev, test = read(data.dev, target_needed=True), read(data.test, target_needed=False)
    if not any(task.target in example for example in test):
        try:
            list(with_ids(task, test))
        except TaskError as error:
            findings.problems.append(f"{data.test}: {error}")
    return {"train": chosen, "dev": dev, "test": test}, labels


def _repeated(task: Task, data: TaskData, sets: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    """Notes on dev and test examples whose fields are those of a training example."""

    def key(example: Example) -> int:
        return hash(repr([example[field] for field in task.fields]))

    learnt = set(map(key, sets["train"]))
    for name, path in ("dev", data.dev), ("test", data.test):
        if number := sum(key(example) in learnt for example in sets[name]):
            yield (
                f"{path}: {number} of {len(sets[name])} examples stand in {data.train} too, so "
                "scores on them say less of other texts"
            )


def _hidden(path: str, hidden: int, total: int, data: TaskData, what: str) -> str:
    """A note on examples whose target no window shows whole."""
    return (
        f"{path}: {hidden} of {total} examples {what}, because no window shows their answer whole; "
        f"raise data.length={data.length} or data.stride"
    )


def choose_evenly(examples: list[Example], limit: int) -> list[Example]:
    """`limit` examples in their order, or all of them if the limit is 0 or larger.

    One is drawn from each of `limit` parts of equal size, always the same one. Examples at even
    distances would all have one label where labels alternate.
    """
    if not 0 < limit < len(examples):
        return examples
    draw = random.Random(0)
    ends = [i * len(examples) // limit for i in range(limit + 1)]
    return [examples[draw.randrange(*part)] for part in itertools.pairwise(ends)]


def hash_file(path: str) -> str:
    """SHA-256 of a file, which may be in an object store."""
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
