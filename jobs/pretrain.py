"""The main job: `python -m jobs.pretrain --config jobs/configs/demo.yaml [a.b=c …]`."""

from __future__ import annotations

import sys

from rich.console import Console

from jobs.command import Verb, main, table
from pipeline import preflight as plans
from pipeline import stages as road
from pipeline.paths import RunPaths
from pipeline.settings.config import Config


def execute(config: Config, console: Console) -> None:
    summary = road.travel(config, lambda line: console.print(line, markup=False, highlight=False))
    seconds = summary.pop("seconds")
    shown = {name: _shown(value) for name, value in summary.items()}
    console.print(table(f"Run {config.run.name}", shown))
    console.print(table("Seconds by stage", seconds | {"all": round(sum(seconds.values()), 1)}))
    console.print(f"Summary: {RunPaths.of(config).summary}\nNext:", markup=False)
    for command in plans.next_commands(config):
        console.print(f"  {command}", markup=False, highlight=False)


def _shown(value: object) -> str:
    """Scores with four digits, speeds as whole numbers."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return str(value)


VERB = Verb(
    help=(
        "Take the whole road: sample or own corpus, vocabulary, shards, pretraining on Ray Train\n"
        "and DeepSpeed, export, registry, heads. What is done and still valid is skipped; an\n"
        "interrupted run goes on from its newest checkpoint."
    ),
    groups=("run", "demo", "corpus", "model", "train", "optim", "engine", "scaling", "tracking"),
    plan=plans.pretrain,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
