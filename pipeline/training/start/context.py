"""What a launcher tells a worker: Ray Train, torchrun and tests make it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.files.disk import OWN, Disk


class Context(NamedTuple):
    """A worker's place among the others, and how it reaches its launcher."""

    rank: int
    world_size: int
    host: str
    """Name or address of the machine, for messages."""
    device: torch.device
    threads: int
    """Threads of torch on a CPU."""
    report: Callable[[Mapping[str, float], Path], None]
    """Every rank calls it after each checkpoint, with the scores and the folder."""
    tracking: tuple[str, str] | None = None
    """MLflow's URI and run id, for rank 0."""
    stop: Callable[[], bool] = lambda: False
    """Whether this rank was asked to stop; one rank is enough."""
    preempted: Callable[[], bool] = lambda: False
    """Whether the cluster has announced that it takes a node away; one rank is enough."""
    disk: Disk = OWN
    """Holds the run's folder."""
