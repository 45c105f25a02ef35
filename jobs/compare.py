"""Compare checkpoints on tasks: `python -m jobs.compare A B … --config jobs/configs/suites/…`."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise

from rich.console import Console

from jobs.command import Verb, is_setting, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import grid
from pipeline.comparing import compare
from pipeline.comparing.recording import record
from pipeline.comparing.report import sections
from pipeline.errors import TrainingError
from pipeline.settings.config import Config
from pipeline.tracking import runs as tracking


def execute(config: Config, console: Console) -> None:
    run_id = tracking.start_run(config, f"{config.run.name}-compare", {"stage": "compare"})
    with closing(ConsoleProgress(console)) as progress, tracking.end_on_error(config, run_id):
        result, files = compare.run(config, progress)
    record(config, run_id, result, files)
    for title, text, rows in sections(result):
        console.print(grid(rows, title=title, title_justify="left", caption=text))
    for path in files:
        console.print(path)
    if not any(row.cells for row in result.rows):
        raise TrainingError("no fine-tuning succeeded; the reasons stand above")


def overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments as `jobs.command` takes them: A B and the short options become settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tasks", nargs="+", default=[])
    for name in ("run", "data", "seeds", "train-limit", "eval-limit"):
        parser.add_argument(f"--{name}")
    given, rest = parser.parse_known_args(arguments)
    names: list[str] = []
    kept: list[str] = []
    for before, word in pairwise(["", *rest]):
        is_name = not (is_setting(word) or word.startswith("-") or before == "--config")
        (names if is_name else kept).append(word)
    kept += filter(is_setting, given.tasks)  # they may stand behind the tasks
    given.tasks = [task for task in given.tasks if not is_setting(task)]
    for name, value in {"checkpoints": names, **vars(given)}.items():
        if value not in (None, []):
            # JSON is YAML: no character of a path in a list changes its meaning.
            text = json.dumps(value) if isinstance(value, list) else value
            kept.append(f"compare.{name}={text}")
    return kept


VERB = Verb(
    help=(
        "Compare checkpoints: fine-tune each on the tasks of `heads` with several seeds, and show\n"
        "mean ± standard deviation, a paired test against the first, what needs no network, and a\n"
        "published encoder of the same size. Finished trials are not repeated.\n"
        "  python -m jobs.compare EXPORT random --config jobs/configs/suites/chinese.yaml\n"
        "Short forms: A B … (compare.checkpoints), --tasks TASK …, --run RUN, --data FOLDER,\n"
        "--seeds N, --train-limit N, --eval-limit N (compare.NAME)."
    ),
    groups=(
        *("run", "tracking.uri", "tracking.experiment", "tracking.parent", "compare"),
        *("heads", "scaling"),
    ),
    plan=compare.plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB, overrides(sys.argv[1:])))
