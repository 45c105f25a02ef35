"""The plan of a run: memory, time, cost and disk."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from model import NezhaConfig
from pipeline.cluster import ray_cluster
from pipeline.corpus.shards import format as shards
from pipeline.errors import ConfigError
from pipeline.feed.phases import Phase, phases_of
from pipeline.feed.weights import mean_length, split_weights
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.sizing import benchmark, model
from pipeline.training import batch_split
from pipeline.training.measure import flops
from pipeline.training.start.network import count_parameters, network_config, vocabulary_size

RESTART_SECONDS = 180.0
"""Start of workers, of DeepSpeed, and reading a checkpoint."""


class RunPlan(NamedTuple):
    """What a run will need: memory of a worker, time, disk and cost; in bytes and seconds."""

    profile: benchmark.WorkerProfile
    measured: bool
    """The speeds were measured on a worker, not assumed."""
    network: model.Network
    machine: model.Machine
    split: batch_split.Split
    tokens: float
    """Of a step."""
    memory: dict[int, model.Memory]
    """By ZeRO stage."""
    largest_micro_batch: int | None
    """That fits; None where the memory is not known."""
    step: model.StepTime
    seconds: float
    """Of the whole run."""
    goodput: model.Goodput
    checkpoint: float
    disk: dict[str, float]
    cost: float


def make(config: Config, say: Say = print) -> RunPlan:
    """Plan a run; without `plan.device`, a worker is measured for about a minute.

    Args:
        say: takes what the measurement waits for.

    Raises:
        ConfigError: the peak of `plan.device` is not known, the number of workers is missing, or
            the cluster has no room for one worker.
    """
    config = _as_prepared(config)
    shape, workers = network_config(config.model, vocabulary_size(config)), _workers(config)
    split = batch_split.split_batch(config.train, workers)
    phases = phases_of(config)
    lengths = [_mean_length(each) for each in phases]
    profile = _profile(config, shape, split.micro_batch, lengths[0], say)
    network = _network(config, shape, profile, lengths[0])
    given, stage = config.plan, config.engine.zero_stage
    machine = model.Machine(
        workers=workers,
        per_node=min(workers, given.workers_per_node),
        seconds_per_token=profile.seconds_per_token,
        seconds_per_parameter=profile.seconds_per_parameter,
        network=given.network_gigabytes * 1e9,
        local=given.local_gigabytes * 1e9,
    )

    def step_of(tokens: float) -> model.StepTime:
        return model.step_time(network, machine, stage, tokens, split.accumulation)

    work = sum(
        phase.steps * sum(step_of(phase.samples / phase.steps * mean))
        for phase, mean in zip(phases, lengths, strict=True)
        if phase.steps
    )
    tokens_at_once = max(
        -(-phase.global_batch // (workers * split.accumulation)) * mean
        for phase, mean in zip(phases, lengths, strict=True)
    )
    memories = _memories(config, network, profile, workers, round(tokens_at_once))
    limit = (given.memory_gigabytes or 0) * 1e9 or profile.memory
    length = config.corpus.sequence_length
    largest = model.largest_micro_batch(memories[stage], network, length, limit)
    size = model.checkpoint_bytes(network.parameters)
    nodes = math.ceil(workers / given.workers_per_node)
    saving = size / nodes / (given.storage_gigabytes * 1e9)
    good = model.goodput(given.node_failure_hours * 3600, nodes, saving, RESTART_SECONDS)
    seconds, tokens = work / max(good.share, 0.01), config.train.global_batch * lengths[0]
    return RunPlan(
        profile=profile,
        measured=not given.device,
        network=network,
        machine=machine,
        split=split,
        tokens=tokens,
        memory=memories,
        largest_micro_batch=largest if limit else None,
        step=step_of(tokens),
        seconds=seconds,
        goodput=good,
        checkpoint=size,
        disk=_disk(config, [each for phase in phases for each in _finished(phase.shards)], size),
        cost=seconds / 3600 * workers * given.hourly_price,
    )


def _as_prepared(config: Config) -> Config:
    """The settings with the sample length of the corpora that training reads, if they are there."""
    corpora = _finished(RunPaths.of(config).training)
    if not corpora:
        return config
    length = max(each.sequence_length for each in corpora)
    corpus = config.corpus.model_copy(update={"sequence_length": length})
    return config.model_copy(update={"corpus": corpus})


def _has_gpu(config: Config, profile: benchmark.WorkerProfile) -> bool:
    return bool(config.plan.device or profile.memory)


def _network(
    config: Config, shape: NezhaConfig, profile: benchmark.WorkerProfile, mean_length: float
) -> model.Network:
    # Attention on a GPU has no padding, however short the samples are.
    length = math.inf if _has_gpu(config, profile) else mean_length
    kept = benchmark.activation_bytes(config, shape, length)
    kept *= 1.0 if profile.precision == "fp32" else 0.5
    return model.Network(count_parameters(shape), benchmark.flops_of(config, shape), kept)


def _memories(
    config: Config,
    network: model.Network,
    profile: benchmark.WorkerProfile,
    workers: int,
    tokens: int,
) -> dict[int, model.Memory]:
    """Memory of a worker by ZeRO stage; `tokens` are those of a micro-batch."""
    memory_of = partial(
        model.memory,
        network,
        half=profile.precision != "fp32",
        offload=config.engine.offload,
        gpu=_has_gpu(config, profile),
    )
    other = 0.0
    if profile.peak:  # of a worker that was alone and wrote no checkpoint
        known = memory_of(stage=config.engine.zero_stage, workers=1, tokens=profile.tokens)
        other = profile.peak - (sum(known) - known.checkpoint)
    return {
        stage: memory_of(stage=stage, workers=workers, tokens=tokens)._replace(other=other)
        for stage in (1, 2, 3)
    }


def _profile(
    config: Config, shape: NezhaConfig, micro_batch: int, mean_length: float, say: Say
) -> benchmark.WorkerProfile:
    if not config.plan.device:
        return benchmark.measure(config, micro_batch, mean_length, say)
    precision = "bf16" if config.train.precision == "auto" else config.train.precision
    peak = config.engine.peak_tflops or flops.peak_tflops(config.plan.device, precision)
    if not peak:
        raise ConfigError(
            f"plan.device={config.plan.device}: the peak in {precision} is not known; give the "
            "name that CUDA reports, such as A100-SXM or H100 SXM, or set engine.peak_tflops"
        )
    return benchmark.assumed(config, precision, peak, benchmark.flops_of(config, shape))


def _workers(config: Config) -> int:
    scaling = config.scaling
    if workers := scaling.max_workers or scaling.workers:
        return workers
    if config.plan.device:
        raise ConfigError("scaling.workers: say how many workers the planned machine has")
    ray_cluster.connect()
    return batch_split.choose_workers(config, ray_cluster.count("GPU"), ray_cluster.count("CPU"))


def _finished(given: Sequence[str]) -> list[shards.Manifest]:
    """The manifests of corpora that a run will train on; none before all are prepared."""
    folders, _ = split_weights(given)
    if not all(map(shards.is_corpus, folders)):
        return []
    return [shards.read_manifest(folder) for folder in folders]


def _mean_length(phase: Phase) -> float:
    """Tokens of a sample: the mean of the phase's corpora, or what a sample holds at most."""
    corpora = _finished(phase.shards)
    if not any(each.rows for each in corpora):
        return float(phase.sequence_length)
    return mean_length(corpora, split_weights(phase.shards)[1])


def _disk(
    config: Config, corpora: Sequence[shards.Manifest], checkpoint: float
) -> dict[str, float]:
    dupe = config.corpus.pairs.dupe_factor
    made = config.plan.corpus_gigabytes * 1e9 / model.TEXT_BYTES * model.SHARD_BYTES * dupe
    made = made or sum(each.bytes for each in corpora)
    train = config.train
    # The newest ones, the best one, one that is being written, and those that are kept for ever.
    kept = train.keep_last + 2 + (train.steps // train.keep_every if train.keep_every else 0)
    return {"shards": made, "checkpoints": checkpoint * kept}
