"""A fine-tuning in this process, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.disk import OWN
from pipeline.errors import NezhaError
from pipeline.finetuning.finetune import (
    FinetuneResult,
    Finetuning,
    Found,
    Work,
    finetune_with,
)
from pipeline.finetuning.network import Show
from pipeline.finetuning.trials.trial import Trial
from pipeline.settings.finetuning import FinetuneSettings


def finetune(
    settings: FinetuneSettings,
    export: str,
    output: Path,
    seed: int,
    from_scratch: bool = False,
    show: Show = lambda line: None,
) -> FinetuneResult:
    """`finetune_with` for one fine-tuning, which one worker computes."""

    def call(work: Work) -> Any:
        try:
            return work.function(*work.arguments, show=show, disk=OWN)
        except NezhaError as error:
            return error

    def halve(trials: Sequence[Trial], metric: str) -> Found:
        raise AssertionError("a search by halving needs a cluster")

    job = Finetuning("", settings, export, output, seed, from_scratch)
    (result,) = finetune_with(
        lambda works: list(map(call, works)), [job], lambda name, line: show(line), halve
    )
    return result
