"""Speed and memory of one worker, measured shortly with the real network, engine and optimizer."""

import time
from typing import Any, NamedTuple

import ray
import torch

from model import NezhaConfig
from pipeline.cluster import ray_cluster
from pipeline.precision import resolve_precision
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.training import batch_split, engine
from pipeline.training.measure import flops
from pipeline.training.measure.peak_memory import peak_bytes
from pipeline.training.measure.random_batch import random_batch
from pipeline.training.objective import Inputs, PretrainingObjective
from pipeline.training.start.network import build_network, network_config, vocabulary_size

STEPS = 4
"""Measured steps, of which the fastest counts; one more warms up."""


class WorkerProfile(NamedTuple):
    """Speed and memory of one worker."""

    device: str
    memory: float
    """Bytes of the GPU; 0: a CPU."""
    peak: float
    """Most bytes that the worker took; 0: not measured."""
    tokens: int
    """Tokens of the micro-batch that took them."""
    precision: str
    seconds_per_token: float
    seconds_per_parameter: float


def measure(config: Config, micro_batch: int, mean_length: float, say: Say) -> WorkerProfile:
    """Measure one worker of the cluster or of this machine: a GPU, or `cpus_per_worker` CPUs.

    Args:
        micro_batch: samples.
        mean_length: tokens of a sample: short ones cost more for each token.
        say: takes what it waits for.

    Raises:
        ConfigError: no worker fits the cluster, also after `scaling.wait_seconds`.
    """
    ray_cluster.connect()
    scaling = config.scaling
    gpus = ray_cluster.gpus_per_worker(scaling.gpus_per_worker)
    ray_cluster.place(1, scaling.cpus_per_worker, gpus, scaling.wait_seconds, say)
    task = ray.remote(
        num_cpus=scaling.cpus_per_worker,
        num_gpus=gpus,
        max_retries=0,
        runtime_env=ray_cluster.runtime_env(gpus),
    )
    values = config.model_dump(mode="json")
    return ray.get(task(_measure).remote(values, micro_batch, mean_length, bool(gpus)))


def _measure(
    values: dict[str, Any], micro_batch: int, mean_length: float, gpu: bool
) -> WorkerProfile:
    config = Config.model_validate(values)
    device = torch.device("cuda" if gpu else "cpu")
    if not gpu:
        torch.set_num_threads(max(1, int(config.scaling.cpus_per_worker)))
    engine.join()
    precision = resolve_precision(config.train.precision, device)
    shape = network_config(config.model, vocabulary_size(config))
    objective = PretrainingObjective(build_network(shape, 0, config.engine.attention))
    split = batch_split.Split(micro_batch, world_size=1, accumulation=1)
    worker = engine.initialize(objective, config, split, precision)
    inputs = random_batch(config, micro_batch, mean_length, device)
    divisors = torch.ones(2, device=device)
    passes, steps = [], []
    for _ in range(1 + STEPS):
        start_time = _now(device)
        loss, *_ = worker(inputs, *divisors)
        worker.backward(loss)
        middle = _now(device)
        worker.step()
        passes.append(middle - start_time)
        steps.append(_now(device) - middle)
    parameters = sum(p.numel() for p in objective.parameters())
    return WorkerProfile(
        device=torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU thread(s)",
        memory=torch.cuda.get_device_properties(0).total_memory if gpu else 0.0,
        peak=peak_bytes(device),
        tokens=len(inputs.input_ids),
        precision=precision,
        seconds_per_token=min(passes[1:]) / len(inputs.input_ids),
        seconds_per_parameter=min(steps[1:]) / parameters,
    )


def assumed(config: Config, precision: str, peak: float, flops_per_token: float) -> WorkerProfile:
    """Speeds of a GPU that is not here.

    The passes reach `plan.mfu` of its peak (TFLOP/s in this precision). The optimizer reads and
    writes 30 bytes for each parameter, at 2 TB/s.
    """
    return WorkerProfile(
        device=config.plan.device,
        memory=(config.plan.memory_gigabytes or 0.0) * 1e9,
        peak=0.0,
        tokens=0,
        precision=precision,
        seconds_per_token=flops_per_token / (peak * 1e12 * config.plan.mfu),
        seconds_per_parameter=30 / 2e12,
    )


def activation_bytes(config: Config, shape: NezhaConfig, mean_length: float) -> float:
    """Bytes that the backward pass keeps for each token, from networks of one and two layers.

    A network's layers keep equally much, so two sizes that fit anywhere give the sum for all. With
    `engine.activation_checkpointing` a layer keeps its input alone, and the activations of one
    layer exist at a time. The dtype is fp32 on a CPU; half precision keeps half as much, except for
    dropout's masks.
    """
    kept = []
    for layers in (1, 2):
        small = NezhaConfig(**{**shape.to_dict(), "num_hidden_layers": layers})
        objective = PretrainingObjective(build_network(small, 0, config.engine.attention))
        samples = max(1, round(512 / min(mean_length, config.corpus.sequence_length)))
        inputs = random_batch(config, samples, mean_length)
        kept.append(_kept(objective, inputs) / len(inputs.input_ids))
    layer = kept[1] - kept[0]
    if config.engine.activation_checkpointing:
        layer = 4.0 * shape.hidden_size
    return kept[0] + (shape.num_hidden_layers - 1) * layer


def _kept(objective: PretrainingObjective, inputs: Inputs) -> float:
    """Bytes of all tensors that autograd saves, each storage once and the parameters not at all."""
    own = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, *_ = objective(inputs)
    del loss
    return float(sum(sizes.values()))


def flops_of(config: Config, shape: NezhaConfig) -> float:
    """Operations for each token of full sequences, with the share of masks that training has."""
    length = config.corpus.sequence_length
    masked = max(1.0, config.corpus.masking.probability * length)
    return flops.needed_flops(shape, flops.Counts(masked, 1.0, length, length**2)) / length


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
