"""Train or check a vocabulary: `python -m jobs.vocab --config F [a.b=c …]`."""

from contextlib import closing

from rich.console import Console

from jobs.command import RUN, Verb, main
from jobs.output.progress import ConsoleProgress
from pipeline import sample
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.text.sources import Listing
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages import preparing
from pipeline.stages.before import preflight


def plan(config: Config) -> dict[str, object]:
    paths = RunPaths.of(config)
    if config.corpus.vocab:
        return {"check": paths.vocab, "entries": len(read_vocabulary(paths.vocab))}
    corpus = preparing.with_sample(config).corpus
    return {
        "train on": ", ".join(corpus.inputs),
        "entries": corpus.vocab_size,
        "write": paths.vocab,
    }


def execute(config: Config, console: Console) -> None:
    sources = Listing([], [])
    if not config.corpus.vocab:
        if config.demo.enabled:
            sample.make(RunPaths.of(config).sample, config.demo.heldout_share)
        config = preparing.with_sample(config)
        # The same files as jobs.prepare reads, so that it need not train again.
        sources = list_inputs(config.corpus, *preflight.written_by(config)).sources
    with closing(ConsoleProgress(console)) as progress:
        preparing.make_vocabulary(config, sources, progress)


VERB = Verb(
    help=(
        "Train a WordPiece vocabulary on corpus.inputs, in which each Han character is a token,\n"
        "or check the one that corpus.vocab names. The same inputs give the same file."
    ),
    groups=(
        *(*RUN, "demo", "corpus.inputs", "corpus.heldout", "corpus.format", "corpus.text_field"),
        *("corpus.encoding", "corpus.cleaning", "corpus.lowercase", "corpus.vocab"),
        *("corpus.vocab_size", "corpus.user_dictionary", "corpus.output", "corpus.keep_rejected"),
        *("corpus.shard_megabytes", "corpus.workers"),
    ),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
