"""How long a run will take on this machine, from a short measurement before it begins."""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from pipeline.cpu import usable_cpus
from pipeline.feed.collate import IGNORED, Batch
from pipeline.settings.config import Config
from pipeline.training import batch_split
from pipeline.training.network import build_network, network_config
from pipeline.training.objective import PretrainingObjective, to_device

MEASURED_TOKENS = 1024
"""Tokens that are measured at least; a base-size network takes seconds for them."""
REPEATS = 3
STEP_OVERHEAD = 1.5
"""A training step of the sample run against its forward and backward pass; the rest is DeepSpeed,
the optimizer and the exchange of gradients."""
START_SECONDS = 25.0
"""Start of Ray, of the workers and of DeepSpeed."""
HEAD_SECONDS = 15.0
"""Start of a fine-tuning, evaluations and saving."""
MEAN_SHARE = 0.6
"""Mean length of task examples against `data.length`."""


def stage_seconds(config: Config) -> dict[str, float]:
    """Estimated seconds of `pretrain` and `heads`; empty where the work is done elsewhere.

    That is on a cluster that this process joins, or on GPUs.
    """
    if os.environ.get("RAY_ADDRESS") or torch.cuda.is_available():
        return {}
    cpus = usable_cpus()
    workers = batch_split.choose_workers(config, 0, cpus)
    threads = min(cpus, workers * max(1, int(config.scaling.cpus_per_worker)))
    length = config.corpus.sequence_length
    token = seconds_per_token(config) / threads
    step_tokens = config.train.global_batch * length
    seconds = {"pretrain": START_SECONDS + config.train.steps * step_tokens * token * STEP_OVERHEAD}
    heads = [head for head in config.heads.values() if head.data.examples]
    if heads:
        tokens = sum(h.epochs * h.data.examples * h.data.length * MEAN_SHARE for h in heads)
        waves = -(-2 * len(heads) // cpus)
        seconds["heads"] = 2 * tokens * token * threads / cpus + waves * HEAD_SECONDS
    return seconds


def seconds_per_token(config: Config) -> float:
    """Measured seconds of a forward and backward pass on one thread, for each token."""
    length = config.corpus.sequence_length
    samples = max(config.train.micro_batch, -(-MEASURED_TOKENS // length))
    samples = min(samples, max(1, 4 * MEASURED_TOKENS // length))
    shape = network_config(config.model, config.corpus.vocab_size)
    objective = PretrainingObjective(build_network(shape, 0, config.engine.attention))
    inputs = to_device(_random_batch(samples, length, config), torch.device("cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(_seconds_of_a_pass(objective, inputs) for _ in range(REPEATS)) / samples / length
    finally:
        torch.set_num_threads(before)


def _seconds_of_a_pass(objective: PretrainingObjective, inputs: object) -> float:
    start_time = time.monotonic()
    objective(inputs)[0].backward()
    return time.monotonic() - start_time


def _random_batch(samples: int, length: int, config: Config) -> Batch:
    """Full sequences of random tokens with the share of masks that training has."""
    draw = np.random.default_rng(0)
    shape = samples, length
    input_ids = draw.integers(5, config.corpus.vocab_size, shape)
    share = config.corpus.masking.probability
    masked = np.sort(draw.choice(samples * length, int(share * samples * length), replace=False))
    labels = np.full(shape, IGNORED)
    labels.ravel()[masked] = input_ids.ravel()[masked]
    return Batch(
        input_ids=input_ids,
        token_type_ids=np.zeros(shape, np.int64),
        attention_mask=np.ones(shape, np.int64),
        labels=labels,
        next_sentence_label=draw.integers(0, 2, samples),
        masked_positions=masked,
        masked_labels=input_ids.ravel()[masked],
        samples=np.arange(samples, dtype=np.uint64),
        tokens=samples * length,
        squares=samples * length**2,
    )
