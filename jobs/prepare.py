"""Turn text into shards: `python -m jobs.prepare --config F [a.b=c …]`."""

import functools
from contextlib import closing

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table
from pipeline import sample
from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import Inputs, list_inputs
from pipeline.corpus.samples.vocabulary_training import is_trained
from pipeline.corpus.shards import format as shards
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings
from pipeline.stages import preparing
from pipeline.stages.before import preflight


@functools.lru_cache(maxsize=1)
def _inputs(corpus: CorpusSettings, written: tuple[str, ...], run: str) -> Inputs:
    """The signed inputs. `plan` lists them; `execute`, which follows, uses the same list."""
    return list_inputs(corpus, written, run)


def plan(config: Config) -> dict[str, object]:
    _inputs.cache_clear()
    paths, corpus = RunPaths.of(config), preparing.with_sample(config).corpus
    preparing.check_preparation(config)
    if config.demo.enabled and not config.corpus.inputs and not paths.sample.exists():
        return {"make the sample": paths.sample, "read it and write": paths.shards}
    inputs = _inputs(corpus, *preflight.written_by(config))
    preparing.check_trained(preparing.with_sample(config), inputs)
    apart = {"hold out": planning.reads(inputs.heldout)["read"]} if inputs.heldout else {}
    if not corpus.vocab and not is_trained(corpus, paths.vocab, inputs.sources):
        return {
            **planning.reads(inputs.sources),
            **apart,
            f"train a vocabulary of {corpus.vocab_size:,}": paths.vocab,
            "write": paths.shards,
        }
    planned = planning.plan(corpus, paths.vocab, config.run.seed, inputs)
    return prepare.summary(planned, paths.shards) | apart


def execute(config: Config, console: Console) -> None:
    paths = RunPaths.of(config)
    if config.demo.enabled:
        sample.make(paths.sample, config.demo.heldout_share)
        _inputs.cache_clear()  # the sample may be new
    config = preparing.with_sample(config)
    inputs = _inputs(config.corpus, *preflight.written_by(config))
    with closing(ConsoleProgress(console)) as progress:
        preparing.make_vocabulary(config, inputs.sources, progress)
        preparing.make_shards(config, inputs, progress)
    manifest = shards.read_manifest(paths.shards)
    console.print(
        table(
            paths.shards,
            {"samples": f"{manifest.rows:,}", "shards": len(manifest.shards)}
            | {name: f"{count:,}" for name, count in manifest.counts.items()}
            | {f"dropped: {reason}": f"{count:,}" for reason, count in manifest.drops.items()}
            | {"segmenter": manifest.segmenter, "fingerprint": manifest.fingerprint[:16]},
        )
    )


VERB = Verb(
    help=(
        "Turn raw text into shards of training samples: clean, deduplicate, segment, pair and\n"
        "mask it on a Ray cluster. corpus.heldout becomes a corpus of its own. Finished work is\n"
        "kept: the same command goes on after an interruption, and does nothing if all is done."
    ),
    groups=("run", "corpus", "demo", "train.phases", "train.eval_shards"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
