"""Training without Ray: one process, or the processes that torchrun starts."""

from __future__ import annotations

import os
from typing import Any

import torch

from pipeline.settings.config import Config
from pipeline.training.loop import Context, train


def rank() -> int:
    """This process's number."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def fit(config: Config, tracking: tuple[str, str] | None) -> dict[str, Any]:
    """Train as the rank that RANK, WORLD_SIZE and LOCAL_RANK name; alone without them.

    Returns:
        the state of the last checkpoint.
    """
    device = torch.device("cpu")
    if config.scaling.gpus_per_worker == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    context = Context(
        rank=rank(),
        world_size=world_size(),
        device=device,
        threads=max(1, int(config.scaling.cpus_per_worker)),
        report=lambda *_: None,
        tracking=tracking,
    )
    return train(config, context)
