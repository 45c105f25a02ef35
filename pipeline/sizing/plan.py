"""The plan of a run: memory, time, cost and disk, and how it compares with what happened."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pipeline.cluster import ray_cluster
from pipeline.corpus.shards import format as shards
from pipeline.errors import ConfigError
from pipeline.feed.phases import phases_of
from pipeline.feed.weights import split_weights
from pipeline.files.storage import write_json
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.sizing import benchmark, model
from pipeline.training import batch_split
from pipeline.training.measure import flops, history
from pipeline.training.start.network import count_parameters, network_config, vocabulary_size

FILE = "plan.json"
RESTART_SECONDS = 180.0
"""Start of workers, of DeepSpeed, and reading a checkpoint."""


class RunPlan(NamedTuple):
    """What a run will need: memory of a worker, time, disk and cost; in bytes and seconds."""

    anchor: benchmark.Anchor
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
        config: the run's settings.
        say: takes what the measurement waits for.

    Raises:
        ConfigError: the peak of `plan.device` is not known, the number of workers is missing, or
            the cluster has no room for one worker.
    """
    corpora = _finished(RunPaths.of(config).training)
    if corpora:
        length = max(each.sequence_length for each in corpora)
        corpus = config.corpus.model_copy(update={"sequence_length": length})
        config = config.model_copy(update={"corpus": corpus})
    shape = network_config(config.model, vocabulary_size(config))
    parameters, each = count_parameters(shape), benchmark.flops_of(config, shape)
    workers = _workers(config)
    split = batch_split.split_batch(config.train, workers)
    phases, lengths = phases_of(config), _mean_lengths(config)
    anchor = _anchor(config, each, split.micro_batch, lengths[0], say)
    half, gpu = anchor.precision != "fp32", bool(config.plan.device or anchor.memory)
    # Attention on a GPU has no padding, however short the samples are.
    kept = benchmark.activation_bytes(config, shape, math.inf if gpu else lengths[0])
    kept *= 0.5 if half else 1.0
    network = model.Network(parameters, each, kept)
    given, length = config.plan, config.corpus.sequence_length
    machine = model.Machine(
        workers,
        min(workers, given.workers_per_node),
        anchor.seconds_per_token,
        anchor.seconds_per_parameter,
        given.network_gigabytes * 1e9,
        given.local_gigabytes * 1e9,
    )
    stage = config.engine.zero_stage

    def step_of(tokens: float) -> model.StepTime:
        return model.step_time(network, machine, stage, tokens, split.accumulation)

    tokens = config.train.global_batch * lengths[0]
    step = step_of(tokens)
    work = sum(
        phase.steps * sum(step_of(phase.samples / phase.steps * mean))
        for phase, mean in zip(phases, lengths, strict=True)
        if phase.steps
    )
    batch = round(
        max(
            -(-samples // (workers * split.accumulation)) * mean
            for samples, mean in zip(_batches(config), lengths, strict=True)
        )
    )
    memories = {
        number: model.memory(network, number, workers, half, batch, config.engine.offload)
        for number in (1, 2, 3)
    }
    size = model.checkpoint_bytes(parameters)
    nodes = math.ceil(workers / given.workers_per_node)
    saving = size / nodes / (given.storage_gigabytes * 1e9)
    good = model.goodput(given.node_failure_hours * 3600, nodes, saving, RESTART_SECONDS)
    seconds = work / max(good.share, 0.01)
    limit = (given.memory_gigabytes or 0) * 1e9 or anchor.memory
    largest = model.largest_micro_batch(memories[stage], network, length, limit)
    return RunPlan(
        anchor=anchor,
        measured=not given.device,
        network=network,
        machine=machine,
        split=split,
        tokens=tokens,
        memory=memories,
        largest_micro_batch=largest if limit else None,
        step=step,
        seconds=seconds,
        goodput=good,
        checkpoint=size,
        disk=_disk(config, [each for phase in phases for each in _finished(phase.shards)], size),
        cost=seconds / 3600 * workers * given.hourly_price,
    )


def rows(config: Config, plan: RunPlan) -> dict[str, str]:
    """The plan as rows of a table, each with its formula in numbers."""
    network, machine, step = plan.network, plan.machine, plan.step
    seconds = sum(step)
    mean = plan.seconds * plan.goodput.share / config.train.steps
    share = network.flops_per_token / plan.anchor.seconds_per_token / 1e12
    found = {
        "network": f"{network.parameters:,} parameters, {network.flops_per_token:.3g} FLOP/token",
        "workers": f"{machine.workers}, {machine.per_node} on a node",
        "speed of a worker": (
            f"{1 / plan.anchor.seconds_per_token:,.0f} tokens/s, {share:.2f} TFLOP/s in "
            f"{plan.anchor.precision} on {plan.anchor.device}, "
            + ("measured now" if plan.measured else f"assumed (plan.mfu={config.plan.mfu:g})")
        ),
        "batch": (
            f"{config.train.global_batch:,} = {machine.workers} × {plan.split.accumulation} × "
            f"{plan.split.micro_batch} samples, {plan.tokens:,.0f} tokens"
        ),
    }
    for stage, memory in plan.memory.items():
        parts = " + ".join(f"{name} {_size(getattr(memory, name))}" for name in memory._fields)
        chosen = " (chosen)" if stage == config.engine.zero_stage else ""
        found[f"memory, ZeRO {stage}{chosen}"] = f"{_size(sum(memory))} = {parts}"
    if (largest := plan.largest_micro_batch) is not None:
        found["largest micro-batch"] = f"{largest} samples (a tenth kept free)"
        if largest < plan.split.micro_batch:
            found["largest micro-batch"] += (
                f"; the {plan.split.micro_batch} of the batch do not fit: lower train.micro_batch"
                if largest
                else "; nothing fits: raise engine.zero_stage or the number of workers, or set "
                "engine.activation_checkpointing or engine.offload"
            )
    found |= {
        "step": (
            f"{seconds:.3f} s = compute {step.compute:.3f} + gradients {step.communication:.3f} "
            f"+ optimizer {step.optimizer:.3f}"
        ),
        "tokens a second": f"{plan.tokens / seconds:,.0f}",
        "run": (
            f"{plan.seconds / 86400:.2f} days = {config.train.steps:,} steps × {mean:.3f} s / "
            f"{plan.goodput.share:.1%} goodput"
        ),
        "checkpoint": (
            f"{_size(plan.checkpoint)}, best every {plan.goodput.interval / seconds:,.0f} steps "
            f"(Young/Daly); train.checkpoint_every={config.train.checkpoint_every}"
        ),
        "disk": ", ".join(f"{name} {_size(size)}" for name, size in plan.disk.items()),
    }
    if plan.cost:
        found["cost"] = f"{plan.cost:,.0f} = {machine.workers} × {plan.seconds / 3600:,.1f} h"
    return found


def save(config: Config, plan: RunPlan) -> None:
    """Keep what `compare` needs in the run folder."""
    seconds = sum(plan.step)
    values = {"step_seconds": seconds, "tokens_per_second": plan.tokens / seconds}
    write_json(f"{RunPaths.of(config).run}/{FILE}", values)


def compare(config: Config) -> dict[str, str]:
    """What was planned and what happened, of a run that has logged steps; else empty."""
    folder = RunPaths.of(config).run
    path = Path(folder, FILE)
    records = history.read(Path(folder))
    if not path.exists() or not records:
        return {}
    planned, found = json.loads(path.read_text("utf-8")), {}
    for name, value in planned.items():
        if values := [record[name] for record in records if name in record]:
            actual = median(values)
            found[name] = f"planned {value:,.4g}, was {actual:,.4g} ({actual / value - 1:+.0%})"
    return found


def _anchor(
    config: Config, flops_per_token: float, micro_batch: int, mean_length: float, say: Say
) -> benchmark.Anchor:
    if not config.plan.device:
        return benchmark.measure(config, micro_batch, mean_length, say)
    precision = "bf16" if config.train.precision == "auto" else config.train.precision
    peak = config.engine.peak_tflops or flops.peak_tflops(config.plan.device, precision)
    if not peak:
        raise ConfigError(
            f"plan.device={config.plan.device}: the peak in {precision} is not known; give the "
            "name that CUDA reports, such as A100-SXM or H100 SXM, or set engine.peak_tflops"
        )
    return benchmark.assumed(config, precision, peak, flops_per_token)


def _workers(config: Config) -> int:
    scaling = config.scaling
    if workers := scaling.max_workers or scaling.workers:
        return workers
    if config.plan.device:
        raise ConfigError("scaling.workers: say how many workers the planned machine has")
    ray_cluster.connect()
    return batch_split.choose_workers(config, ray_cluster.count("GPU"), ray_cluster.count("CPU"))


def _batches(config: Config) -> list[int]:
    """Samples of the largest steps of each phase."""
    return [config.train.global_batch, *(phase.global_batch for phase in config.train.phases)]


def _mean_lengths(config: Config) -> list[float]:
    """Tokens of a sample in each phase: the mean of its corpora, or what a sample holds at most."""
    return [
        _mean_length(_finished(phase.shards)) or float(phase.sequence_length)
        for phase in phases_of(config)
    ]


def _finished(given: Sequence[str]) -> list[shards.Manifest]:
    """The manifests of corpora that a run will train on; none before all are prepared."""
    folders, _ = split_weights(given)
    if not all(map(shards.is_corpus, folders)):
        return []
    return [shards.read_manifest(folder) for folder in folders]


def _mean_length(corpora: Sequence[shards.Manifest]) -> float:
    """Tokens of a sample of all corpora together; 0 if there are none."""
    tokens = sum(each.tokens for each in corpora)
    return tokens / max(1, sum(each.rows for each in corpora))


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


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
