"""Score a checkpoint or an export on held-out shards: `python -m jobs.evaluate --config F`."""

from collections.abc import Mapping
from contextlib import closing

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table
from pipeline.corpus.shards.format import is_corpus, read_manifest
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages import scoring
from pipeline.training.evaluation import LENGTHS


def plan(config: Config) -> Mapping[str, object]:
    folder = RunPaths.of(config).heldout
    if not config.train.eval_shards and not is_corpus(folder):
        raise ConfigError(
            f"{folder}: no held-out samples; set train.eval_shards to prepared ones, or "
            "corpus.heldout to texts, which jobs.prepare then prepares"
        )
    samples = min(config.train.eval_samples, read_manifest(folder).rows)
    if config.evaluate.follow:
        if config.train.init_from:
            raise ConfigError(
                "evaluate.follow scores the checkpoints of a run; leave train.init_from out"
            )
        what: object = f"each checkpoint of {RunPaths.of(config).run}, to the last step"
    else:
        what = scoring.subject(config)
    return {"score": what, "on": f"{samples:,} samples of {folder}"}


def execute(config: Config, console: Console) -> None:
    with closing(ConsoleProgress(console)) as progress:
        if config.evaluate.follow:
            scoring.follow(config, progress)
            return
        path = scoring.subject(config)
        scores = scoring.score_where_free(config, path, progress)
    console.print(table(f"{path} on {RunPaths.of(config).heldout}", shown(scores)))


def shown(scores: Mapping[str, float]) -> dict[str, str]:
    """The scores as lines to print."""
    lines = {
        "MLM loss": f"{scores['mlm_loss']:.4f} nats for each masked token",
        "perplexity": f"{scores['perplexity']:,.2f}",
        "token accuracy": f"{scores['mlm_accuracy']:.2%} of {scores['masked_tokens']:,.0f}",
    }
    kinds = {"word accuracy": "", **{f"  words of {name}": f"_{name}" for name in LENGTHS}}
    for label, suffix in kinds.items():
        if total := scores.get(f"masked_words{suffix}"):
            exact = scores[f"word_accuracy{suffix}"]
            lines[label.replace("plus", " or more")] = f"{exact:.2%} of {total:,.0f}"
    if "nsp_loss" in scores:
        lines["NSP accuracy"] = f"{scores['nsp_accuracy']:.2%}"
        lines["NSP loss"] = f"{scores['nsp_loss']:.4f}"
    return lines


VERB = Verb(
    help=(
        "Score a checkpoint or an export on held-out shards (train.eval_shards): masked tokens,\n"
        "whole words (every token right; by length in tokens) and next sentences, on fixed masks.\n"
        "It scores train.init_from; without it, or if the run itself started from there, the best\n"
        "checkpoint of the run. The network is the one that its weights belong to.\n"
        "jobs.prepare makes shards of other text, with corpus.vocab=EXPORT/vocab.txt.\n"
        "On a cluster (RAY_ADDRESS) a free GPU computes, or a free CPU.\n"
        "evaluate.follow=true scores each checkpoint of a training that still runs."
    ),
    groups=(
        *("run", "train.eval_shards", "train.eval_samples", "train.micro_batch"),
        *("train.shard_cache", "train.shard_cache_gigabytes"),
        *("train.init_from", "train.nsp_weight", "engine.attention", "tracking.uri"),
        *("evaluate", "scaling"),
    ),
    plan=plan,
    execute=execute,
    reads_only=True,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
