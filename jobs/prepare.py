"""Text to shards: `python -m jobs.prepare --config F [a.b=c …]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console

from jobs.command import Verb, main, table
from pipeline import sample
from pipeline import stages as road
from pipeline.corpus import prepare
from pipeline.corpus.shards import format as shards
from pipeline.paths import RunPaths
from pipeline.settings.config import Config


def plan(config: Config) -> Mapping[str, object]:
    paths, corpus = RunPaths.of(config), road.with_sample(config).corpus
    if config.demo.enabled and not config.corpus.inputs and not paths.sample.exists():
        return {"make the sample": paths.sample, "read it and write": paths.shards}
    if not paths.vocab.exists() and not config.corpus.vocab:
        return prepare.reading(corpus, corpus.inputs) | {
            f"train a vocabulary of {corpus.vocab_size:,}": paths.vocab,
            "write": paths.shards,
        }
    planned = prepare.plan(corpus, paths.vocab, config.run.seed, corpus.inputs)
    return prepare.summary(planned, paths.shards)


def execute(config: Config, console: Console) -> None:
    paths = RunPaths.of(config)

    def show(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    if config.demo.enabled:
        sample.make(paths.sample, config.demo.heldout_share)
    config = road.with_sample(config)
    road.make_vocabulary(config, show)
    road.make_shards(config, show)
    manifest = shards.read_manifest(paths.shards)
    console.print(
        table(
            str(paths.shards),
            {"samples": f"{manifest.rows:,}", "shards": len(manifest.shards)}
            | {name: f"{count:,}" for name, count in manifest.counts.items()}
            | {f"dropped: {reason}": f"{count:,}" for reason, count in manifest.drops.items()}
            | {"segmenter": manifest.segmenter, "fingerprint": manifest.fingerprint[:16]},
        )
    )


VERB = Verb(
    help=(
        "Clean, deduplicate, segment, pair and mask text into shards with Ray Data. Finished\n"
        "work is kept: the same command goes on where an interrupted one stopped, and does\n"
        "nothing when the shards are there and still valid. corpus.heldout is prepared apart."
    ),
    groups=("run", "corpus"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
