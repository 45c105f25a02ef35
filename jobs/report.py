"""Write a run's report: `python -m jobs.report RUN`."""

from rich.console import Console

from jobs.command import RUN, Verb, main
from pipeline.paths import RunPaths
from pipeline.runs import run_in_store
from pipeline.runs.report import FILE, write_report
from pipeline.settings.config import Config


def plan(config: Config) -> dict[str, object]:
    return {"write": RunPaths.of(config).run / FILE}


def execute(config: Config, console: Console) -> None:
    page = write_report(RunPaths.of(config).run)
    run_in_store.upload(config, page)
    console.print(page)


VERB = Verb(
    help=(
        "Write one HTML page into a run's folder: loss and throughput with restarts and skipped\n"
        "steps marked, the share of the wall time that trained, the rest of it by cause, and all\n"
        "that happened. Pretraining writes it at its end; it may also be made of a run that trains."
    ),
    groups=RUN,
    plan=plan,
    execute=execute,
    reads_only=True,
    takes_run=True,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
