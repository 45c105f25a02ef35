"""How a global batch is split into workers, micro-batches and accumulation steps."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.settings.config import Config


class Split(NamedTuple):
    """How the samples of one optimizer step are split."""

    global_batch: int
    micro_batch: int
    """Samples; in an elastic run, of the largest micro-batch."""
    world_size: int
    accumulation: int
    """Micro-batches of a worker in one optimizer step."""


def split_batch(global_batch: int, micro_batch: int, world_size: int) -> Split:
    """Accumulation steps from the batch sizes and the number of workers.

    Raises:
        ConfigError: global_batch is not a multiple of micro_batch x world_size; the message names
            the nearest settings that fit, one changed at a time.
    """
    accumulation, rest = divmod(global_batch, micro_batch * world_size)
    if accumulation and not rest:
        return Split(global_batch, micro_batch, world_size, accumulation)
    unit = micro_batch * world_size
    batches = [n for n in (global_batch // unit * unit, -(-global_batch // unit) * unit) if n]
    ways = [f"train.global_batch={_either(batches)}"]
    if global_batch % world_size == 0:
        ways.append(
            f"train.micro_batch={_either(_divisors(global_batch // world_size, micro_batch))}"
        )
    if global_batch % micro_batch == 0:
        workers = _divisors(global_batch // micro_batch, world_size)
        ways.append(f"scaling.workers={_either(workers)}")
    raise ConfigError(
        f"train.global_batch={global_batch} is not a multiple of train.micro_batch={micro_batch} "
        f"on {world_size} worker(s); the nearest that fit: {'; '.join(ways)}"
    )


def split_for(config: Config, world_size: int) -> Split:
    """How that many workers split the batch of the settings.

    An elastic run takes any number of workers: their shares differ by one sample at most, and each
    worker splits its share into equally many micro-batches, none larger than `train.micro_batch`.

    Raises:
        ConfigError: the batch cannot be split so.
    """
    batch, micro_batch = config.train.global_batch, config.train.micro_batch
    if config.scaling.min_workers is None:
        return split_batch(batch, micro_batch, world_size)
    largest = -(-batch // world_size)
    accumulation = -(-largest // micro_batch)
    if batch // world_size < accumulation:
        raise ConfigError(
            f"train.global_batch={batch} in micro-batches of {micro_batch} leaves a worker without "
            f"a sample when there are {world_size}; raise it, raise train.micro_batch, or lower "
            "scaling.max_workers"
        )
    return Split(batch, -(-largest // accumulation), world_size, accumulation)


def choose_workers(config: Config, gpus: int, cpus: int) -> int:
    """`scaling.workers`; if it is 0, at most one for each GPU, or two on CPUs.

    In an elastic run, the largest number.

    Args:
        gpus: GPUs of the cluster.
        cpus: CPUs of the cluster.

    Raises:
        ConfigError: the batch sizes fit no number of workers.
    """
    if config.scaling.max_workers:
        return config.scaling.max_workers
    if config.scaling.workers:
        return config.scaling.workers
    sizes = config.train.global_batch, config.train.micro_batch
    for workers in range(gpus or min(2, cpus), 1, -1):
        if sizes[0] % (sizes[1] * workers) == 0:
            return workers
    return split_batch(*sizes, world_size=1).world_size


def _divisors(number: int, wanted: int) -> list[int]:
    """The largest divisor up to `wanted` and the smallest above it."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    below = [n for n in divisors if n <= wanted]
    above = [n for n in divisors if n > wanted]
    return below[-1:] + above[:1]


def _either(values: list[int]) -> str:
    return " or ".join(str(value) for value in dict.fromkeys(values))
