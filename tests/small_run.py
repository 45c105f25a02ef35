"""A small run: its settings and data, and what a training leaves of it."""

from pathlib import Path
from typing import Any

import torch

from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import load_config
from pipeline.training.checkpoints import files
from pipeline.training.launch import torchrun
from pipeline.training.measure import history
from pipeline.training.start.context import Context
from tests.corpora import write_corpus, write_vocabulary
from tests.reported import Lines

MODEL = "{size: tiny, num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 2}"
SHORT = (
    f"model={MODEL}",
    "train={steps: 12, global_batch: 16, micro_batch: 8, precision: fp32, log_every: 2}",
    "train.profile_every=5",
    "train.eval_every=6",
    "train.checkpoint_every=6",
    "optim.lr=0.01",
)
"""Settings of a run that takes seconds."""


def settings(folder: Path, name: str, *overrides: str) -> Config:
    """Settings of a short run in a folder, whose data are prepared there."""
    config = load_config(None, [f"run.storage={folder}", f"run.name={name}", *SHORT, *overrides])
    write_data(config)
    return config


def write_data(config: Config, length: int = 48, seed: int = 0) -> None:
    """Write the vocabulary, the shards and the held-out shards of a run."""
    paths = RunPaths.of(config)
    paths.run.mkdir(exist_ok=True)
    vocab = write_vocabulary(Path(paths.vocab))
    write_corpus(paths.shards, vocab, seed=seed, length=length)
    write_corpus(paths.heldout, vocab, documents=8, seed=1, length=length)


def fit(config: Config) -> dict[str, Any]:
    """Train without Ray, in this process; returns the state of the last checkpoint."""
    return torchrun.fit(config, Lines())


def alone(**changes: Any) -> Context:
    """What a launcher tells the only worker of a run."""
    context = Context(
        rank=0,
        world_size=1,
        host="here",
        device=torch.device("cuda:0" if torch.cuda.is_available() else "cpu"),
        threads=1,
        report=lambda *_: None,
    )
    return context._replace(**changes)


def losses(config: Config) -> dict[int, float]:
    """The loss of each logged step."""
    records = history.read(RunPaths.of(config).run)
    return {int(record["step"]): record["loss"] for record in records if "loss" in record}


def weights(config: Config, step: int) -> dict[str, str]:
    """Hashes of a checkpoint's tensors; equal ones mean equal weights and moments."""
    hashes = files.read_hashes(RunPaths.of(config).checkpoints / f"checkpoint_{step:06d}")
    return {name: value for name, value in hashes.items() if name.endswith(".safetensors")}
