"""Ray Train: starts the workers, restarts them after failures, shows how the run goes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from pipeline import ray_cluster as cluster
from pipeline.errors import NezhaError, TrainingError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training import batch_split
from pipeline.training.checkpoints import checkpoint
from pipeline.training.loop import Context, compare_order, open_feed, train
from pipeline.training.measure import history

POLL_SECONDS = 1.0
RESIZE_SECONDS = 60.0
"""How often an elastic run looks for nodes that were added."""
DIVERGED = "diverged"
HIDE_GPUS = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}


def fit(
    config: Config, tracking: tuple[str, str] | None, show: Callable[[str], None]
) -> dict[str, Any]:
    """Train on the cluster until `train.steps`; returns the state of the last checkpoint.

    Raises:
        ConfigError: the cluster is too small.
        ShardError: the shards can't be read.
        FingerprintError: they, or settings of their order, are not those of the checkpoint.
        TrainingError: the loss diverged, or the workers failed more than `scaling.max_failures`
            times.
    """
    scaling, paths = config.scaling, RunPaths.of(config)
    # What is wrong with the shards or differs from the checkpoint's is told before workers start.
    feed = open_feed(config, paths, rank=0, world_size=1)
    if found := checkpoint.newest(paths.checkpoints):
        compare_order(found, feed)
    cluster.connect()
    gpus = cluster.gpus_per_worker(scaling.gpus_per_worker)
    workers = batch_split.choose_workers(config, cluster.count("GPU"), cluster.count("CPU"))
    fewest = scaling.min_workers or workers
    for number in range(fewest, workers + 1):
        batch_split.split_for(config, number)
    cluster.require(fewest, scaling.cpus_per_worker, gpus)
    paths.run.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "tracking": tracking},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(fewest, workers) if fewest < workers else workers,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": scaling.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=config.run.name,
            storage_path=str(paths.run / "ray"),
            failure_config=FailureConfig(max_failures=scaling.max_failures),
            # Ray lets workers without GPUs see all that a machine has.
            worker_runtime_env=HIDE_GPUS if cluster.count("GPU") and not gpus else None,
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    with _Watcher(paths.run, config.train.steps, show):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
    if message := result.return_value.get(DIVERGED):
        raise TrainingError(message)
    return result.return_value


def _worker(given: dict[str, Any]) -> dict[str, Any]:
    """Runs in a Ray Train worker."""
    context = ray.train.get_context()
    config = Config.model_validate(given["config"])
    launch = Context(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=max(1, int(config.scaling.cpus_per_worker)),
        report=_report,
        tracking=given["tracking"] and tuple(given["tracking"]),
    )
    try:
        return train(config, launch)
    except TrainingError as error:
        # All ranks see the same loss. Handed back, it is not tried again as a lost node would be.
        return {DIVERGED: str(error)}


def _report(scores: Mapping[str, float], folder: Path) -> None:
    # Ray is not handed the checkpoint: it would refuse to restart once an old one is pruned. The
    # workers find the newest complete one in the run folder by themselves.
    ray.train.report({**scores, "checkpoint": str(folder)})


def _cause(error: BaseException) -> NezhaError:
    """The user's mistake behind a failed group of workers, if it was one."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        original = getattr(failure, "cause", failure)
        if isinstance(original, NezhaError):
            return type(original)(str(original))
    return TrainingError(f"training failed: {error}")


class _Watcher:
    """Shows the lines that rank 0 adds to the run's history."""

    def __init__(self, folder: Path, steps: int, show: Callable[[str], None]) -> None:
        self._folder, self._steps, self._show = folder, steps, show
        self._seen = len(history.read(folder))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._catch_up()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._catch_up()

    def _catch_up(self) -> None:
        records = history.read(self._folder)
        # A resumed worker rewinds the history to its checkpoint.
        self._seen = min(self._seen, len(records))
        for record in records[self._seen :]:
            self._show(history.progress_line(record, self._steps))
        self._seen = len(records)
