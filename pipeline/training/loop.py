"""One training worker: batches in, checkpoints out. It knows nothing of Ray.

Ray Train, torchrun or a single process starts it with a `Context`; everything else that it needs is
in the settings and in the run folder.
"""

import math
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from pipeline.feed.collate import Batch
from pipeline.feed.opening import heldout_set, open_heldout
from pipeline.labels import IGNORED
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training import engine
from pipeline.training.checkpoints import files
from pipeline.training.checkpoints.writer import longest_seconds
from pipeline.training.evaluation import evaluate
from pipeline.training.faults import divergence, events, failures, memory
from pipeline.training.measure import flops, step_log
from pipeline.training.measure.activity import activity
from pipeline.training.measure.dynamics import dynamics
from pipeline.training.measure.peak_memory import peak_bytes
from pipeline.training.objective import STATISTICS, dropout_of, to_device
from pipeline.training.schedule import learning_rate
from pipeline.training.start.context import Context
from pipeline.training.start.opening import Parts, open_parts
from pipeline.training.transfer import upload


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
    damaged: float
    """Samples of damaged shards, which were left out."""


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
    shrunk = failures.shrunk(config, happened)
    with memory.explained(shrunk, context.device):
        return _train(shrunk, context, settings or dump_yaml(config))


def _train(config: Config, context: Context, settings: str) -> dict[str, Any]:
    """`train`, with a micro-batch that fits into memory."""
    steps, writing_seconds = config.train.steps, longest_seconds(config.train)
    judged_on, preemption_handled = heldout_set(config), False
    with ExitStack() as stack:
        with memory.explained(config, context.device, begun=False):
            parts = open_parts(config, context, stack)
        worker, saved, skipped = parts.worker, parts.saved, parts.skipped
        steps_log, watchdog, writer = parts.steps_log, parts.watchdog, parts.writer
        interval, profiler, noise = parts.interval, parts.profiler, parts.noise
        # Whoever keeps an error keeps this frame, and with it the thread that makes batches.
        batches = stack.enter_context(closing(parts.feed.iterate(saved["step"], steps, skipped)))
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
                    parts, context.device, micro_batches, flags, dropout_key
                )
            bad = worker.skipped_steps > bad_steps  # DeepSpeed left the weights as they are
            # The losses of an fp16 step that overflowed are right; NaN would hide the others.
            sums = torch.where(sums.isfinite().all(), sums, 0)
            consumed = Consumed(*counts.tolist())
            if profiler.active:
                noise.after_step(consumed.samples)
            steps_log.lap("step")
            steps_log.add(
                step,
                batch=step - 1 + skipped,
                samples=int(consumed.samples),
                checksum=int(consumed.checksum),
                applied=not bad,
                damaged=int(consumed.damaged),
            )
            interval.add(sums, counts[: len(flops.Counts._fields)], profiler.active)
            _guard_step(parts, context, step, bad)

            # DeepSpeed has waited for the device already, to look at the gradients.
            stopping = bool(consumed.stop)
            if consumed.checkpoint_failed:
                watchdog.beat(writing_seconds)
                writer.wait()
            saving = step % config.train.checkpoint_every == 0 or step == steps
            # Checkpoints are logged steps too, so that none is written after an unseen spike.
            if saving or step % config.train.log_every == 0:
                _log(parts, context, step, rate, remaining=steps - step)

            steps_log.lap("other")
            scores = {}
            if judged_on and (saving or step % config.train.eval_every == 0):
                scores = _evaluate(parts, context, config, step)
                watchdog.beat()
                steps_log.lap("evaluation")

            preempted = bool(consumed.preempted) and not preemption_handled
            if saving or stopping or preempted:
                saved = _state(parts, context, step, saved, scores, judged_on)
                watchdog.beat(writing_seconds)
                folder = writer.begin(worker, step, saved, settings)
                context.report(scores, folder)
                if preempted:
                    preemption_handled = True
                    _await_checkpoint(parts, context, step, folder, final=stopping or step == steps)
                steps_log.lap("checkpoint")
            if stopping:
                break
            interval.restart()
            profiler.restart()
        watchdog.beat(writing_seconds)
        writer.wait(final=True)
        steps_log.lap("checkpoint")
    return saved


def _guard_step(parts: Parts, context: Context, step: int, bad: bool) -> None:
    """Record a step that DeepSpeed skipped; raise Diverged after too many."""
    # The loss scale of fp16 grows until a step overflows.
    bad = bad and not engine.may_lower_scale(parts.worker)
    if bad and context.rank == 0:
        samples, _ = parts.feed.samples(step - 1 + parts.skipped)
        text = f"step {step} was skipped: its gradients are not finite"
        parts.record("skipped", text, step=step, samples=samples.tolist())
    parts.guard.after_step(step, bad)


def _log(parts: Parts, context: Context, step: int, rate: float, remaining: int) -> None:
    """Record the figures since the last logged step; a spike is recorded, or raises Diverged."""
    values = parts.interval.close(remaining)
    values |= {"lr": rate} | dynamics(parts.worker) | parts.profiler.take_shares()
    values |= parts.noise.values()
    values |= parts.writer.take_seconds()
    values["peak_gigabytes"] = peak_bytes(context.device) / 1e9
    phase = parts.feed.phase_of(step - 1 + parts.skipped)
    what = parts.guard.after_interval(step, values["loss"], phase)
    if what and context.rank == 0:
        parts.record("spike", what, step=step)
    parts.recorder.write(step, values)


def _state(
    parts: Parts,
    context: Context,
    step: int,
    saved: dict[str, Any],
    scores: dict[str, float],
    judged_on: str | None,
) -> dict[str, Any]:
    """The state of a checkpoint, when all that it contains is on record.

    `saved`: the state before it, from this start of the workers or the one that they went on from.

    Raises:
        Diverged: weights are not finite, so there must be no checkpoint.
    """
    parts.steps_log.flush()
    if not engine.weights_are_finite(parts.worker):
        raise divergence.diverged(step, "weights are not finite")
    feed, skipped = parts.feed, parts.skipped
    return {
        "step": step,
        "samples_seen": saved["samples_seen"]
        + feed.samples_before(step + skipped)
        - feed.samples_before(saved["step"] + skipped),
        "batches_skipped": skipped,
        "fingerprint": feed.fingerprint,
        "fingerprint_fields": feed.fingerprint_fields,
        "vocab_sha256": feed.vocab_sha256,
        "heldout": scores,
        "heldout_set": judged_on,
        "interval": parts.interval.sums(),
        "precision": parts.precision,
        "mlflow_run": context.tracking[1] if context.tracking else None,
    }


def _await_checkpoint(parts: Parts, context: Context, step: int, folder: Path, final: bool) -> None:
    """Wait until the checkpoint is complete that is written because a node will be taken away."""
    parts.writer.wait(final)
    complete = context.rank == 0 and context.disk.call(Path.exists, folder / files.COMPLETE)
    if complete:  # else `wait` told why
        text = f"a node will be taken away; {folder.name} was written before"
        parts.record("preempted", text, step=step)


def _evaluate(parts: Parts, context: Context, config: Config, step: int) -> dict[str, float]:
    """Held-out scores, which are recorded with what the network's units do on that text."""
    rank, world_size, device = context.rank, context.world_size, context.device
    objective = parts.worker.module
    scores = evaluate(objective, open_heldout(config, rank, world_size), device)
    heldout = {f"heldout_{key}": value for key, value in scores.items()}
    first = next(open_heldout(config, rank, world_size))
    parts.recorder.write(step, heldout | activity(objective.network, first, device))
    if not math.isfinite(scores["mlm_loss"]):
        raise divergence.diverged(step, "the held-out loss is not finite")
    return scores


def _optimizer_step(
    parts: Parts,
    device: torch.device,
    micro_batches: list[Batch],
    flags: tuple[bool, bool, bool],
    dropout_key: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """One global batch; returns this rank's STATISTICS [6], and `Consumed` of all ranks [10].

    Args:
        micro_batches: this rank's.
        flags: this rank's `stop`, `checkpoint_failed` and `preempted` of `Consumed`.
        dropout_key: of `dropout_of`.
    """
    worker, split, profiler = parts.worker, parts.split, parts.profiler
    samples = np.concatenate([batch.samples for batch in micro_batches])
    own = Consumed(
        sum(len(batch.masked_labels) for batch in micro_batches),
        sum(int((batch.next_sentence_label != IGNORED).sum()) for batch in micro_batches),
        sum(batch.tokens for batch in micro_batches),
        sum(batch.squares for batch in micro_batches),
        len(samples),
        step_log.checksum_of(samples),
        *flags,
        sum(batch.damaged for batch in micro_batches),
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
