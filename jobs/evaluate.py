"""Score a checkpoint or an export on held-out shards: `python -m jobs.evaluate --config F`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from jobs.command import Verb, main, table
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import CheckpointError
from pipeline.export.origin import compare, read_origin
from pipeline.feed.opening import open_heldout
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.checkpoints.state import load_weights
from pipeline.training.evaluation import LENGTHS, evaluate
from pipeline.training.network import build_network
from pipeline.training.objective import PretrainingObjective


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
    return {"score": subject(config), "on": f"{samples:,} samples of {folder}"}


def execute(config: Config, console: Console) -> None:
    folder = RunPaths.of(config).heldout
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    manifest, path = read_manifest(folder), subject(config)
    origin = read_origin(path, manifest.vocab_size)
    compare(path, origin, origin.network, manifest.vocab_sha256)
    network = build_network(origin.network, config.run.seed, config.engine.attention)
    load_weights(network, path)
    objective = PretrainingObjective(network).to(device)
    scores = evaluate(objective, open_heldout(config, 0, 1), device)
    console.print(table(f"{path} on {folder}", shown(scores)))


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
        "checkpoint of the run. The network is the one that its weights belong to."
    ),
    groups=(
        *("run", "train.eval_shards", "train.eval_samples", "train.micro_batch"),
        *("train.init_from", "engine.attention"),
    ),
    plan=plan,
    execute=execute,
    reads_only=True,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
