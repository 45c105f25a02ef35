"""Train on prepared shards without Ray, in one process or in those that torchrun starts.

python -m jobs.torchrun --config F
torchrun --nproc-per-node 8 -m jobs.torchrun --config F
"""

from contextlib import closing

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table
from pipeline.paths import RunPaths
from pipeline.runs.report import write_report
from pipeline.settings.config import Config
from pipeline.stages.before import dry_run
from pipeline.training.launch import torchrun


def plan(config: Config) -> dict[str, object]:
    return dry_run.train_alone(torchrun.with_workers(config))


def execute(config: Config, console: Console) -> None:
    with closing(ConsoleProgress(console)) as progress:
        state = torchrun.fit(config, progress)
    if torchrun.rank() == 0:
        write_report(RunPaths.of(config).run)
        console.print(table("Trained", {"step": state["step"], **state["heldout"]}))


VERB = Verb(
    help=__doc__,
    groups=("run", "corpus", "model", "train", "optim", "engine", "scaling", "faults"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
