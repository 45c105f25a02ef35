"""Work units through Ray Data: streams are read in one stage, text becomes shards in the next."""

from __future__ import annotations

import functools
import logging
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from pipeline.corpus.run.ledger import Result
from pipeline.corpus.run.units import Job, end_unit, failure, run_unit
from pipeline.corpus.text.reading import Chunk, End, read_unit
from pipeline.corpus.text.sources import Unit, shard_bytes
from pipeline.errors import NezhaError
from pipeline.ray_cluster import connect

QUEUED = 10_000
"""Tasks that Ray Data hands to Ray at a time, which starts as many as there are CPUs."""


def run_on_cluster(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Result]:
    """Results of all units, as they come."""
    if not units:
        return
    connect()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # More workers than units is nothing to warn of: the setting is for corpora of any size.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")
    cpus = math.ceil(ray.cluster_resources().get("CPU", 1))
    for streams, compose in ((False, _ranges), (True, _streams)):
        if chosen := [unit for unit in units if unit.stream == streams]:
            for row in compose(job, chosen, workers, cpus).iter_rows():
                yield Result.model_validate_json(row["result"])


def _ranges(job: Job, units: Sequence[Unit], workers: int, cpus: int) -> ray.data.Dataset:
    """Results of units that are read where they are worked on.

    Ray Data by itself gives a CPU its next task up to 0.2 s after the one before, and the second
    CPU its first one after a second: a tenth of the time of 16 MB. What it takes this care for,
    memory of what goes between tasks, is nothing here, so the tasks may wait at the workers' door.
    """
    dataset = _items(units, shard_bytes(job.settings), reserve=False)
    size = workers if 0 < workers < cpus else QUEUED
    return dataset.flat_map(functools.partial(make_shards, job), num_cpus=1, concurrency=size)


def _streams(job: Job, units: Sequence[Unit], workers: int, cpus: int) -> ray.data.Dataset:
    """Results of streams: one stage reads chunks, and waits when they pile up, the next works."""
    # Readers wait while their chunks do: with a CPU in hand they could keep the last one from
    # the stage that they wait for. Unlike needs also keep Ray Data from fusing the stages.
    chunks = _items(units, shard_bytes(job.settings), reserve=True).flat_map(
        functools.partial(read_streams, job), num_cpus=0, concurrency=workers or cpus
    )
    return chunks.flat_map(
        functools.partial(make_shards, job), num_cpus=1, concurrency=workers or None
    )


def _items(units: Sequence[Unit], block_bytes: int, reserve: bool) -> ray.data.Dataset:
    """Units as rows; a dataset takes the context's values when it is made."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # One chunk a block: else Ray Data gathers 128 MB of them for one worker.
    context.target_max_block_size = block_bytes
    context.op_resource_reservation_enabled = reserve
    # Ray Data would read each worker's memory map every second, which takes some of its CPU.
    context.memory_usage_poll_interval_s = None
    rows = [{"item": pickle.dumps(unit)} for unit in units]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def spread_on_cluster(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Call a function with each of the argument tuples, as Ray tasks."""
    connect()
    remote = ray.remote(num_cpus=1)(function)
    return ray.get([remote.remote(*each) for each in arguments])


def read_streams(job: Job, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
    """A stream becomes its chunks that are not finished yet, and its end."""
    try:
        for item in read_unit(pickle.loads(row["item"]), job.settings):
            if isinstance(item, End) or (item.unit, item.part) not in job.finished:
                yield {"item": pickle.dumps(item)}
    except (NezhaError, OSError) as error:
        yield {"item": pickle.dumps(failure(error, job))}


def make_shards(job: Job, row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A unit or chunk becomes shards and their results."""
    for result in _results(job, pickle.loads(row["item"])):
        yield {"result": result.model_dump_json()}


def _results(job: Job, item: Unit | Chunk | End | Result) -> Iterator[Result]:
    if isinstance(item, Unit):
        yield from run_unit(job, item)
        return
    try:
        if isinstance(item, Chunk):
            item = job.work(job, item)
        elif isinstance(item, End):
            item = end_unit(job, item)
        yield item
    except (NezhaError, OSError) as error:
        yield failure(error, job)
