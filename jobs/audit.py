"""Check what a run consumed: `python -m jobs.audit RUN`."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing

from rich.console import Console

from jobs.command import RUN, Verb, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table
from pipeline.errors import TrainingError, raise_all
from pipeline.paths import RunPaths
from pipeline.runs.audit import audit
from pipeline.settings.config import Config


def plan(config: Config) -> dict[str, object]:
    return {"audit": RunPaths.of(config).run}


def execute(config: Config, console: Console) -> None:
    with closing(ConsoleProgress(console)) as progress:
        found = audit(config, progress.update)
    workers = " or ".join(map(str, found.workers))
    facts = {
        "steps": f"{found.steps:,}",
        "starts of the workers": f"{found.attempts}, with {workers} workers",
        "steps done again": found.repeated or "none",
        "steps without an update": ", ".join(map(str, found.unapplied)) or "none",
        "batches left out by rewinds": found.left_out or "none",
        "samples left out, of damaged shards": f"{found.damaged:,}" if found.damaged else "none",
        "samples": "\n".join(_without_equals(found.epochs)),
        "problems": len(found.problems) or "none",
    }
    console.print(table(str(RunPaths.of(config).run), facts))
    raise_all(TrainingError, found.problems, "problem(s)", most=100)


def _without_equals(epochs: Sequence[str]) -> Iterator[str]:
    """Of epochs in a row that have the same counts, the first and the last."""
    for _, equal in itertools.groupby(epochs, lambda line: line.partition(": ")[2]):
        first, *others = equal
        yield first
        if len(others) > 1:
            yield f"… and {len(others) - 1:,} epochs like it"
        yield from others[-1:]


VERB = Verb(
    help=(
        "Check, by a run's own records, that its newest checkpoint has consumed every sample of\n"
        "an epoch exactly once, through all restarts and numbers of workers. Names each step\n"
        "whose record is missing, damaged or differs from the order; then the exit status is 2."
    ),
    groups=RUN,
    plan=plan,
    execute=execute,
    reads_only=True,
    takes_run=True,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
