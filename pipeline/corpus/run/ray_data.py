"""Work units through Ray Data: each byte range in one task, a stream in two stages."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from pipeline.corpus.run.tally import Result
from pipeline.corpus.run.work import Job, chunks_or_failure, or_failure
from pipeline.corpus.text.units import Unit, shard_bytes
from pipeline.errors import CorpusError
from pipeline.ray_cluster import connect

QUEUED = 10_000
"""Tasks that Ray Data submits to Ray at a time; Ray starts as many as there are CPUs."""

AT_A_TIME, AT_A_TIME_AND_CPU = 10_000, 64
"""Units of one dataset: Ray Data holds an object in the driver for each. CPUs wait at the end of a
dataset for the last units, which is a small part of the time of 64 units on each CPU."""


def run_on_cluster(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Result]:
    """Yield the results of all units as they are finished."""
    if not units:
        return
    connect()
    # Errors are shown as one line; Ray Data would log the traceback too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # `workers` may exceed the number of units: the setting is meant for corpora of any size.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")
    cpus = math.ceil(ray.cluster_resources().get("CPU", 1))
    size = max(AT_A_TIME, AT_A_TIME_AND_CPU * cpus)
    for streams, compose in ((False, _ranges), (True, _streams)):
        chosen = [unit for unit in units if unit.stream == streams]
        for first in range(0, len(chosen), size):
            with _one_line():
                dataset = compose(job, chosen[first : first + size], workers, cpus)
                for row in dataset.iter_rows():
                    yield Result.model_validate_json(row["result"])


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error of Ray, or of a function in a worker, into one that is shown as one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        text = next((line for line in reversed(str(cause).splitlines()) if line.strip()), "")
        raise CorpusError(
            f"a Ray worker failed: {type(cause).__name__}: {text.strip()}; remove the cause and "
            "run again (finished shards are kept)"
        ) from None


def _ranges(job: Job, units: Sequence[Unit], workers: int, cpus: int) -> ray.data.Dataset:
    """Results of units that the same task reads and works on.

    Ray Data limits the tasks that it submits, to bound the memory of data between stages: a CPU
    waits up to 0.2 s for its next task, a tenth of the time of 16 MB. Here no data passes between
    stages, so Ray may queue all tasks at once.
    """
    dataset = _items(units, shard_bytes(job.settings), reserve=False)
    size = workers if 0 < workers < cpus else QUEUED
    return dataset.flat_map(functools.partial(to_results, job), num_cpus=1, concurrency=size)


def _streams(job: Job, units: Sequence[Unit], workers: int, cpus: int) -> ray.data.Dataset:
    """Results of streams: the first stage reads chunks, the second one works on them.

    Readers wait when chunks pile up. They reserve no CPU: otherwise they could hold the last one
    while the second stage needs it. Different needs also keep Ray Data from fusing the stages.
    """
    chunks = _items(units, shard_bytes(job.settings), reserve=True).flat_map(
        functools.partial(to_chunks, job), num_cpus=0, concurrency=workers or cpus
    )
    return chunks.flat_map(
        functools.partial(to_results, job), num_cpus=1, concurrency=workers or None
    )


def _items(units: Sequence[Unit], block_bytes: int, reserve: bool) -> ray.data.Dataset:
    """Units as rows of a dataset with settings of its own; those of the process stay."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False  # `Progress` shows one line that also knows the megabytes
    # One chunk in each of Ray's blocks: by default Ray Data gathers 128 MB for one worker.
    context.target_max_block_size = block_bytes
    context.op_resource_reservation_enabled = reserve
    # Ray Data would read each worker's memory map every second, which costs some of its CPU time.
    context.memory_usage_poll_interval_s = None
    rows = [{"item": pickle.dumps(unit)} for unit in units]
    with ray.data.DataContext.current(context):
        items = ray.data.from_items(rows, override_num_blocks=len(rows))
    items.set_name("prepare")  # on the dashboard, beside the statistics of its operators
    return items


def spread_on_cluster(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Call a function with each of the argument tuples, as Ray tasks."""
    connect()
    remote = ray.remote(num_cpus=1)(function)
    with _one_line():
        return ray.get([remote.remote(*each) for each in arguments])


def to_chunks(job: Job, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
    """A pickled unit to its pickled chunks, those that are not finished yet, and its end."""
    for item in chunks_or_failure(job, pickle.loads(row["item"])):
        yield {"item": pickle.dumps(item)}


def to_results(job: Job, row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A pickled unit, chunk or end to its results as JSON."""
    for result in or_failure(job, pickle.loads(row["item"])):
        yield {"result": result.model_dump_json()}
