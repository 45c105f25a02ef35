"""Check shards: `python -m jobs.verify --config F [train.shards=[FOLDER]]`."""

from rich.console import Console

from jobs.command import RUN, Verb, main
from jobs.output.tables import table
from pipeline.corpus.shards.format import is_corpus
from pipeline.corpus.shards.verify import verify
from pipeline.errors import ShardError, raise_all
from pipeline.feed.opening import training_folders
from pipeline.paths import RunPaths
from pipeline.settings.config import Config


def plan(config: Config) -> dict[str, object]:
    return {"check": "\n".join(_folders(config))}


def execute(config: Config, console: Console) -> None:
    problems = []
    for folder in _folders(config):
        checked = verify(folder)
        facts = {
            "shards": f"{checked.shards:,}",
            "samples": f"{checked.rows:,}",
            "tokens": f"{checked.tokens:,}",
            "masked tokens": f"{checked.masked:,}",
            "problems": len(checked.problems) or "none",
        }
        console.print(table(folder, facts))
        problems += [f"{folder}: {problem}" for problem in checked.problems]
    advice = "delete the shards that are named above and run jobs.prepare again"
    raise_all(ShardError, problems, "problem(s)", advice)


def _folders(config: Config) -> list[str]:
    """The folders to train on, and the held-out folder if there is one."""
    paths = RunPaths.of(config)
    heldout = [paths.heldout] if is_corpus(paths.heldout) else []
    return training_folders(config) + heldout


VERB = Verb(
    help=(
        "Check shard folders: hashes, schema, and the laws of every sample and mask. Names each\n"
        "problem with its shard and row; the exit status is 2 if there is one."
    ),
    groups=(*RUN, "corpus.output", "train.shards", "train.phases", "train.eval_shards"),
    plan=plan,
    execute=execute,
    reads_only=True,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
