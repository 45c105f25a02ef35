"""One training worker: batches in, checkpoints out. Knows nothing of Ray.

Ray Train, torchrun or a single process starts it with a `Context`; everything else that it needs
stands in the settings and in the run folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from pipeline.corpus.shards.format import MANIFEST
from pipeline.errors import TrainingError
from pipeline.feed import batches as feeds
from pipeline.feed.batches import Batch
from pipeline.feed.cache import ShardCache
from pipeline.paths import RunPaths
from pipeline.products import quicken_products
from pipeline.settings.config import Config
from pipeline.settings.config_file import dump_yaml
from pipeline.training import batch_split, engine
from pipeline.training.checkpoints import checkpoint
from pipeline.training.evaluation import evaluate
from pipeline.training.measure import flops, history
from pipeline.training.measure.dynamics import dynamics
from pipeline.training.measure.meters import Clock, Window
from pipeline.training.network import build_network, network_config
from pipeline.training.objective import STATISTICS, PretrainingObjective, to_device
from pipeline.training.schedule import learning_rate
from pipeline.training.transfer import upload


class Context(NamedTuple):
    """What a launcher tells a worker."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    """Threads of torch on a CPU."""
    report: Callable[[Mapping[str, float], Path], None]
    """Called by every rank after each checkpoint, with its scores and its folder."""
    tracking: tuple[str, str] | None = None
    """MLflow's URI and run id, used by rank 0."""


def train(config: Config, context: Context) -> dict[str, Any]:
    """Train from the newest complete checkpoint, or from the start, to `train.steps`.

    Returns:
        the state saved with the last checkpoint: `step`, `samples_seen`, `heldout`, …

    Raises:
        TrainingError: the loss is not a number, or the weights are not finite.
        ConfigError, ShardError, VocabularyError, CheckpointError: before the first step.
    """
    if context.device.type == "cpu":
        torch.set_num_threads(context.threads)
        quicken_products()
    else:
        torch.cuda.set_device(context.device)  # where ranks send what they tell each other
    paths, device, steps = RunPaths.of(config), context.device, config.train.steps
    engine.join()
    precision = common_precision(engine.resolve_precision(config.train.precision, device))
    split = batch_split.split_for(config, context.world_size)
    feed = open_feed(config, paths, context.rank, context.world_size)
    shape = network_config(config.model, feed.vocab_size)
    network = build_network(shape, config.run.seed, config.engine.attention)
    origin, full = config.train.init_from, config.train.init_state == "full"
    found = _newest_checkpoint(paths.checkpoints, context.rank)
    if origin and not full and not found:
        checkpoint.load_weights(network, Path(origin))
    worker = engine.initialize(PretrainingObjective(network), config, split, precision)
    state: dict[str, Any] = {"step": 0}
    if found:
        compare_order(found, feed)
        state = checkpoint.restore(worker, found)
    elif origin and full:
        checkpoint.begin_from(worker, Path(origin))

    recorder = history.Recorder(context.rank, paths.run, state["step"], context.tracking)
    evaluating, scores = (paths.heldout / MANIFEST).exists(), dict[str, float]()
    peak = flops.peak_of(device, precision, config.engine.peak_tflops)
    window = Window(device, flops.Speed(shape, context.world_size, peak))
    clock = Clock(device)
    try:
        for step, micro_batches in enumerate(feed.iterate(state["step"], steps), state["step"] + 1):
            logged = step % config.train.log_every == 0 or step == steps
            rate = learning_rate(step - 1, steps, config.optim)
            for group in worker.optimizer.param_groups:
                group["lr"] = rate
            _seed_dropout(config.run.seed, step, context.rank)
            with clock.step(logged):
                window.add(_optimizer_step(worker, micro_batches, split, device, clock))
            if logged:
                values = window.close(remaining=steps - step)
                values |= {"lr": rate} | dynamics(worker) | clock.shares()
                recorder.write(step, values)
                if not math.isfinite(values["loss"]) and precision != "fp16":
                    raise _diverged(step, f"the loss is {values['loss']}")
            committing = step % config.train.checkpoint_every == 0 or step == steps
            if evaluating and (committing or step % config.train.eval_every == 0):
                scores = evaluate(worker.module, _heldout(config, paths, context), device)
                recorder.write(step, {f"heldout_{key}": value for key, value in scores.items()})
            if committing:
                if not engine.weights_are_finite(worker):
                    raise _diverged(step, "weights are not finite")
                state = {
                    "step": step,
                    "samples_seen": step * config.train.global_batch,
                    "fingerprint": feed.fingerprint,
                    "fingerprint_fields": feed.fingerprint_fields,
                    "vocab_sha256": feed.vocab_sha256,
                    "heldout": scores,
                    "precision": precision,
                    "mlflow_run": context.tracking[1] if context.tracking else None,
                }
                folder = checkpoint.save(worker, paths.checkpoints, step, state, dump_yaml(config))
                if context.rank == 0:
                    checkpoint.prune(
                        paths.checkpoints,
                        config.train.keep_checkpoints,
                        {checkpoint.best(paths.checkpoints)},
                    )
                context.report(scores, folder)
            window.restart()
            clock.restart()
    finally:
        recorder.close()
    return state


def _optimizer_step(
    worker: Any,
    micro_batches: list[Batch],
    split: batch_split.Split,
    device: torch.device,
    clock: Clock,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One global batch; returns this rank's sums [6] and the Counts of all ranks [4]."""
    own = flops.Counts(
        masked=sum(len(batch.masked_labels) for batch in micro_batches),
        pairs=sum(int((batch.next_sentence_label != -100).sum()) for batch in micro_batches),
        tokens=sum(batch.tokens for batch in micro_batches),
        squares=sum(batch.squares for batch in micro_batches),
    )
    counts = upload(torch.tensor(own, dtype=torch.float64), device)
    if split.world_size > 1:
        dist.all_reduce(counts)
    # DeepSpeed averages over ranks and accumulation steps; these shares turn its mean into the
    # mean over all masked tokens of the global batch, however the batch was split.
    shares = counts[:2].float().clamp(min=1) / (split.world_size * split.accumulation)
    sums = torch.zeros(len(STATISTICS), device=device)
    for batch in micro_batches:
        loss, statistics, _ = worker(to_device(batch, device), *shares)
        clock.lap("forward")
        worker.backward(loss)
        clock.lap("backward")
        worker.step()
        clock.lap("optimizer")
        sums += statistics
    return sums, counts


def _diverged(step: int, what: str) -> TrainingError:
    return TrainingError(
        f"step {step}: {what}; lower optim.lr, raise optim.warmup, or go on from an earlier "
        "checkpoint"
    )


def common_precision(precision: str) -> str:
    """This rank's if all have the same; else fp32, which every machine computes in."""
    found = [precision] * dist.get_world_size()
    dist.all_gather_object(found, precision)
    return precision if len(set(found)) == 1 else "fp32"


def _newest_checkpoint(folder: Path, rank: int) -> Path | None:
    """Rank 0's choice: the others neither hash the files again nor see another one."""
    choice = [checkpoint.newest(folder) if rank == 0 else None]
    dist.broadcast_object_list(choice, src=0)
    return choice[0]


def _seed_dropout(seed: int, step: int, rank: int) -> None:
    """Dropout as a function of (seed, step, rank): a resumed run draws what the first one drew."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def open_feed(config: Config, paths: RunPaths, rank: int, world_size: int) -> feeds.Feed:
    """A rank's feed of the shards that the settings name."""
    return feeds.Feed(
        config.train.shards or (str(paths.shards),),
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        rank=rank,
        world_size=world_size,
        seed=config.run.seed,
        masking=config.corpus.masking,
        window=config.train.window_shards,
        cache=ShardCache(config.train.shard_cache, config.train.shard_cache_gigabytes),
    )


def compare_order(found: Path, feed: feeds.Feed) -> None:
    """Refuse to go on from a checkpoint with other data, or the same in another order.

    Raises:
        FingerprintError: it names each difference.
    """
    saved = checkpoint.read_state(found)["fingerprint_fields"]
    feeds.compare_fingerprints(saved, feed.fingerprint_fields)


def _heldout(config: Config, paths: RunPaths, context: Context) -> Iterator[Batch]:
    return feeds.heldout(
        str(paths.heldout),
        config.train.micro_batch,
        config.train.eval_samples,
        context.rank,
        context.world_size,
    )
