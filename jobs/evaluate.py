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
from pipeline.feed.batches import heldout
from pipeline.paths import RunPaths
from pipeline.products import quicken_products
from pipeline.settings.config import Config
from pipeline.training.checkpoints import checkpoint
from pipeline.training.evaluation import LENGTHS, evaluate
from pipeline.training.network import build_network, network_config
from pipeline.training.objective import PretrainingObjective


def subject(config: Config) -> Path:
    """What is scored: `train.init_from`, or the run's best checkpoint, also if it began there."""
    given, folder = config.train.init_from, RunPaths.of(config).checkpoints
    try:
        own = checkpoint.best(folder)
    except CheckpointError:
        if given:
            return Path(given)
        raise
    began_there = checkpoint.read_config(own).train.init_from == given
    return own if began_there or not given else Path(given)


def plan(config: Config) -> Mapping[str, object]:
    folder = RunPaths.of(config).heldout
    samples = min(config.train.eval_samples, read_manifest(folder).rows)
    return {"score": subject(config), "on": f"{samples:,} samples of {folder}"}


def execute(config: Config, console: Console) -> None:
    folder, device = RunPaths.of(config).heldout, torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda")
    else:
        quicken_products()
    shape = network_config(config.model, read_manifest(folder).vocab_size)
    network = build_network(shape, config.run.seed, config.engine.attention)
    checkpoint.load_weights(network, subject(config))
    objective = PretrainingObjective(network).to(device)
    batches = heldout(str(folder), config.train.micro_batch, config.train.eval_samples, 0, 1)
    scores = evaluate(objective, batches, device)
    console.print(table(f"{subject(config)} on {folder}", shown(scores)))


def shown(scores: Mapping[str, float]) -> dict[str, str]:
    """The scores as the lines that are printed."""
    lines = {
        "MLM loss": f"{scores['mlm_loss']:.4f} nats a masked token",
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
        "Score masked tokens, whole words (every token right; by length in tokens) and next\n"
        "sentences on the fixed masks of held-out shards (train.eval_shards).\n"
        "Scores train.init_from, a checkpoint or an export; by default, and where the run itself\n"
        "began from there, the run's best checkpoint."
    ),
    groups=("run", "model", "train"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
