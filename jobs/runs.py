"""List the runs of a storage folder: `python -m jobs.runs run.storage=runs`."""

from pathlib import Path

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.tables import grid
from pipeline.errors import ConfigError
from pipeline.files.urls import is_url
from pipeline.runs.listing import RunState, list_runs
from pipeline.settings.config import Config


def _runs(config: Config) -> list[RunState]:
    storage = Path(config.run.storage)
    if is_url(config.run.storage):
        raise ConfigError(f"run.storage={config.run.storage}: jobs.runs lists folders, no URLs")
    if not storage.is_dir():
        raise ConfigError(f"run.storage={storage}: no such folder")
    return list_runs(storage)


def plan(config: Config) -> dict[str, object]:
    return {"list": f"{len(_runs(config))} runs in {config.run.storage}"}


def execute(config: Config, console: Console) -> None:
    if not (runs := _runs(config)):
        console.print(f"{config.run.storage}: no run has begun to train there")
        return
    rows = [["run", "state", "step", "of", "newest checkpoint", "what happened last"]]
    for run in runs:
        steps = f"{run.steps:,}" if run.steps is not None else "?"
        last = run.last_event or "-"
        rows.append([run.name, run.state, f"{run.step:,}", steps, run.checkpoint, last])
    console.print(grid(rows))


VERB = Verb(
    help="List the runs of run.storage: their state, last step, newest checkpoint and last event.",
    groups=("run.storage",),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
