"""Score a checkpoint or an export on held-out shards: `python -m jobs.evaluate --config F`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from jobs.command import Verb, main, table
from pipeline.config import Config
from pipeline.corpus.shards import read_manifest
from pipeline.feed.batches import heldout
from pipeline.paths import RunPaths
from pipeline.training import checkpoint
from pipeline.training.evaluation import evaluate
from pipeline.training.network import build_network, network_config
from pipeline.training.objective import PretrainingObjective


def subject(config: Config) -> Path:
    """What is scored: `train.init_from`, or the run's best checkpoint."""
    return Path(config.train.init_from or checkpoint.best(RunPaths.of(config).checkpoints))


def plan(config: Config) -> Mapping[str, object]:
    folder = RunPaths.of(config).heldout
    samples = min(config.train.eval_samples, read_manifest(folder).rows)
    return {"score": subject(config), "on": f"{samples:,} samples of {folder}"}


def execute(config: Config, console: Console) -> None:
    folder, device = RunPaths.of(config).heldout, torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda")
    shape = network_config(config.model, read_manifest(folder).vocab_size)
    network = build_network(shape, config.run.seed, config.engine.attention)
    checkpoint.load_weights(network, subject(config))
    objective = PretrainingObjective(network).to(device)
    batches = heldout(str(folder), config.train.micro_batch, config.train.eval_samples, 0, 1)
    scores = evaluate(objective, batches, device)
    console.print(table(f"{subject(config)} on {folder}", scores))


VERB = Verb(
    help=(
        "Score masked-token and next-sentence prediction on held-out shards (train.eval_shards).\n"
        "Scores train.init_from, a checkpoint or an export; by default the run's best checkpoint."
    ),
    groups=("run", "model", "train"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
