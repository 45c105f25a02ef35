"""How a global batch is split into workers, micro-batches and accumulation steps."""

from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.feed.phases import largest_batch, micro_batches
from pipeline.settings.config import Config
from pipeline.settings.training import TrainSettings


class Split(NamedTuple):
    """How the samples of one optimizer step are split."""

    micro_batch: int
    """Samples of the largest micro-batch."""
    world_size: int
    accumulation: int
    """Micro-batches of a worker in one optimizer step."""


def split_batch(train: TrainSettings, world_size: int) -> Split:
    """Split a global batch as evenly as possible among any number of workers.

    The workers' shares differ by one sample at most, and each worker splits its share into equally
    many micro-batches, none larger than `micro_batch`. The smaller batches of a batch warm-up, and
    of phases beside the one with the largest, are split into as many micro-batches, which are
    smaller.

    Raises:
        ConfigError: a worker would have no sample for one of its micro-batches.
    """
    accumulation = micro_batches(train, world_size)
    batches = {"global_batch": train.global_batch, "first_batch": train.first_batch}
    for number, phase in enumerate(train.phases):
        batches[f"phases.{number}.global_batch"] = phase.global_batch
    for name, samples in batches.items():
        if samples and samples // world_size < accumulation:
            raise ConfigError(
                f"train.{name}={samples} in {accumulation} micro-batches leaves a worker without a "
                f"sample when there are {world_size} workers; raise train.{name} or "
                "train.micro_batch, or use fewer workers (scaling)"
            )
    micro_batch = -(-largest_batch(train) // (world_size * accumulation))
    return Split(micro_batch, world_size, accumulation)


def choose_workers(config: Config, gpus: int, cpus: int) -> int:
    """`scaling.workers`, or the largest number of an elastic run.

    Where neither is set: one worker for each GPU, or up to two where there are none or
    `scaling.gpus_per_worker` is 0. `gpus` and `cpus` are those of the cluster, or of this machine.
    """
    scaling = config.scaling
    devices = (gpus if scaling.gpus_per_worker != 0 else 0) or max(1, min(2, cpus))
    return scaling.max_workers or scaling.workers or min(devices, config.train.global_batch)
