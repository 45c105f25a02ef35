"""All that a worker has open while it trains, from the engine to the files that it writes."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.nn import functional as F

from model import NezhaConfig
from pipeline.feed.base import BaseFeed
from pipeline.feed.fingerprints import require_same_data
from pipeline.feed.opening import open_feed
from pipeline.paths import RunPaths
from pipeline.precision import resolve_precision
from pipeline.settings.config import Config
from pipeline.training import batch_split, engine, ranks
from pipeline.training.checkpoints import files, state
from pipeline.training.checkpoints.retries import retried
from pipeline.training.checkpoints.writer import Writer, longest_seconds
from pipeline.training.faults import divergence, events, failures, workers
from pipeline.training.faults.hang import Watchdog
from pipeline.training.measure import flops, history, step_log
from pipeline.training.measure.noise_scale import NoiseScale
from pipeline.training.measure.throughput import Interval
from pipeline.training.measure.time_shares import StepProfiler
from pipeline.training.objective import PretrainingObjective
from pipeline.training.start import starting_point
from pipeline.training.start.context import Context
from pipeline.training.start.network import build_network, network_config
from pipeline.training.start.origin import origin_at_start


class Parts(NamedTuple):
    """What a worker has open while it trains."""

    worker: Any
    """DeepSpeed's engine around the objective."""
    feed: BaseFeed
    split: batch_split.Split
    precision: str
    """Of all ranks: `bf16`, `fp16` or `fp32`."""
    saved: dict[str, Any]
    """The state that the run goes on from."""
    skipped: int
    """Global batches that rewinds have left out so far."""
    record: Callable[..., None]
    """Adds an event to the run's record."""
    recorder: history.Recorder
    steps_log: step_log.StepLog
    guard: divergence.DivergenceGuard
    watchdog: Watchdog
    interval: Interval
    profiler: StepProfiler
    noise: NoiseScale
    writer: Writer


def open_parts(config: Config, context: Context, stack: ExitStack) -> Parts:
    """Join the other ranks, restore the run's state, and open what the loop needs.

    Args:
        stack: closes the parts in the reverse order: the checkpoint that was begun is completed
            first, while the watchdog still waits for it.
    """
    rank, world_size, device, disk = context.rank, context.world_size, context.device, context.disk
    if device.type == "cpu":
        torch.set_num_threads(context.threads)
    else:
        torch.cuda.set_device(device)  # NCCL's object collectives use the current device
    paths = RunPaths.of(config)
    engine.join()
    ranks.require_shared(paths.run, context.host, disk)
    record = partial(disk.call, events.record, paths.run)
    precision = common_precision(resolve_precision(config.train.precision, device))
    split = batch_split.split_batch(config.train, world_size)
    feed = open_feed(config, rank, world_size, partial(record, "skipped"))
    shape = network_config(config.model, feed.vocab_size)
    # DeepSpeed replaces it for ZeRO 3, by one that rounds otherwise, and does not take that back.
    stack.callback(setattr, F, "linear", F.linear)
    worker, saved = _begin(config, context, feed, shape, split, precision)

    recorder = history.Recorder(rank, paths.run, saved["step"], context.tracking, disk)
    stack.callback(recorder.close)
    skipped = saved["batches_skipped"]
    skipped += disk.call(failures.batches_skipped, paths.run, saved["step"])
    attempt = _record_start(context, paths.run, feed, saved["step"], skipped)
    steps_log = step_log.StepLog(paths.run, attempt, disk)
    stack.callback(steps_log.close)
    logged = disk.call(history.last_losses, paths.run, divergence.WINDOW)
    phase = feed.phase_of(saved["step"] + skipped)
    recent = [loss for step, loss in logged if feed.phase_of(step - 1 + skipped) == phase]
    guard = divergence.DivergenceGuard(config.faults, recent, phase)
    watchdog = Watchdog(paths.run, rank, config.faults.hang_seconds)
    stack.callback(watchdog.close)
    peak = flops.peak_of(device, precision, config.engine.peak_tflops)
    interval = Interval(device, flops.Speed(shape, world_size, peak), config.train.nsp_weight)
    if rank == 0 and "interval" in saved:
        interval.resume(saved["interval"])
    profiler = StepProfiler(device, config.train.profile_every)
    noise = NoiseScale(worker)
    writer = Writer(paths.checkpoints, config.train, partial(record, "storage"), disk)
    stack.callback(writer.close)
    stack.callback(watchdog.beat, longest_seconds(config.train))
    return Parts(
        worker=worker,
        feed=feed,
        split=split,
        precision=precision,
        saved=saved,
        skipped=skipped,
        record=record,
        recorder=recorder,
        steps_log=steps_log,
        guard=guard,
        watchdog=watchdog,
        interval=interval,
        profiler=profiler,
        noise=noise,
        writer=writer,
    )


def _begin(
    config: Config,
    context: Context,
    feed: BaseFeed,
    shape: NezhaConfig,
    split: batch_split.Split,
    precision: str,
) -> tuple[Any, dict[str, Any]]:
    """DeepSpeed's engine, and the state that the run goes on from.

    They are those of the newest complete checkpoint, else what `train.init_from` gives, else those
    of step 0 with random weights.
    """
    paths, disk, train = RunPaths.of(config), context.disk, config.train
    network = build_network(shape, config.run.seed, config.engine.attention)
    recover = partial(disk.call, _recover, paths.run, paths.checkpoints)
    name = ranks.on_rank_zero(lambda: retried(recover, train.checkpoint_retry_seconds))
    found = disk.fetch(paths.checkpoints / name) if name else None
    # An export or a checkpoint of another run counts only at the beginning.
    origin = None
    if train.init_from and not found:
        start = partial(disk.call, origin_at_start, config, paths.run)
        origin = disk.fetch(ranks.on_rank_zero(start))
    if found:
        require_same_data(files.read_state(found)["fingerprint_fields"], feed.fingerprint_fields)
    elif origin and train.init_adapt:
        told = starting_point.load(network, origin, paths.vocab)
        if context.rank == 0:
            told = told.replace(str(origin), train.init_from)
            disk.call(events.record, paths.run, "start", told)
    elif origin and train.init_state == "weights":
        state.load_weights(network, origin)
    objective = PretrainingObjective(network, train.nsp_weight)
    worker = engine.initialize(objective, config, split, precision)
    saved: dict[str, Any] = {"step": 0, "samples_seen": 0, "batches_skipped": 0}
    if found:
        saved = state.restore(worker, found)
        dist.barrier()  # another rank of this node may read the copy
        disk.drop(found)
    elif origin and train.init_state != "weights":
        before = state.begin_from(worker, origin)
        if train.init_state == "branch":
            saved["batches_skipped"] = before["step"] + before["batches_skipped"]
    engine.skip_at_least_scale(worker)
    return worker, saved


def _record_start(
    context: Context, run: Path, feed: BaseFeed, step: int, skipped: int
) -> int | None:
    """Write down that all ranks train from here; returns the number of this start on rank 0."""
    places = [workers.Worker(context.host, os.getpid())] * context.world_size
    dist.all_gather_object(places, places[0])
    if context.rank:
        return None
    call = context.disk.call
    call(workers.write_workers, run, places)
    attempt = step_log.next_attempt(call(events.read, run))
    facts: dict[str, Any] = {"attempt": attempt, "step": step, "batches_skipped": skipped}
    facts |= {"workers": context.world_size, "data": feed.fingerprint_fields}
    text = f"training on {context.world_size} worker(s), from step {step}"
    call(events.record, run, "start", text, **facts)
    return attempt


def _recover(run: Path, checkpoints: Path) -> str | None:
    """The name of the checkpoint to go on from."""
    found = files.recover(checkpoints, partial(events.record, run, "damaged"))
    return found.name if found else None


def common_precision(precision: str) -> str:
    """This rank's precision if all ranks have the same; else fp32, which every device supports."""
    found = [precision] * dist.get_world_size()
    dist.all_gather_object(found, precision)
    return precision if len(set(found)) == 1 else "fp32"
