"""Train or check a vocabulary: `python -m jobs.vocab --config F [a.b=c …]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console

from jobs.command import Verb, main
from pipeline import sample
from pipeline import stages as road
from pipeline.corpus.samples import vocabulary as wordpiece
from pipeline.paths import RunPaths
from pipeline.settings.config import Config


def plan(config: Config) -> Mapping[str, object]:
    paths = RunPaths.of(config)
    if config.corpus.vocab:
        return {"check": paths.vocab, "entries": len(wordpiece.read_vocabulary(paths.vocab))}
    corpus = road.with_sample(config).corpus
    return {
        "train on": ", ".join(corpus.inputs),
        "entries": corpus.vocab_size,
        "write": paths.vocab,
    }


def execute(config: Config, console: Console) -> None:
    if config.demo.enabled and not config.corpus.vocab:
        sample.make(RunPaths.of(config).sample, config.demo.heldout_share)
    road.make_vocabulary(
        road.with_sample(config), lambda line: console.print(line, markup=False, highlight=False)
    )


VERB = Verb(
    help=(
        "Train a WordPiece vocabulary with single Han characters on corpus.inputs, or check the\n"
        "one that corpus.vocab names. The same inputs give the same file."
    ),
    groups=("run", "corpus"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
