"""Compare settings: `python -m jobs.ablate --config jobs/configs/ablations/masks.yaml`."""

import shlex
from contextlib import closing

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import grid
from pipeline.errors import TrainingError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages import ablation
from pipeline.stages.ablation_table import as_table, summarize


def plan(config: Config) -> dict[str, object]:
    ablation.check(config)
    planned = ablation.cells(config)
    return {
        "folder": RunPaths.of(config).run,
        "train": ", ".join(cell.config.run.name for cell in planned),
        "steps": ", ".join(sorted({f"{cell.config.train.steps:,}" for cell in planned})),
        "heads": ", ".join(config.heads) or "none",
    }


def execute(config: Config, console: Console) -> None:
    with closing(ConsoleProgress(console)) as progress:
        rows = ablation.run(config, progress)
    title = f"{config.run.name}: mean ± standard deviation"
    console.print(grid(as_table(summarize(rows)), title=title))
    for row in rows:
        for failure in row.failed:
            console.print(f"{row.variant}, {failure}")
    if not any(row.runs for row in rows):
        raise TrainingError("no run reached its last step; the reasons stand above")
    exports = shlex.join(export for row in rows for export in row.exports)
    console.print(
        f"Also in {RunPaths.of(config).run}/ablation.md. For scores of tasks:\n"
        f"  python -m jobs.compare {exports} --config SUITE"
    )


VERB = Verb(
    help=(
        "Train each variant of `ablate.variants` with each of `ablate.seeds`, score all on the\n"
        "held-out samples of the first variant, and print a table. The runs are nested in one\n"
        "MLflow run. The same command goes on after an interruption. With `heads` each run is\n"
        "fine-tuned too."
    ),
    groups=(
        *("ablate", "run", "demo", "corpus", "model", "train", "optim", "engine", "scaling"),
        *("faults", "tracking", "heads"),
    ),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
