"""Fine-tunings in this process, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster.calls import Work
from pipeline.errors import NezhaError
from pipeline.files.disk import OWN
from pipeline.finetuning import loading
from pipeline.finetuning.examples.data import read_examples
from pipeline.finetuning.finetune import finetune_with
from pipeline.finetuning.judging.evaluation import Dataset
from pipeline.finetuning.network import TaskNetwork
from pipeline.finetuning.result import FinetuneResult
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.finetuning.trials.running import Finetuning, Found
from pipeline.finetuning.trials.trial import Trial
from pipeline.progress import Progress
from pipeline.settings.finetuning import FinetuneSettings
from tests.reported import reported


def model_and_sets(
    export: str, settings: FinetuneSettings, seed: int
) -> tuple[TaskNetwork, dict[str, Dataset]]:
    """A network with a new head, and the data to train it on."""
    task, tokenizer = TASKS[settings.task], loading.load_tokenizer(export)
    data = read_examples(settings, tokenizer)
    setup = TaskSetup(tokenizer, data.labels, settings.data.length)
    sets = {name: Dataset.of(task, each, setup) for name, each in data.sets.items()}
    torch.manual_seed(seed)
    network = loading.build(task, export, data.labels, settings.dropout, False)
    return TaskNetwork(task, setup, network, settings.precision), sets


def finetune(
    settings: FinetuneSettings,
    export: str,
    output: Path,
    seed: int,
    progress: Progress | None = None,
) -> FinetuneResult:
    """`finetune_with` for one fine-tuning, which one worker computes."""
    progress = reported(progress)

    def call(work: Work) -> Any:
        try:
            return work.function(
                *work.arguments, say=lambda line: progress.update(line, work.name), disk=OWN
            )
        except NezhaError as error:
            return error

    def halve(trials: Sequence[Trial], metric: str) -> Found:
        raise AssertionError("a search by halving needs a cluster")

    job = Finetuning("head", settings, export, output, seed)
    (result,) = finetune_with(lambda works: list(map(call, works)), [job], progress, halve)
    return result
