"""How a global batch is split into workers, micro-batches and accumulation steps."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.settings.config import Config


class Split(NamedTuple):
    """How the samples of one optimizer step are split."""

    global_batch: int
    micro_batch: int
    """Samples of the largest micro-batch."""
    world_size: int
    accumulation: int
    """Micro-batches of a worker in one optimizer step."""


def split_batch(global_batch: int, micro_batch: int, world_size: int) -> Split:
    """Split a global batch as evenly as possible among any number of workers.

    The workers' shares differ by one sample at most, and each worker splits its share into equally
    many micro-batches, none larger than `micro_batch`.

    Raises:
        ConfigError: a worker would have no sample for one of its micro-batches.
    """
    largest_share = -(-global_batch // world_size)
    accumulation = -(-largest_share // micro_batch)
    if global_batch // world_size < accumulation:
        raise ConfigError(
            f"train.global_batch={global_batch} in micro-batches of {micro_batch} leaves a worker "
            f"without a sample when there are {world_size} workers; raise train.global_batch or "
            "train.micro_batch, or use fewer workers (scaling)"
        )
    return Split(global_batch, -(-largest_share // accumulation), world_size, accumulation)


def split_for(config: Config, world_size: int) -> Split:
    """How that many workers split the batch of the settings.

    Raises:
        ConfigError: as `split_batch`.
    """
    return split_batch(config.train.global_batch, config.train.micro_batch, world_size)


def choose_workers(config: Config, gpus: int, cpus: int) -> int:
    """`scaling.workers`; if it is 0, one for each GPU, or two on CPUs, but not more than samples.

    In an elastic run, the largest number.

    Args:
        config: the run's settings.
        gpus: GPUs of the cluster.
        cpus: CPUs of the cluster.
    """
    scaling = config.scaling
    devices = gpus or min(2, cpus)
    return scaling.max_workers or scaling.workers or min(devices, config.train.global_batch)
