"""Export the best checkpoint of a run: `python -m jobs.export --config F run.name=NAME`."""

import shlex

from rich.console import Console

from jobs.command import RUN, Verb, main
from jobs.output.tables import table
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages import exporting
from pipeline.tracking.runs import noted_run
from pipeline.training.checkpoints import files as checkpoints


def plan(config: Config) -> dict[str, object]:
    paths = RunPaths.of(config)
    return {"export": checkpoints.best(paths.checkpoints), "to": paths.export}


def execute(config: Config, console: Console) -> None:
    paths = RunPaths.of(config)
    uri = exporting.make_export(config, noted_run(paths.run), console.print)
    console.print(table("Export", {"folder": paths.export, "model URI": uri}))
    start = shlex.quote(f"finetune.checkpoint={paths.export}")
    console.print(f"Next: python -m jobs.finetune {start} …")


VERB = Verb(
    help="Write a run's best checkpoint as a Hugging Face folder and register it in MLflow.",
    groups=(*RUN, "corpus.vocab", "tracking"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
