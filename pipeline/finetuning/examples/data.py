"""The examples of a task, what is wrong with them, and what a fine-tuning depends on."""

from __future__ import annotations

import hashlib
import itertools
import random
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from pipeline.errors import TaskError
from pipeline.finetuning import loading
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.examples.lines import open_bytes
from pipeline.finetuning.examples.task_file import Findings, read_task_file
from pipeline.finetuning.prediction.head_folder import with_ids
from pipeline.finetuning.tasks import TASKS, Task
from pipeline.finetuning.tasks.base import LONGEST_ANSWER, TaskSetup
from pipeline.hashing import hash_of
from pipeline.settings.finetuning import FinetuneSettings, TaskData

LISTED = 50
"""Mistakes in task data that a message lists."""
RECIPE = 5
"""Version of what fine-tuning computes. Raise it with a change that changes results."""


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


class Examined(NamedTuple):
    """What is known of a fine-tuning before anything is trained."""

    fingerprint: str
    """Hash of the settings, data and weights that all its trials have in common."""
    sizes: dict[str, int]
    """Examples by set."""
    notes: list[str]
    trivial: dict[str, dict[str, float]]
    """Scores on dev and test of answers that ignore the input (`Task.trivial_answers`)."""
    predicts: bool
    """Whether the test examples have no targets and are predicted."""
    judged_on: dict[str, str]
    """Hash of the examples of dev and of test that are used: equal hashes, comparable scores."""


def examine(settings: FinetuneSettings, export: str, from_scratch: bool) -> Examined:
    """Read and check everything, before any training.

    Raises:
        TaskError: the data are missing or malformed; one message lists every line.
        ExportError: `export` is not a usable Hugging Face folder.
    """
    task, tokenizer = TASKS[settings.task], loading.load_tokenizer(export)
    loading.check_length(export, settings.data.length)
    data = read_examples(settings, tokenizer)
    trivial = {}
    for name in ("dev", "test"):
        examples = data.sets[name]
        if examples and all(task.target in example for example in examples):
            found = task.trivial_answers(data.sets["train"], examples)
            trivial[name] = task.scores(examples, found)
    return Examined(
        fingerprint=fingerprint(settings, export, from_scratch),
        sizes={name: len(each) for name, each in data.sets.items()},
        notes=data.notes,
        trivial=trivial,
        predicts=bool(data.sets["test"]) and "test" not in trivial,
        judged_on={name: hash_of(data.sets[name]) for name in ("dev", "test")},
    )


def read_examples(settings: FinetuneSettings, tokenizer: PreTrainedTokenizerBase) -> TaskExamples:
    """The examples by set, with their labels. Raises TaskError, as `examine`."""
    task: Task = TASKS[settings.task]
    data, findings, skip = settings.data, Findings.none(), settings.skip_bad

    def fits(example: Example) -> str:
        return task.unfit(example, tokenizer, data.length)

    train_examples = read_task_file(task, data.train, findings, None, fits, columns=data.columns)
    labels = task.label_set(train_examples)
    chosen = spread(train_examples, data.examples)
    for those, of in (train_examples, ""), (chosen, f", in the {len(chosen)} of data.examples"):
        if findings.bad_lines and not skip:
            break  # they may hold what there is to learn
        if those and (what := task.nothing_to_learn(those)):
            problem = f"{data.train}: {what}{of}, so there is nothing to learn"
            findings.problems.append(problem)
            break
    known = labels if train_examples else None

    def read(path: str, target_needed: bool = True) -> list[Example]:
        return read_task_file(task, path, findings, known, fits, target_needed, data.columns)

    dev = read(data.dev) if data.dev else []
    test = read(data.test, target_needed=False) if data.test else []
    if not any(task.target in example for example in test):
        try:
            list(with_ids(task, spread(test, data.eval_examples)))
        except TaskError as error:
            findings.problems.append(f"{data.test}: {error}")
    wrong = findings.problems + ([] if skip else findings.bad_lines)
    if wrong:
        more = [f"… and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        lines = "\n  ".join([*wrong[:LISTED], *more])
        advice = "" if findings.problems else "; skip_bad: true leaves such lines out"
        raise TaskError(f"{len(wrong)} mistake(s) in the task data{advice}:\n  {lines}")
    notes = findings.notes
    if bad := findings.bad_lines:
        notes.append(f"{len(bad)} bad line(s) are left out, first: {bad[0]}")
    setup = TaskSetup(tokenizer, labels, data.length, data.stride)
    sizes = task.target_sizes(chosen, setup)
    used = {
        "train": [each for each, size in zip(chosen, sizes, strict=True) if size],
        "dev": spread(dev, data.eval_examples),
        "test": spread(test, data.eval_examples),
    }
    if not used["train"]:
        raise TaskError(f"{data.train}: no window of data.length={data.length} shows an answer")
    if hidden := sizes.count(0):
        notes.append(_hidden(data.train, hidden, len(sizes), data, "are left out"))
    for name, path in ("dev", data.dev), ("test", data.test):
        judged = [each for each in used[name] if task.target in each]
        if hidden := task.target_sizes(judged, setup).count(0):
            notes.append(_hidden(path, hidden, len(judged), data, "cannot be answered right"))
    return TaskExamples(used, labels, notes, max(LONGEST_ANSWER, *sizes))


def _hidden(path: str, hidden: int, total: int, data: TaskData, what: str) -> str:
    """A note on examples whose target no window shows whole."""
    return (
        f"{path}: {hidden} of {total} examples {what}, because no window shows their answer whole; "
        f"raise data.length={data.length} or data.stride"
    )


def spread(examples: list[Example], limit: int) -> list[Example]:
    """`limit` examples in their order, or all of them if the limit is 0 or larger.

    One is drawn from each of `limit` parts of equal size, always the same one. Examples at even
    distances would all have one label where labels alternate.
    """
    if not 0 < limit < len(examples):
        return examples
    draw = random.Random(0)
    ends = [i * len(examples) // limit for i in range(limit + 1)]
    return [examples[draw.randrange(*part)] for part in itertools.pairwise(ends)]


def fingerprint(settings: FinetuneSettings, export: str, from_scratch: bool) -> str:
    """Hash of settings, data and start, without what differs between the trials of a grid.

    `gpus` is left out too: it says where a trial runs, and changes no result. Several workers draw
    other dropout than one.
    """
    chosen: dict[str, Any] = settings.model_dump(mode="json")
    if settings.workers == 1:
        del chosen["workers"]  # what was made before there was this setting stays valid
    for name in ("name", "checkpoint", "search", "lr", "batch", "gpus"):
        del chosen[name]
    places = chosen["data"]
    data = [places.pop(name) for name in ("train", "dev", "test")]
    suffixes = {".json", ".txt"} if from_scratch else {".json", ".txt", ".safetensors", ".bin"}
    files = sorted(path for path in Path(export).iterdir() if path.suffix in suffixes)
    hashes = [hash_file(path) if path else "" for path in [*data, *map(str, files)]]
    return hash_of([RECIPE, chosen | {"from_scratch": from_scratch}, hashes])


def hash_file(path: str) -> str:
    """SHA-256 of a file, which may be in an object store."""
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
