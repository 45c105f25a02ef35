"""Training on Ray Train: starts workers, and restarts them after failures."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from pipeline.cluster import ray_cluster as cluster
from pipeline.cluster import remote_disk
from pipeline.doctor import cluster as doctor
from pipeline.errors import NezhaError, TrainingError
from pipeline.paths import RunPaths
from pipeline.progress import Progress
from pipeline.settings.config import Config
from pipeline.training import batch_split
from pipeline.training.checkpoints.writer import longest_seconds
from pipeline.training.faults import hang, stop
from pipeline.training.faults.failures import first_line, original
from pipeline.training.launch import ray_worker, worker_logs
from pipeline.training.launch.ray_failures import RestartOrStop, WithoutWorkers
from pipeline.training.launch.ray_metrics import RunMetrics
from pipeline.training.launch.rendezvous import NodeTorchConfig
from pipeline.training.launch.watcher import Watcher
from pipeline.training.measure import step_log

RESIZE_SECONDS = 60.0
"""Seconds between two looks for nodes that were added, in an elastic run."""
RENDEZVOUS_SECONDS = 7200
"""How long workers wait for each other at the start, while some copy shards. What hangs later is
found by `faults.hang_seconds`."""
HEALTH_CHECK = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"


def fit(config: Config, tracking: tuple[str, str] | None, progress: Progress) -> dict[str, Any]:
    """Train on the cluster until `train.steps`; returns the state of the last checkpoint.

    Args:
        tracking: MLflow's URI and run id; None: MLflow gets nothing.

    Raises:
        ConfigError: the cluster is too small, also after `scaling.wait_seconds`, or has nodes with
            which the run can't work.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
        TrainingError: the workers failed more than `faults.max_failures` times.
        NezhaError: what a worker raised for the user to read.
    """
    scaling, paths = config.scaling, RunPaths.of(config)
    cluster.connect()
    gpus = cluster.gpus_per_worker(scaling.gpus_per_worker)
    workers = batch_split.choose_workers(config, cluster.count("GPU"), cluster.count("CPU"))
    fewest = scaling.min_workers or workers
    for number in range(fewest, workers + 1):
        batch_split.split_batch(config.train, number)
    cluster.place(fewest, scaling.cpus_per_worker, gpus, scaling.wait_seconds, progress.say)
    for warning in doctor.refuse_bad_nodes(config):
        progress.say(warning)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # Ray's own limit for a worker that does not answer must not come before ours, which writes
    # stacks first.
    limit = 2 * config.faults.hang_seconds + longest_seconds(config.train) + 60
    os.environ[HEALTH_CHECK] = str(limit)
    with remote_disk.offered(paths.run, config.run.scratch) as offer:
        trainer = _trainer(config, fewest, workers, gpus, tracking, offer)
        hang.clear(paths.run)
        stop.clear(paths.run)
        step_log.begin(paths.run)
        start_time = time.time()
        watcher = Watcher(paths.run, config, progress, RunMetrics(config.run.name))
        try:
            with watcher.running(), stop.on_signals(paths.run, progress.say) as asked:
                state = _in_thread(trainer.fit).return_value
        finally:
            worker_logs.collect(
                f"{config.run.storage}/{config.run.name}", start_time, progress.say, offer
            )
    stop.raise_if_stopped(paths.run, state, config.train.steps, asked.is_set())
    return state


def _trainer(
    config: Config,
    fewest: int,
    most: int,
    gpus: float,
    tracking: tuple[str, str] | None,
    offer: remote_disk.Offer,
) -> TorchTrainer:
    """Ray's trainer of a group of workers, each with so many GPUs."""
    scaling, paths = config.scaling, RunPaths.of(config)
    bundle = cluster.bundle_of(scaling.cpus_per_worker, gpus)
    missing = WithoutWorkers(paths.run, paths.checkpoints, fewest, bundle)
    return TorchTrainer(
        ray_worker.run,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "tracking": tracking,
            "offer": offer,
        },
        torch_config=NodeTorchConfig("nccl" if gpus else "gloo", timeout_s=RENDEZVOUS_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=(fewest, most) if fewest < most else most,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=gpus > 0,
            resources_per_worker=bundle,
        ),
        run_config=RunConfig(
            name=config.run.name,
            storage_path=str(paths.run / "ray"),
            # The callback decides; an exception that it raises ends the run.
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[RestartOrStop(config, offer), missing],
            worker_runtime_env=cluster.runtime_env(gpus),
        ),
    )


def _in_thread(fit: Callable[[], ray.train.Result]) -> ray.train.Result:
    """Run `fit` in a thread and return its result, so that signals reach our handler and not its.

    Raises:
        NezhaError: what ended the run.
    """
    outcome: list[Any] = [None, None]

    def run() -> None:
        try:
            outcome[0] = fit()
        except BaseException as error:
            outcome[1] = error

    thread = threading.Thread(target=run, name="fit", daemon=True)
    thread.start()
    thread.join()
    if outcome[1] is not None:
        raise _user_error(outcome[1]) from outcome[1]
    return outcome[0]


def _user_error(error: BaseException) -> BaseException:
    """The error that ended the run, without what Ray wrapped around it."""
    if not isinstance(error, TrainingFailedError | RayError):  # Ray's controller may die too
        return error
    inner = original(getattr(error, "controller_failure", error))
    if isinstance(inner, NezhaError):
        return inner
    # Behind the first line, Ray lists what its memory monitor knows.
    return TrainingError(
        f"training failed: {type(inner).__name__}: {first_line(inner)}; the same command goes on"
    )
