"""Fine-tunings as Ray tasks: several at once where the cluster has room, none in the driver."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from pipeline import ray_cluster
from pipeline.errors import NezhaError, TrainingError
from pipeline.finetuning.finetune import FinetuneResult, finetune
from pipeline.settings.finetuning import FinetuneSettings

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait for each other sleep. By default they spin, which on cores that other processes
use too holds up the threads that they wait for: a fine-tuning of one minute took half an hour."""


class Finetuning(NamedTuple):
    """One fine-tuning to run."""

    name: str
    """Is put before its progress lines."""
    settings: FinetuneSettings
    export: str
    output: Path
    seed: int
    from_scratch: bool = False


def finetune_all(
    runs: Sequence[Finetuning], show: Callable[[str, str], None]
) -> list[FinetuneResult]:
    """Run fine-tunings as Ray tasks, on the cluster of this process or a local one.

    A task takes one GPU where the cluster has any or can start some. Without GPUs it takes its
    share of the CPUs, and torch uses as many threads. Ray starts as many tasks at a time as there
    is room for.

    Args:
        runs: the fine-tunings; relative paths are those of this process.
        show: takes the name of a fine-tuning and a progress line.

    Returns:
        One result for each run, in the same order.

    Raises:
        NezhaError: what a fine-tuning raised; the others are stopped.
        TrainingError: a worker process died, for example because memory ran out.
    """
    ray_cluster.connect()
    gpus = 1 if ray_cluster.count("GPU") or ray_cluster.can_start("GPU") else 0
    threads = 1 if gpus else threads_of_a_task(len(runs), ray_cluster.cpus_by_node())
    task = ray.remote(
        num_cpus=threads,
        num_gpus=gpus,
        num_returns="streaming",
        runtime_env={"env_vars": PASSIVE},
    )(_run)
    streams = {task.remote(_with_absolute_paths(run), threads): run.name for run in runs}
    order, waiting = list(streams), list(streams)
    results: dict[Any, FinetuneResult] = {}
    try:
        while waiting:
            (stream,), waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
            item = _next_item(stream, streams[stream])
            if isinstance(item, FinetuneResult):
                results[stream] = item
            else:
                show(streams[stream], item)
                waiting.append(stream)
    except BaseException:
        for stream in waiting:
            ray.cancel(stream, force=True)
        raise
    return [results[stream] for stream in order]


def threads_of_a_task(tasks: int, cpus_by_node: Sequence[int]) -> int:
    """CPUs of each of several tasks, so that they share the cluster and fit on a node."""
    return max(1, min(sum(cpus_by_node) // tasks, max(cpus_by_node, default=1)))


def _next_item(stream: Any, name: str) -> str | FinetuneResult:
    """The next progress line of a task, or its result."""
    try:
        return ray.get(next(stream))
    except RayTaskError as error:
        if isinstance(error.cause, NezhaError):
            raise type(error.cause)(f"{name}: {error.cause}") from None
        raise
    except RayError as error:
        raise TrainingError(
            f"{name}: the worker process died ({type(error).__name__}); if memory ran out, lower "
            "its batch or data.length"
        ) from error


def _run(run: Finetuning, threads: int) -> Iterator[str | FinetuneResult]:
    """Runs in a Ray worker: yields progress lines and, last, the result."""
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizer's threads
    items: queue.SimpleQueue[str | FinetuneResult | BaseException] = queue.SimpleQueue()
    threading.Thread(target=_finetune_into, args=(run, items), daemon=True).start()
    while isinstance(item := items.get(), str):
        yield item
    if isinstance(item, BaseException):
        raise item
    yield item


def _finetune_into(
    run: Finetuning, items: queue.SimpleQueue[str | FinetuneResult | BaseException]
) -> None:
    try:
        items.put(
            finetune(run.settings, run.export, run.output, run.seed, run.from_scratch, items.put)
        )
    except BaseException as error:
        items.put(error)


def _with_absolute_paths(run: Finetuning) -> Finetuning:
    """Workers have working directories of their own. The settings make their paths absolute."""
    export = run.export if "://" in run.export else os.path.abspath(run.export)
    return run._replace(export=export, output=run.output.absolute())
