"""A trial: one fine-tuning with one learning rate, batch and seed, and its result on the disk.

A trial's folder is named by a hash of all that shapes it and appears whole or not at all, so a
trial that is finished is never repeated.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from pipeline.export.lineage import text_cleaner
from pipeline.files.disk import Disk, fetch_named
from pipeline.files.whole_folder import whole_folder
from pipeline.finetuning import loading
from pipeline.finetuning.examples.data import read_examples
from pipeline.finetuning.examples.jsonl import Example, to_json
from pipeline.finetuning.judging.evaluation import Dataset, answers, scores_of
from pipeline.finetuning.network import TaskNetwork
from pipeline.finetuning.prediction.head_folder import save
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import Answer, Task, TaskSetup
from pipeline.finetuning.training import Report, train
from pipeline.finetuning.workers import Workers
from pipeline.progress import Say
from pipeline.settings.finetuning import FinetuneSettings

RESULT = "result.json"
HEAD = "head"
"""Folder of the network, as `head_folder.save` writes it."""


class Trial(NamedTuple):
    """One fine-tuning to run."""

    name: str
    """Is put before its progress lines."""
    settings: FinetuneSettings
    """Those of one point of the grid."""
    export: str
    seed: int
    folder: Path
    """Where its result is kept."""
    with_head: bool
    """Whether the network is kept too."""


class TrialResult(NamedTuple):
    """What a trial found."""

    lr: float
    batch: int
    seed: int
    epochs: list[dict[str, float]]
    """`loss` and dev scores of each epoch."""
    dev: dict[str, float]
    """Scores of the best epoch, which is the one that is kept."""
    test: dict[str, float]
    parameters: int
    seconds: float
    versions: dict[str, str]
    """Of torch and transformers."""


def run_trial(
    trial: Trial, say: Say, report: Report = lambda scores: None, again: bool = False
) -> TrialResult:
    """The trial's result, from its folder if it is there (unless `again`), or else computed.

    In a process of a group of workers, they compute it together, and the first one writes it.
    Equal trials give an equal result on the same machine with the same number of threads.

    Raises:
        TaskError, ExportError: as `examination.examine`.
        TrainingError: the loss is not a number.
    """
    if not again and (known := read_result(trial.folder)):
        return known
    start_time, settings, workers = time.monotonic(), trial.settings, Workers.of_process()
    task = TASKS[settings.task]
    setup, sets = _read_data(task, trial)
    with _reproducible(trial.seed):
        network = loading.build(
            task, trial.export, setup.labels, settings.dropout, settings.from_scratch
        )
        workers.start_alike(network, trial.seed)
        model = TaskNetwork(task, setup, network, settings.precision)
        trained = train(model, settings, trial.seed, sets, say, report, workers)
    network.load_state_dict(trained.weights)
    setup = trained.setup
    found = answers(model._replace(setup=setup), sets["test"], settings.batch, workers)
    test = scores_of(task, sets["test"].examples, found, setup.labels)
    result = TrialResult(
        lr=settings.lr,
        batch=settings.batch,
        seed=trial.seed,
        epochs=trained.epochs,
        dev=trained.dev,
        test=test,
        parameters=sum(each.numel() for each in network.parameters()),
        seconds=round(time.monotonic() - start_time, 1),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    if workers.rank:
        return result
    with whole_folder(trial.folder) as folder:
        for name, given in (("dev", trained.answers), ("test", found)):
            write_predictions(folder / f"{name}.jsonl", sets[name].examples, given)
        if trial.with_head:
            facts: dict[str, Any] = {
                "task": settings.task,
                "length": setup.length,
                "stride": setup.stride,
                "labels": setup.labels,
                "longest": setup.longest,
                "unanswerable": setup.unanswerable,
                "no_answer": setup.no_answer,
                "precision": settings.precision,
            }
            task.finish(network, setup)
            rows = [] if test else _rows(sets["test"].examples, found)
            save(network, setup.tokenizer, trial.export, folder / HEAD, facts, rows)
        (folder / RESULT).write_text(to_json(result._asdict(), indent=2), "utf-8")
    return result


def _read_data(task: Task, trial: Trial) -> tuple[TaskSetup, dict[str, Dataset]]:
    """The set-up of a trial, and its sets as the network sees them."""
    settings, tokenizer = trial.settings, loading.load_tokenizer(trial.export)
    data = read_examples(settings, tokenizer)
    setup = TaskSetup(
        tokenizer=tokenizer,
        labels=data.labels,
        length=settings.data.length,
        stride=settings.data.stride,
        clean=text_cleaner(trial.export),
        longest=data.longest,
        unanswerable=task.has_unanswerable(data.sets["train"]),
        units=task.units(data.sets["train"]),
    )
    task.cut_as_trained(setup, data.sets["train"])
    test = [
        each if task.target in each else task.cut(each, tokenizer) for each in data.sets["test"]
    ]
    sets = data.sets | {"test": test}
    return setup, {name: Dataset.of(task, each, setup) for name, each in sets.items()}


def run_trial_of(
    disk: Disk,
    trial: Trial,
    say: Say,
    report: Report = lambda scores: None,
    again: bool = False,
) -> TrialResult:
    """`run_trial`, where the trial's folder and export may be on the disk of another node."""
    folder = disk.own(trial.folder)
    if not again and (known := disk.call(read_result, folder)):
        return known
    own = trial._replace(export=fetch_named(disk, trial.export), folder=folder)
    result = run_trial(own, say, report, again)
    if not Workers.of_process().rank:  # which wrote it
        disk.send(folder)
    return result


def read_result(folder: Path) -> TrialResult | None:
    """The result in a trial's folder, if there is one."""
    file = folder / RESULT
    return TrialResult(**json.loads(file.read_text("utf-8"))) if file.exists() else None


def write_predictions(path: Path, examples: Iterable[Example], found: Iterable[Answer]) -> None:
    """A JSON line for each example, with its answer as `prediction`; no file without examples."""
    if lines := "".join(map(to_json, _rows(examples, found))):
        path.write_text(lines, "utf-8")


def read_predictions(path: Path) -> tuple[list[Example], list[Answer]]:
    """Examples and answers that `write_predictions` wrote; none if there is no file."""
    if not path.exists():
        return [], []
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    found = [row.pop("prediction") for row in rows]
    return rows, found


def _rows(examples: Iterable[Example], found: Iterable[Answer]) -> list[dict[str, Any]]:
    pairs = zip(examples, found, strict=True)
    return [example | {"prediction": answer} for example, answer in pairs]


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
