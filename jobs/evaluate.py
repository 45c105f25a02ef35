"""Score a checkpoint or an export on held-out shards: `python -m jobs.evaluate --config F`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from rich.console import Console

from jobs.command import Verb, main, table
from jobs.output.progress import ConsoleProgress
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import CheckpointError, ConfigError
from pipeline.paths import RunPaths
from pipeline.progress import Progress
from pipeline.settings.config import Config
from pipeline.stages.scoring import each_checkpoint, score_where_free
from pipeline.tracking import runs as tracking
from pipeline.tracking.metric_sender import MetricSender
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.evaluation import LENGTHS
from pipeline.training.measure.history import progress_line


def subject(config: Config) -> Path:
    """What to score: `train.init_from`, or the run's best checkpoint, also if it started there."""
    given, folder = config.train.init_from, RunPaths.of(config).checkpoints
    try:
        own = checkpoints.best(folder)
    except CheckpointError:
        if given:
            return checkpoints.origin_of(given)
        raise
    started_there = checkpoints.read_config(own).train.init_from == given
    return own if started_there or not given else checkpoints.origin_of(given)


def plan(config: Config) -> Mapping[str, object]:
    folder = RunPaths.of(config).heldout
    samples = min(config.train.eval_samples, read_manifest(folder).rows)
    if config.evaluate.follow:
        if config.train.init_from:
            raise ConfigError(
                "evaluate.follow scores the checkpoints of a run; leave train.init_from out"
            )
        what: object = f"each checkpoint of {RunPaths.of(config).run}, to the last step"
    else:
        what = subject(config)
    return {"score": what, "on": f"{samples:,} samples of {folder}"}


def execute(config: Config, console: Console) -> None:
    with closing(ConsoleProgress(console)) as progress:
        if config.evaluate.follow:
            follow(config, progress)
            return
        path = subject(config)
        scores = score_where_free(config, path, progress)
    console.print(table(f"{path} on {RunPaths.of(config).heldout}", shown(scores)))


def follow(config: Config, progress: Progress) -> None:
    """Score the run's checkpoints as they appear; each is a line, and a step of MLflow's run."""
    sender = None
    for path in each_checkpoint(config, progress.say):
        scores = score_where_free(config, path, progress)
        step = checkpoints.step_of(path)
        record = {"step": step} | {f"heldout_{key}": scores[key] for key in scores}
        progress.say(progress_line(record, checkpoints.read_config(path).train.steps))
        run_id = tracking.noted_run(RunPaths.of(config).run)
        if sender is None and run_id:
            uri = tracking.tracking_uri(config)
            sender = MetricSender(uri, run_id, system_metrics=False)
        if sender:
            sender.log(step, {f"evaluated/{key}": scores[key] for key in scores})
    if sender:
        sender.close()


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
        "On a cluster (RAY_ADDRESS) a free GPU computes, or a free CPU.\n"
        "evaluate.follow=true scores each checkpoint of a training that still runs."
    ),
    groups=(
        *("run", "train.eval_shards", "train.eval_samples", "train.micro_batch"),
        *("train.init_from", "engine.attention", "tracking", "evaluate"),
    ),
    plan=plan,
    execute=execute,
    reads_only=True,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
