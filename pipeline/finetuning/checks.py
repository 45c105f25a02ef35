"""What is refused before a fine-tuning starts: settings, and files that do not exist."""

import math
from pathlib import Path

from pipeline.errors import ConfigError, raise_all
from pipeline.files.urls import is_url
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials import search
from pipeline.settings.finetuning import FinetuneSettings

SETS = ("dev", "test")
"""Sets of examples that a head is scored on."""


def check(settings: FinetuneSettings, group: str = "finetune") -> None:
    """Raise ConfigError, with all mistakes, for settings that fine-tuning can't work with.

    `group` is what the messages call the settings: `finetune` or `heads.NAME`.
    """
    mistakes = []
    if not settings.task:
        mistakes.append(f"{group}.task: choose one of {', '.join(TASKS)}")
    if not settings.data.train:
        without = "" if group == "finetune" else ", or set heads={} for a run without heads"
        mistakes.append(f"{group}.data.train: name the training examples{without}")
    if settings.name and group != "finetune":
        mistakes.append(f"{group}.name: leave it out; the head is called {group.split('.')[-1]}")
    if settings.task:
        wrong = TASKS[settings.task].wrong_columns(settings.data.columns)
        mistakes += [f"{group}.data.columns: {mistake}" for mistake in wrong]
    length, stride = settings.data.length, settings.data.stride
    if stride is not None and settings.task and not TASKS[settings.task].has_windows:
        mistakes.append(f"{group}.data.stride: has no effect on {settings.task}: leave it out")
    elif stride is not None and stride >= length // 2 - 3:
        mistakes.append(
            f"{group}.data.stride={stride} must be smaller than half of data.length={length}, so "
            "that a window goes on from the one before"
        )
    trials = [(point.lr, point.batch) for point, _ in search.grid(settings, 0)]
    if len(trials) > 1 and not settings.data.dev:
        mistakes.append(f"{group}.search: needs {group}.data.dev to compare the trials on")
    if settings.search.halving and len(set(trials)) == 1:
        mistakes.append(
            f"{group}.search.halving: needs several values of search.lr or search.batch"
        )
    if settings.search.halving and settings.epochs == 1:
        mistakes.append(f"{group}.search.halving: needs more than one epoch to stop anything early")
    if settings.patience and not settings.data.dev:
        mistakes.append(f"{group}.patience: needs {group}.data.dev to see what is better")
    several = settings.workers > 1
    if settings.micro_batch >= math.ceil(settings.batch / settings.workers):
        each = f" / {group}.workers={settings.workers}" if several else ""
        mistakes.append(
            f"{group}.micro_batch={settings.micro_batch} must be smaller than {group}.batch="
            f"{settings.batch}{each}; leave it out to process the batch at once"
        )
    if settings.workers > (smallest := min(batch for _, batch in trials)):
        what = f"there are {smallest} examples in a batch to share"
        mistakes.append(f"{group}.workers={settings.workers}: {what}")
    if several and settings.gpus < 1:
        mistakes.append(f"{group}.workers: need a GPU each; {group}.gpus={settings.gpus:g} is less")
    if several and settings.search.halving:
        mistakes.append(f"{group}.workers: search.halving has trials of one worker; leave one out")
    if settings.label_weights and settings.task and not TASKS[settings.task].has_label_weights:
        mistakes.append(f"{group}.label_weights: has no effect on {settings.task}: leave it out")
    raise_all(ConfigError, mistakes, "wrong setting(s)")


def check_files(settings: FinetuneSettings, group: str, to_come: Path | None = None) -> None:
    """Raise ConfigError, with all of them, for local data files that do not exist.

    `to_come` is a folder whose files are made before they are read.
    """
    files = {name: getattr(settings.data, name) for name in ("train", *SETS)}
    missing = [
        f"{group}.data.{name}: {path}: no such file"
        for name, path in files.items()
        if path and not is_url(path) and not Path(path).exists()
        if to_come is None or not Path(path).is_relative_to(to_come)
    ]
    raise_all(ConfigError, missing)
