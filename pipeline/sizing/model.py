"""How much memory, time and disk a run needs: formulas, from counts and measured speeds.

Nothing is measured here. Each formula stands in the docstring of its function; `jobs.plan` prints
them with their numbers.
"""

import math
from typing import NamedTuple

from pipeline.training.checkpoints import tensors
from pipeline.training.deepspeed_config import GATHER_BUCKET, REDUCE_BUCKET

SHARD_BYTES = 2.2
"""Bytes of a token in a shard, with static masks: 262 to 305 for samples of 128."""
TEXT_BYTES = 2.9
"""Bytes of Chinese UTF-8 text for one token."""


class Network(NamedTuple):
    """What the formulas know of a network."""

    parameters: int
    flops_per_token: float
    """Operations of forward and backward pass (`training/measure/flops.py`)."""
    activation_bytes: float
    """Bytes that the backward pass keeps for each token."""


class Machine(NamedTuple):
    """What the formulas know of workers and their network."""

    workers: int
    per_node: int
    """Workers on a node."""
    seconds_per_token: float
    """Forward and backward pass of one worker."""
    seconds_per_parameter: float
    """The optimizer's step of one worker, for each parameter that it has state for."""
    network: float
    """Bytes a second that a node sends to others."""
    local: float
    """Bytes a second of an all-reduce inside a node."""


class Memory(NamedTuple):
    """Bytes on one worker, which add up to what it needs."""

    weights: float
    gradients: float
    optimizer: float
    buckets: float
    activations: float
    checkpoint: float
    """The copy that is written while training goes on; a GPU's is in the host's memory."""
    other: float = 0.0
    """What a measured worker took besides: temporaries, and on CPUs Python and its libraries."""


def memory(
    network: Network,
    stage: int,
    workers: int,
    half: bool,
    tokens: int,
    *,
    offload: bool = False,
    gpu: bool = True,
) -> Memory:
    """Bytes on a worker.

    With P parameters on N workers: weights 2·P bytes in half precision, else 4·P; gradients 4·P,
    which are summed in fp32; optimizer state 8·P, and a master copy 4·P; ZeRO divides by N the
    optimizer state and the master copy (stage 1), the gradients (2), the weights (3). The copy for
    a checkpoint has 12·P/N bytes.

    Args:
        stage: ZeRO stage.
        workers: N.
        half: bf16 or fp16.
        tokens: of a micro-batch.
        offload: the optimizer state and the master copy are in the host's memory.
        gpu: a worker is a GPU.
    """
    size = network.parameters
    shared = [workers if stage >= least else 1 for least in (3, 2, 1)]
    return Memory(
        weights=(2 if half else 4) * size / shared[0],
        gradients=4 * size / shared[1],
        optimizer=0 if offload else 12 * size / shared[2],
        buckets=4 * min(size, REDUCE_BUCKET) + (2 if half else 4) * min(size, GATHER_BUCKET),
        activations=tokens * network.activation_bytes,
        checkpoint=0 if gpu else checkpoint_bytes(size) / workers,
    )


def all_reduce_seconds(machine: Machine, size: float) -> float:
    """Seconds of an all-reduce of `size` bytes.

    Inside each node 2·(n-1)/n of the bytes at the local speed, then the same between the k nodes
    at the speed of a node's network (Thakur et al., 2005: a ring moves 2·(n-1)/n of the bytes).
    """
    inside = min(machine.workers, machine.per_node)
    nodes = math.ceil(machine.workers / machine.per_node)
    local = 2 * (inside - 1) / inside * size / machine.local
    return local + 2 * (nodes - 1) / nodes * size / machine.network


class StepTime(NamedTuple):
    """Seconds of an optimizer step, which add up."""

    compute: float
    communication: float
    optimizer: float


def step_time(
    network: Network, machine: Machine, stage: int, tokens: float, micro: int
) -> StepTime:
    """Seconds of a step of `tokens` on all workers, in `micro` micro-batches on each.

    Compute: tokens/N · seconds a token. Communication: an all-reduce of 4·P bytes, once in a step
    at stage 1 and once in a micro-batch from stage 2 on; at stage 3 also the weights, gathered for
    forward and backward pass, which moves as many bytes again. Optimizer: P/N · seconds a
    parameter. Nothing is taken to overlap, so it is an upper estimate.
    """
    times = 1 if stage == 1 else micro
    volume = 4 * network.parameters * times * (2 if stage == 3 else 1)
    return StepTime(
        compute=tokens / machine.workers * machine.seconds_per_token,
        communication=all_reduce_seconds(machine, volume),
        optimizer=network.parameters / machine.workers * machine.seconds_per_parameter,
    )


class Goodput(NamedTuple):
    """How failures and checkpoints take time."""

    interval: float
    """Best seconds between two checkpoints."""
    share: float
    """Share of the time that trains, with that interval."""


def goodput(
    failure_seconds: float, nodes: int, checkpoint_seconds: float, restart_seconds: float
) -> Goodput:
    """Young's and Daly's interval (CACM 17, 1974; FGCS 22, 2006): sqrt(2·d·M).

    M is the mean time between failures of a node over the number of nodes, d what a checkpoint
    takes. Lost are d in each interval and, in each M, half an interval and the restart.
    """
    mean = failure_seconds / nodes
    interval = math.sqrt(2 * checkpoint_seconds * mean)
    lost = checkpoint_seconds / interval + (interval / 2 + restart_seconds) / mean
    return Goodput(interval, max(0.0, 1 - lost))


def checkpoint_bytes(parameters: int) -> float:
    """Bytes of a checkpoint: of each parameter the weight and LAMB's two moments, in fp32."""
    return 4.0 * len(tensors.KINDS) * parameters


def largest_micro_batch(memory: Memory, network: Network, length: int, limit: float) -> int:
    """Most samples of a micro-batch that fit into `limit` bytes, a tenth of them kept free.

    Args:
        memory: that of a worker, with any micro-batch.
        length: tokens of a sample.
        limit: bytes of the worker's device.
    """
    fixed = sum(memory) - memory.activations
    return max(0, int((0.9 * limit - fixed) / (length * network.activation_bytes)))
