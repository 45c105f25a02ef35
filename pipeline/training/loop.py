"""One training worker: batches in, checkpoints out. It knows nothing of Ray.

Ray Train, torchrun or a single process starts it with a `Context`; everything else that it needs is
in the settings and in the run folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from model import NezhaConfig
from pipeline.corpus.shards.format import is_corpus
from pipeline.disk import OWN, Disk
from pipeline.feed.base import BaseFeed
from pipeline.feed.batches import compare_fingerprints
from pipeline.feed.collate import Batch
from pipeline.feed.opening import open_feed, open_heldout
from pipeline.labels import IGNORED
from pipeline.paths import RunPaths
from pipeline.precision import resolve_precision
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training import batch_split, engine, starting_point
from pipeline.training.checkpoints import files, ranks, state
from pipeline.training.checkpoints.writer import Writer, longest_seconds
from pipeline.training.evaluation import evaluate
from pipeline.training.faults import divergence, events, failures, memory, workers
from pipeline.training.faults.hang import Watchdog
from pipeline.training.measure import flops, history, step_log
from pipeline.training.measure.activity import activity
from pipeline.training.measure.dynamics import dynamics
from pipeline.training.measure.noise_scale import NoiseScale
from pipeline.training.measure.throughput import Interval
from pipeline.training.measure.time_shares import StepProfiler
from pipeline.training.network import build_network, network_config
from pipeline.training.objective import STATISTICS, PretrainingObjective, dropout_of, to_device
from pipeline.training.schedule import learning_rate
from pipeline.training.transfer import upload


class Context(NamedTuple):
    """What a launcher tells a worker."""

    rank: int
    world_size: int
    host: str
    """Name or address of the machine, for messages."""
    device: torch.device
    threads: int
    """Threads of torch on a CPU."""
    report: Callable[[Mapping[str, float], Path], None]
    """Every rank calls it after each checkpoint, with the scores and the folder."""
    tracking: tuple[str, str] | None = None
    """MLflow's URI and run id, for rank 0."""
    stop: Callable[[], bool] = lambda: False
    """Whether this rank was asked to stop; one rank is enough."""
    preempted: Callable[[], bool] = lambda: False
    """Whether the cluster has announced that it takes a node away; one rank is enough."""
    disk: Disk = OWN
    """Holds the run's folder."""


class Consumed(NamedTuple):
    """What a step consumed; the sums over all ranks, by one collective operation."""

    masked: float
    pairs: float
    tokens: float
    squares: float
    """The fields so far are those of `flops.Counts`."""
    samples: float
    checksum: float
    """Of the sample numbers."""
    stop: float
    """Ranks that were asked to stop."""
    checkpoint_failed: float
    """Ranks that could not write the checkpoint which was begun."""
    preempted: float
    """Ranks that know that a node will be taken away."""


def train(config: Config, context: Context, settings: str = "") -> dict[str, Any]:
    """Train from the newest complete checkpoint, or from the start, to `train.steps`.

    A run that is asked to stop does so after a step, with a checkpoint.

    Args:
        config: the settings, with paths of this node.
        settings: those of the user as YAML, for the checkpoints; empty: `config` has them.

    Returns:
        the state saved with the last checkpoint: `step`, `samples_seen`, `heldout`, …

    Raises:
        Diverged: gradients or the loss say that the run must not go on from here.
        OutOfMemory: the message says what to lower.
        ShardError: a shard is damaged, unless `faults.damaged_shard` skips it.
        ConfigError, VocabularyError, CheckpointError: before the first step.
    """
    happened = context.disk.call(events.read, RunPaths.of(config).run)
    fitting = failures.fitting(config, happened)
    with memory.explained(fitting, context.device):
        return _train(fitting, context, settings or dump_yaml(config))


def _train(config: Config, context: Context, settings: str) -> dict[str, Any]:
    """`train`, with a micro-batch that fits."""
    rank, world_size, device, disk = context.rank, context.world_size, context.device, context.disk
    if device.type == "cpu":
        torch.set_num_threads(context.threads)
    else:
        torch.cuda.set_device(device)  # NCCL's object collectives use the current device
    paths, steps = RunPaths.of(config), config.train.steps
    engine.join()
    ranks.require_shared(paths.run, context.host, disk)
    record = partial(disk.call, events.record, paths.run)
    precision = common_precision(resolve_precision(config.train.precision, device))
    split = batch_split.split_batch(config.train, world_size)
    feed = open_feed(config, rank, world_size, partial(record, "skipped"))
    shape = network_config(config.model, feed.vocab_size)
    worker, saved = _begin(config, context, feed, shape, split, precision)

    recorder = history.Recorder(rank, paths.run, saved["step"], context.tracking, disk)
    skipped = saved["batches_skipped"]
    skipped += disk.call(failures.batches_skipped, paths.run, saved["step"])
    attempt = _record_start(context, paths.run, feed, saved["step"], skipped)
    steps_log = step_log.StepLog(paths.run, attempt, disk)
    logged = disk.call(history.read, paths.run)
    recent = [values["loss"] for values in logged if "loss" in values]
    guard = divergence.DivergenceGuard(config.faults, recent)
    watchdog = Watchdog(paths.run, rank, config.faults.hang_seconds)
    writing_seconds = longest_seconds(config.train)
    evaluating = is_corpus(paths.heldout)
    peak = flops.peak_of(device, precision, config.engine.peak_tflops)
    interval = Interval(device, flops.Speed(shape, world_size, peak), config.train.nsp_weight)
    if rank == 0 and "interval" in saved:
        interval.resume(saved["interval"])
    profiler = StepProfiler(device, config.train.profile_every)
    noise = NoiseScale(worker)
    writer = Writer(paths.checkpoints, config.train, partial(record, "storage"), disk)
    rescued = False
    try:
        batches = feed.iterate(saved["step"] + skipped, steps + skipped)
        for step, micro_batches in enumerate(batches, saved["step"] + 1):
            watchdog.beat()
            steps_log.lap("data")
            bad_steps = worker.skipped_steps
            rate = learning_rate(step - 1, steps, config.optim)
            for group in worker.optimizer.param_groups:
                group["lr"] = rate
            dropout_key = config.run.seed, step
            with profiler.step(step):
                if profiler.active:
                    noise.before_step(micro_batches[0], dropout_key)
                    profiler.restart()
                flags = context.stop(), writer.failed, context.preempted()
                sums, counts = _optimizer_step(
                    worker, micro_batches, split, device, profiler, flags, dropout_key
                )
            bad = worker.skipped_steps > bad_steps  # DeepSpeed left the weights as they are
            # The losses of an fp16 step that overflowed are right; NaN would hide the others.
            sums = torch.where(sums.isfinite().all(), sums, 0)
            consumed = Consumed(*counts.tolist())
            if profiler.active:
                noise.after_step(consumed.samples)
            steps_log.lap("step")
            steps_log.add(
                step, step - 1 + skipped, int(consumed.samples), int(consumed.checksum), not bad
            )
            interval.add(sums, counts[: len(flops.Counts._fields)], profiler.active)
            if precision != "fp16":  # whose loss scale grows until a step overflows
                if bad and rank == 0:
                    samples, _ = feed.samples(step - 1 + skipped)
                    text = f"step {step} was skipped: its gradients are not finite"
                    record("skipped", text, step=step, samples=samples.tolist())
                guard.after_step(step, bad)

            # DeepSpeed has waited for the device already, to look at the gradients.
            stopping = bool(consumed.stop)
            if consumed.checkpoint_failed:
                watchdog.beat(writing_seconds)
                writer.wait()
            saving = step % config.train.checkpoint_every == 0 or step == steps
            # Checkpoints are logged steps too, so that none is written after an unseen spike.
            if saving or step % config.train.log_every == 0:
                values = interval.close(remaining=steps - step)
                values |= {"lr": rate} | dynamics(worker) | profiler.take_shares()
                values |= noise.values()
                values |= writer.take_seconds()
                what = guard.after_interval(step, values["loss"])
                if what and rank == 0:
                    record("spike", what, step=step)
                recorder.write(step, values)

            steps_log.lap("other")
            scores = {}
            if evaluating and (saving or step % config.train.eval_every == 0):
                scores = _evaluate(config, context, worker, step, recorder)
                watchdog.beat()
                steps_log.lap("evaluation")

            warned = bool(consumed.preempted) and not rescued
            if saving or stopping or warned:
                steps_log.flush()
                if not engine.weights_are_finite(worker):
                    raise divergence.diverged(step, "weights are not finite")
                saved = {
                    **_read_so_far(feed, step, skipped),
                    "heldout": scores,
                    "interval": interval.sums(),
                    "precision": precision,
                    "mlflow_run": context.tracking[1] if context.tracking else None,
                }
                watchdog.beat(writing_seconds)
                folder = writer.begin(worker, step, saved, settings)
                context.report(scores, folder)
                if warned:
                    rescued = True
                    writer.wait(final=stopping or step == steps)
                    complete = rank == 0 and disk.call(Path.exists, folder / files.COMPLETE)
                    if complete:  # else `wait` told why
                        text = f"a node will be taken away; {folder.name} was written before"
                        record("preempted", text, step=step)
                steps_log.lap("checkpoint")
            if stopping:
                break
            interval.restart()
            profiler.restart()
        watchdog.beat(writing_seconds)
        writer.wait(final=True)
        steps_log.lap("checkpoint")
    finally:
        watchdog.beat(writing_seconds)
        writer.close()
        watchdog.close()
        steps_log.close()
        recorder.close()
    return saved


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
    name = ranks.on_rank_zero(lambda: ranks.retried(recover, train.checkpoint_retry_seconds))
    found = disk.fetch(paths.checkpoints / name) if name else None
    # An export or a checkpoint of another run counts only at the beginning.
    origin = _origin(train.init_from, disk) if train.init_from and not found else None
    if found:
        compare_fingerprints(files.read_state(found)["fingerprint_fields"], feed.fingerprint_fields)
    elif origin and train.init_adapt:
        told = starting_point.load(network, origin, paths.vocab)
        if context.rank == 0:
            told = told.replace(str(origin), train.init_from)
            disk.call(events.record, paths.run, "start", told)
    elif origin and train.init_state == "weights":
        state.load_weights(network, origin)
    objective = PretrainingObjective(network, train.nsp_weight)
    worker = engine.initialize(objective, config, split, precision)
    saved: dict[str, Any] = {"step": 0, "batches_skipped": 0}
    if found:
        saved = state.restore(worker, found)
        dist.barrier()  # another rank of this node may read the copy
        disk.drop(found)
    elif origin and train.init_state != "weights":
        before = state.begin_from(worker, origin)
        if train.init_state == "branch":
            saved["batches_skipped"] = before["step"] + before["batches_skipped"]
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


def _read_so_far(feed: BaseFeed, step: int, skipped: int) -> dict[str, Any]:
    """Of the state of a checkpoint: how far the run has read, and what."""
    return {
        "step": step,
        "samples_seen": feed.samples_before(step + skipped) - feed.samples_before(skipped),
        "batches_skipped": skipped,
        "fingerprint": feed.fingerprint,
        "fingerprint_fields": feed.fingerprint_fields,
        "vocab_sha256": feed.vocab_sha256,
    }


def _evaluate(
    config: Config, context: Context, worker: Any, step: int, recorder: history.Recorder
) -> dict[str, float]:
    """Held-out scores, which are recorded with what the network's units do on that text."""
    rank, world_size, device = context.rank, context.world_size, context.device
    scores = evaluate(worker.module, open_heldout(config, rank, world_size), device)
    heldout = {f"heldout_{key}": value for key, value in scores.items()}
    first = next(open_heldout(config, rank, world_size))
    recorder.write(step, heldout | activity(worker.module.network, first, device))
    if not math.isfinite(scores["mlm_loss"]):
        raise divergence.diverged(step, "the held-out loss is not finite")
    return scores


def _optimizer_step(
    worker: Any,
    micro_batches: list[Batch],
    split: batch_split.Split,
    device: torch.device,
    profiler: StepProfiler,
    flags: tuple[bool, bool, bool],
    dropout_key: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """One global batch; returns this rank's sums [6], and what all ranks consumed [9]."""
    samples = np.concatenate([batch.samples for batch in micro_batches])
    own = Consumed(
        sum(len(batch.masked_labels) for batch in micro_batches),
        sum(int((batch.next_sentence_label != IGNORED).sum()) for batch in micro_batches),
        sum(batch.tokens for batch in micro_batches),
        sum(batch.squares for batch in micro_batches),
        len(samples),
        step_log.checksum_of(samples),
        *flags,
    )
    counts = upload(torch.tensor(own, dtype=torch.float64), device)
    if split.world_size > 1:
        dist.all_reduce(counts)
    # DeepSpeed averages over ranks and accumulation steps; these divisors turn its mean into the
    # mean over all masked tokens of the global batch, however the batch was split.
    divisors = counts[:2].float().clamp(min=1) / (split.world_size * split.accumulation)
    sums = torch.zeros(len(STATISTICS), device=device)
    for batch in micro_batches:
        with dropout_of(batch, *dropout_key):
            loss, statistics, _ = worker(to_device(batch, device), *divisors)
            profiler.lap("forward")
            worker.backward(loss)
        profiler.lap("backward")
        worker.step()
        profiler.lap("optimizer")
        sums += statistics
    return sums, counts


def _recover(run: Path, checkpoints: Path) -> str | None:
    """The name of the checkpoint to go on from."""
    found = files.recover(checkpoints, partial(events.record, run, "damaged"))
    return found.name if found else None


def _origin(given: str, disk: Disk) -> Path:
    """The checkpoint or the export that `train.init_from` names, on this node."""
    return disk.fetch(disk.call(files.origin_of, given))


def common_precision(precision: str) -> str:
    """This rank's precision if all ranks have the same; else fp32, which every device supports."""
    found = [precision] * dist.get_world_size()
    dist.all_gather_object(found, precision)
    return precision if len(set(found)) == 1 else "fp32"
