"""A fine-tuning in this process, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cluster.calls import Work
from pipeline.errors import NezhaError
from pipeline.files.disk import OWN
from pipeline.finetuning.finetune import finetune_with
from pipeline.finetuning.result import FinetuneResult
from pipeline.finetuning.trials.running import Finetuning, Found
from pipeline.finetuning.trials.trial import Trial
from pipeline.progress import Progress
from pipeline.settings.finetuning import FinetuneSettings
from tests.reported import reported


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
