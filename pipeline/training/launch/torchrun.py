"""Training without Ray: one process, or the processes that torchrun starts."""

from __future__ import annotations

import os
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.training.loop import Context, train


def rank() -> int:
    """This process's rank."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def with_workers(config: Config) -> Config:
    """The settings with as many workers as there are processes.

    Raises:
        ConfigError: the settings ask for another number.
    """
    scaling, processes = config.scaling, world_size()
    if scaling.workers not in (0, processes) or scaling.max_workers:
        raise ConfigError(
            f"scaling asks for {scaling.workers or 'a changing number of'} worker(s), and there "
            f"are {processes} process(es) for the whole run; start as many with torchrun "
            "--nproc-per-node, or leave the number of workers out"
        )
    scaling = scaling.model_copy(update={"workers": processes})
    return config.model_copy(update={"scaling": scaling})


def fit(config: Config, tracking: tuple[str, str] | None) -> dict[str, Any]:
    """Train as the rank that RANK, WORLD_SIZE and LOCAL_RANK name; without them, alone.

    Returns:
        the state of the last checkpoint.
    """
    config = with_workers(config)
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
