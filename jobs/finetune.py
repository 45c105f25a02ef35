"""Fine-tune a head: `python -m jobs.finetune finetune.task=ner finetune.data.train=F …`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from jobs.command import Verb, main, table
from jobs.output.progress import ConsoleProgress
from pipeline.errors import ConfigError, TrackingError
from pipeline.finetuning.finetune import FinetuneResult, check
from pipeline.finetuning.head_folder import PREDICTIONS, RESULTS, read_results
from pipeline.finetuning.on_cluster import Finetuning, finetune_all
from pipeline.paths import RunPaths
from pipeline.registering import register_head
from pipeline.settings.config import Config
from pipeline.tracking import runs as tracking
from pipeline.tracking.finetuning import record_finetuning


def plan(config: Config) -> Mapping[str, object]:
    check(config.finetune)
    settings = config.finetune
    return {
        "start from": "random weights" if settings.from_scratch else _export(config),
        "train on": settings.data.train,
        "choose the best epoch on": settings.data.dev or "nothing (the last epoch is kept)",
        "score on": settings.data.test or settings.data.dev or "nothing",
        "epochs, batch, learning rate": f"{settings.epochs}, {settings.batch}, {settings.lr:g}",
        "write": _output(config),
        "record in": tracking.tracking_uri(config),
    }


def execute(config: Config, console: Console) -> None:
    settings, output = config.finetune, _output(config)
    tags = {"stage": "finetune", "task": settings.task, "export": _export(config)}
    run_id = tracking.start_run(config, f"{config.run.name}-{output.name}", tags)
    progress = ConsoleProgress(console)
    job = Finetuning(output.name, settings, _export(config), output, config.run.seed)
    try:
        (result,) = finetune_all([job], lambda name, line: progress.update(line, name))
    except BaseException:
        tracking.finish_run(config, run_id, "FAILED")
        raise
    finally:
        progress.close()
    record_finetuning(config, run_id, result.epochs, result.test, Path(result.folder, RESULTS))
    _register(config, result, run_id, console)
    for number, trial in enumerate(result.trials if len(result.trials) > 1 else [], 1):
        console.print(table(f"Trial {number}", _rounded(trial)))
    for name, scores in (("dev", result.dev), ("test", result.test)):
        if scores:
            console.print(table(f"Scores on {name}", _rounded(scores)))
    if (Path(result.folder) / PREDICTIONS).exists():
        console.print(f"Predictions of the test examples: {result.folder}/{PREDICTIONS}")
    console.print(f"{result.seconds} s. Next:", highlight=False)
    console.print(
        f"  python -m jobs.predict predict.model={result.folder} predict.input=FILE", markup=False
    )


def _register(config: Config, result: FinetuneResult, run_id: str, console: Console) -> None:
    try:
        made = register_head(config, Path(result.folder), run_id)
    except TrackingError as error:  # the head is worth more
        console.print(str(error), markup=False)
    else:
        console.print(f"{made.uri}\n{made.note}".strip(), markup=False, highlight=False)


def _rounded(scores: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in scores.items()}


def _export(config: Config) -> str:
    return config.finetune.checkpoint or str(RunPaths.of(config).export)


def _output(config: Config) -> Path:
    """The folder of the head.

    Raises:
        ConfigError: it holds the head of another task or of other data, which would be lost.
    """
    settings = config.finetune
    name = settings.name or settings.task + ("-scratch" if settings.from_scratch else "")
    folder = RunPaths.of(config).heads / name
    if (folder / RESULTS).exists():
        held = read_results(folder)
        before = held["task"], held.get("data", {}).get("train", "")
        if before != (settings.task, settings.data.train):
            raise ConfigError(
                f"{folder} holds a head for {before[0]}, trained on {before[1] or 'other data'}; "
                "give this one another finetune.name, or remove that folder"
            )
    return folder


VERB = Verb(
    help=(
        "Fine-tune a head on labelled examples (JSONL): classification, pair, ner, choice, span.\n"
        "The result is a Hugging Face folder under `run.storage`/`run.name`/heads."
    ),
    groups=("run", "tracking", "finetune"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
