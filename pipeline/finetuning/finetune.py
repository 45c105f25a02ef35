"""Fine-tuning: an export and task data become a scored Hugging Face folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import torch

from pipeline.errors import ConfigError, ExportError, TaskError
from pipeline.export.lineage import text_cleaner
from pipeline.finetuning import network as networks
from pipeline.finetuning.evaluation import Dataset, answers, evaluate
from pipeline.finetuning.head_folder import PREDICTIONS, read_results, save
from pipeline.finetuning.jsonl import Example
from pipeline.finetuning.network import Show
from pipeline.finetuning.tasks import TASKS, Task
from pipeline.finetuning.tasks.base import Findings, TaskSetup
from pipeline.finetuning.training import Trained, train
from pipeline.settings.finetuning import FinetuneSettings

LISTED = 50
"""Mistakes in task data that a message lists."""


class FinetuneResult(NamedTuple):
    """A fine-tuned head; scores lie between 0 and 1."""

    metric: str
    """The score that chose the best epoch: accuracy or f1."""
    score: float | None
    """That score on test; on dev where there is no test set; None where there is neither."""
    dev: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, float]]
    """`loss` and dev scores of each epoch of the trial that was kept."""
    trials: list[dict[str, float]]
    """lr, batch, seed and best dev scores of each point of the grid."""
    seconds: float
    folder: str


def check(settings: FinetuneSettings, group: str = "finetune") -> None:
    """Raise ConfigError, with all mistakes, for settings that fine-tuning can't work with.

    `group` is what the messages call the settings: `finetune` or `heads.NAME`.
    """
    mistakes = []
    if not settings.task:
        mistakes.append(f"{group}.task: choose one of {', '.join(TASKS)}")
    if not settings.data.train:
        mistakes.append(f"{group}.data.train: name the training examples (JSONL)")
    if settings.name and group != "finetune":
        mistakes.append(f"{group}.name: leave it out; the head is called {group.split('.')[-1]}")
    if len(list(grid(settings, 0))) > 1 and not settings.data.dev:
        mistakes.append(f"{group}.search: needs {group}.data.dev to compare the trials on")
    if mistakes:
        raise ConfigError(f"{len(mistakes)} wrong setting(s):\n  " + "\n  ".join(mistakes))


def finetune(
    settings: FinetuneSettings,
    export: str,
    output: Path,
    seed: int,
    from_scratch: bool = False,
    show: Show = lambda line: None,
) -> FinetuneResult:
    """Fine-tune every point of the grid, keep the best epoch on dev, and score it on test once.

    Equal arguments give an equal result on the same machine with the same number of threads.
    `output` appears whole or not at all; if the same data, export and settings made it before, it
    is kept as it is.

    Raises:
        ConfigError: task or training data are not named.
        TaskError: the data are missing or malformed; one message lists every line, before anything
            is computed.
        ExportError: `export` is not a usable Hugging Face folder.
        TrainingError: the loss is not a number.
    """
    check(settings)
    start_time = time.monotonic()
    from_scratch = from_scratch or settings.from_scratch
    task = TASKS[settings.task]
    tokenizer = networks.load_tokenizer(export)
    examples, labels, notes = _read(
        task, settings, lambda example: task.unfit(example, tokenizer, settings.data.length)
    )
    fingerprint = _fingerprint(settings, export, seed, from_scratch)
    if known := _known_result(output, fingerprint):
        show(f"{output} is up to date")
        return known
    if output.exists():
        show(f"{output} holds the result of other settings or data, which will be replaced")
    setup = TaskSetup(
        tokenizer, labels, settings.data.length, settings.data.stride, text_cleaner(export)
    )
    datasets = {name: Dataset.of(task, each, setup) for name, each in examples.items()}
    sizes = ", ".join(f"{len(each):,} {name}" for name, each in examples.items())
    for note in notes:
        show(note)
    show(f"{settings.task} from {'random weights' if from_scratch else export}: {sizes} examples")

    best: Trained | None = None
    trials = []
    for point, point_seed in grid(settings, seed):
        with _reproducible(point_seed):
            network = networks.build(task, export, labels, settings.dropout, from_scratch)
            trained = train(task, network, point, point_seed, datasets, setup, show)
        trials.append({"lr": point.lr, "batch": point.batch, "seed": point_seed} | trained.dev)
        if best is None or trained.dev[task.metric] > best.dev[task.metric]:
            best = trained
    assert best is not None  # the grid has at least one point
    network.load_state_dict(best.weights)
    test, predictions = {}, []
    if all(task.target in example for example in datasets["test"].examples):
        test = evaluate(task, network, datasets["test"], settings.batch, setup)
    else:
        found = answers(task, network, datasets["test"], settings.batch, setup)
        pairs = zip(datasets["test"].examples, found, strict=True)
        predictions = [example | {"prediction": answer} for example, answer in pairs]
        show(f"the test examples have no {task.target}: predictions in {output / PREDICTIONS}")
    result = FinetuneResult(
        metric=task.metric,
        score=(test or best.dev).get(task.metric),
        dev=best.dev,
        test=test,
        epochs=best.epochs,
        trials=trials,
        seconds=round(time.monotonic() - start_time, 1),
        folder=str(output),
    )
    facts: dict[str, Any] = {
        "task": settings.task,
        "length": settings.data.length,
        "stride": settings.data.stride,
        "labels": labels,
        "data": settings.data.model_dump(mode="json"),
        "notes": notes,
    }
    origin = {"export": export, "from_scratch": from_scratch, "fingerprint": fingerprint}
    output.parent.mkdir(parents=True, exist_ok=True)
    save(network, tokenizer, export, output, facts | result._asdict() | origin, predictions)
    return result


def grid(settings: FinetuneSettings, seed: int) -> Iterator[tuple[FinetuneSettings, int]]:
    """Settings and seed of every combination that `finetune.search` lists."""
    search = settings.search
    for lr, batch, point_seed in itertools.product(
        search.lr or [settings.lr], search.batch or [settings.batch], search.seeds or [seed]
    ):
        yield settings.model_copy(update={"lr": lr, "batch": batch}), point_seed


def spread(examples: list[Example], limit: int) -> list[Example]:
    """`limit` examples at even distances, or all of them if the limit is 0 or larger."""
    if not 0 < limit < len(examples):
        return examples
    return [examples[i * len(examples) // limit] for i in range(limit)]


def _read(
    task: Task, settings: FinetuneSettings, fits: Callable[[Example], str]
) -> tuple[dict[str, list[Example]], list[str], list[str]]:
    """Examples by set (none where no file is named), labels of the training examples, and notes."""
    data, findings = settings.data, Findings.none()
    train_examples = task.read(data.train, findings, None, fits, columns=data.columns)
    labels = task.label_set(train_examples)
    if task.has_labels and train_examples and len(labels) < 2:
        findings.problems.append(
            f"{data.train}: every label is {labels[0]}, so there is nothing to learn"
        )
    known = labels if train_examples else None
    read = partial(task.read, findings=findings, labels=known, fits=fits, columns=data.columns)
    dev = read(data.dev) if data.dev else []
    test = read(data.test, target_needed=False) if data.test else []
    wrong = findings.problems + ([] if settings.skip_bad else findings.bad_lines)
    if wrong:
        more = [f"… and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        lines = "\n  ".join([*wrong[:LISTED], *more])
        advice = "" if findings.problems else "; skip_bad: true leaves such lines out"
        raise TaskError(f"{len(wrong)} mistake(s) in the task data{advice}:\n  {lines}")
    notes = findings.notes
    if bad := findings.bad_lines:
        notes.append(f"{len(bad)} bad line(s) are left out, first: {bad[0]}")
    examples = {"train": spread(train_examples, data.examples), "dev": dev, "test": test}
    return examples, labels, notes


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch and ask it for deterministic kernels while the block runs."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _fingerprint(settings: FinetuneSettings, export: str, seed: int, from_scratch: bool) -> str:
    """Hash of everything that the result depends on."""
    chosen = settings.model_dump(mode="json") | {"seed": seed, "from_scratch": from_scratch}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    data = [path for path in (settings.data.train, settings.data.dev, settings.data.test) if path]
    suffixes = {".json", ".txt"} if from_scratch else {".json", ".txt", ".safetensors", ".bin"}
    files = sorted(path for path in Path(export).iterdir() if path.suffix in suffixes)
    for path in [*data, *map(str, files)]:
        with fsspec.open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _known_result(output: Path, fingerprint: str) -> FinetuneResult | None:
    """The result in the folder, if it has this fingerprint."""
    try:
        found = read_results(output)
    except ExportError:
        return None
    if found["fingerprint"] != fingerprint:
        return None
    return FinetuneResult(**{name: found[name] for name in FinetuneResult._fields})
