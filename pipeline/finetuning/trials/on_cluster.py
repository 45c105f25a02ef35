"""Fine-tunings on the cluster: each trial is a Ray task, none runs in the driver."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster import ray_cluster
from pipeline.errors import NezhaError, TrainingError
from pipeline.finetuning.finetune import (
    FinetuneResult,
    Finetuning,
    Found,
    Runner,
    Work,
    finetune_with,
)
from pipeline.finetuning.trials.halving import halve
from pipeline.finetuning.trials.trial import Trial

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait for each other sleep. By default they spin, which on cores that other processes
use too holds up the threads that they wait for: a fine-tuning of one minute took half an hour."""
Show = Callable[[str, str], None]
logger = logging.getLogger(__name__)


def finetune_all(jobs: Sequence[Finetuning], show: Show) -> list[FinetuneResult]:
    """Fine-tune on the cluster of this process or a local one.

    Args:
        jobs: the fine-tunings; relative paths are those of this process.
        show: takes the name of a fine-tuning and a progress line.

    Returns:
        One result for each job, in the same order.

    Raises:
        NezhaError: as `finetune_with`.
    """

    def halve_here(trials: Sequence[Trial], metric: str) -> Found:
        ray_cluster.connect()
        threads = threads_of_a_task(len(trials), ray_cluster.cpus_by_node())
        return halve(trials, metric, threads, show)

    given = [_with_absolute_paths(job) for job in jobs]
    return finetune_with(cluster_runner(show), given, show, halve_here)


def cluster_runner(show: Show) -> Runner:
    """What makes calls as Ray tasks, as many at a time as there is room for.

    A task takes its GPUs where the cluster has any or can start some. Without GPUs it takes its
    share of the CPUs, and torch uses as many threads. A worker process that died, for example
    because memory ran out, is a TrainingError of its call. Trials are plain Ray tasks rather than
    trials of Ray Tune, which starts an actor for each one (about 8 s here) and cannot give it
    environment variables.
    """

    def run(works: Sequence[Work]) -> list[Any]:
        if not works:
            return []
        ray_cluster.connect()
        has_gpus = ray_cluster.count("GPU") > 0 or ray_cluster.can_start("GPU")
        threads = threads_of_a_task(len(works), ray_cluster.cpus_by_node())
        streams: dict[Any, int] = {}
        for number, work in enumerate(works):
            gpus = work.gpus if has_gpus else 0.0
            cpus = 1 if gpus else threads
            task = ray.remote(
                num_cpus=cpus,
                num_gpus=gpus,
                num_returns="streaming",
                runtime_env={"env_vars": PASSIVE},
            )(_run)
            streams[task.remote(work.function, work.arguments, cpus)] = number
        return _collect(works, streams, show)

    return run


def threads_of_a_task(tasks: int, cpus_by_node: Sequence[int]) -> int:
    """CPUs of each of several tasks, so that they share the cluster and fit on a node."""
    return max(1, min(sum(cpus_by_node) // tasks, max(cpus_by_node, default=1)))


def _collect(works: Sequence[Work], streams: dict[Any, int], show: Show) -> list[Any]:
    """Pass progress lines on until each call has a result or an error."""
    results: dict[int, Any] = {}
    start_time, waiting = time.monotonic(), list(streams)
    try:
        while waiting:
            (stream,), waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
            work = works[streams[stream]]
            item = _next_item(stream)
            if isinstance(item, str):
                show(work.name, item)
                waiting.append(stream)
                continue
            results[streams[stream]] = item
            if isinstance(item, NezhaError):
                show(work.name, f"failed: {item}")
            if len(works) > 2:
                share = len(results) / len(works)
                left = (time.monotonic() - start_time) * (1 - share) / share / 60
                show("", f"{len(results)} of {len(works)} done, about {left:.0f} minutes left")
    except BaseException:
        for stream in waiting:
            ray.cancel(stream, force=True)
        raise
    return [results[number] for number in range(len(works))]


def _next_item(stream: Any) -> Any:
    """The next progress line of a task, its result, or a NezhaError."""
    try:
        return ray.get(next(stream))
    except RayTaskError as error:
        if isinstance(error.cause, NezhaError):
            return type(error.cause)(str(error.cause))
        # Out of GPU memory, or a fault of ours: the other calls go on.
        logger.error("%s", error)
        return TrainingError(f"{type(error.cause).__name__}: {error.cause}")
    except RayError as error:
        return TrainingError(
            f"the worker process died ({type(error).__name__}); if memory ran out, lower its "
            "batch, micro_batch or data.length"
        )


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> Iterator[Any]:
    """Runs in a Ray worker: yields progress lines and, last, the result, which is no string."""
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizer's threads
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call() -> None:
        try:
            items.put(function(*arguments, show=items.put))
        except BaseException as error:
            items.put(error)

    threading.Thread(target=call, daemon=True).start()
    while isinstance(item := items.get(), str):
        yield item
    if isinstance(item, BaseException):
        raise item
    yield item


def _with_absolute_paths(job: Finetuning) -> Finetuning:
    """Workers have working directories of their own. The settings make their paths absolute."""
    export = job.export if "://" in job.export else os.path.abspath(job.export)
    return job._replace(export=export, output=job.output.absolute())
