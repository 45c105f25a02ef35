"""How long a run will take on this machine, from a short measurement before it begins."""

import os
import time

import torch

from pipeline.cpu import usable_cpus
from pipeline.feed.phases import phases_of
from pipeline.settings.config import Config
from pipeline.training import batch_split
from pipeline.training.faults import memory
from pipeline.training.measure.random_batch import random_batch
from pipeline.training.objective import PretrainingObjective
from pipeline.training.start.network import build_network, network_config, vocabulary_size

MEASURED_TOKENS = 1024
"""Tokens of a measurement; a network of base size takes some seconds for them."""
REPEATS = 3
STEP_OVERHEAD = 1.5
"""Seconds of a training step of the sample run, divided by those of its forward and backward pass.
The rest is DeepSpeed, the optimizer and the exchange of gradients."""
START_SECONDS = 25.0
"""Start of Ray, of the workers and of DeepSpeed."""
HEAD_SECONDS = 15.0
"""Start of a fine-tuning, evaluations and saving."""
MEAN_SHARE = 0.6
"""Mean length of task examples against `data.length`."""


def stage_seconds(config: Config) -> dict[str, float]:
    """Estimated seconds of `pretrain` and `heads`.

    Empty for a cluster that this process joins, and for GPUs: `jobs.plan` is for those. Empty also
    if memory runs out.
    """
    if os.environ.get("RAY_ADDRESS") or torch.cuda.is_available():
        return {}
    cpus = usable_cpus()
    workers = batch_split.choose_workers(config, 0, cpus)
    threads = min(cpus, workers * max(1, int(config.scaling.cpus_per_worker)))
    try:
        token = seconds_per_token(config) / threads
    except (MemoryError, RuntimeError) as error:
        if memory.ran_out(error):  # the workers say what to change
            return {}
        raise
    tokens = sum(phase.samples * phase.sequence_length for phase in phases_of(config))
    seconds = {"pretrain": START_SECONDS + tokens * token * STEP_OVERHEAD}
    heads = [head for head in config.heads.values() if head.data.examples]
    if heads:
        read = sum(h.epochs * h.data.examples * h.data.length for h in heads) * MEAN_SHARE
        waves = -(-2 * len(heads) // cpus)
        seconds["heads"] = 2 * read * token * threads / cpus + waves * HEAD_SECONDS
    return seconds


def seconds_per_token(config: Config) -> float:
    """Measured seconds of a forward and backward pass on one thread, for each token."""
    shape = network_config(config.model, vocabulary_size(config))
    objective = PretrainingObjective(build_network(shape, 0, config.engine.attention))
    inputs = random_batch(config, max(1, MEASURED_TOKENS // config.corpus.sequence_length))
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(REPEATS):
        start_time = time.monotonic()
        objective(inputs)[0].backward()
        seconds.append(time.monotonic() - start_time)
    torch.set_num_threads(threads)
    return min(seconds) / len(inputs.input_ids)
